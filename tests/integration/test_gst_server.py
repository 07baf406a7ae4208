"""The CPU source against a server that this project did not write: GStreamer's."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.backends.ffmpeg.source import PyavSource
from app.cameras.source import SourceRequest
from app.errors import SourceError, SourceErrorCode
from tests.support.clips import Codec, read_frame_number, write_test_clip

PYTHON = "/usr/bin/python3"  # the one that Debian's packages install into
SERVER = Path(__file__).parents[1] / "support" / "gst_server.py"
PASSWORD = "p@ss:w/ö#%?"
FPS = 50
FRAMES = 30
CODECS: dict[str, Codec] = {"h264": "h264", "h265": "hevc", "jpeg": "mjpeg"}


def _missing() -> str | None:
    try:
        check = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"
        found = subprocess.run([PYTHON, "-c", check], capture_output=True, timeout=20, check=False)
    except OSError:
        return f"there is no {PYTHON}"
    return None if found.returncode == 0 else "Debian's gir1.2-gst-rtsp-server-1.0 and python3-gi are not installed"


MISSING = _missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_test_clip(folder / f"{name}.mp4", codec=codec, fps=FPS, gop=5, seconds=FRAMES / FPS)
        for name, codec in CODECS.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    def url(self, name: str, scheme: str = "rtsp") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where GStreamer keeps what it knows of its plugins, instead of in the home folder."""
    return tmp_path_factory.mktemp("gst") / "registry.bin"


@contextlib.contextmanager
def serving(clips: Mapping[str, Path], registry: Path, *options: str) -> Iterator[Server]:
    mounts = [f"{name}={path}:{name}" for name, path in clips.items()]
    process = subprocess.Popen(
        [PYTHON, str(SERVER), *options, *mounts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"GST_REGISTRY": str(registry), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            readable, _, _ = select.select([process.stdout], [], [], 30)
            assert readable, "GStreamer's server did not start"
            yield Server(process=process, port=int(process.stdout.readline()))
        finally:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


@pytest.fixture(scope="module")
def server(clips: Mapping[str, Path], registry: Path) -> Iterator[Server]:
    with serving(clips, registry) as running:
        yield running


@dataclass(slots=True)
class Seen:
    numbers: list[int] = field(default_factory=list)
    error: SourceError | None = None
    codec: str | None = None


def look(url: str, *, frames: int | None = None, signal_at: tuple[int, int, Server] | None = None, **more: Any) -> Seen:
    """Read `frames` frames or up to an error. `signal_at`: after so many frames, send this signal to that server."""
    request = SourceRequest(camera_id="cam", url=url, **{"stall_timeout_s": 5.0, **more})
    source = PyavSource(request)
    seen = Seen()
    try:
        for frame in source.frames():
            seen.numbers.append(read_frame_number(frame.surface.to_bgr()))
            frame.surface.release()
            if signal_at is not None and len(seen.numbers) == signal_at[0]:
                signal_at[2].process.send_signal(signal_at[1])
            if len(seen.numbers) == frames:
                break
    except SourceError as exc:
        seen.error = exc
    finally:
        seen.codec = source.info.codec if source.info else None
        source.close()
    return seen


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("name", CODECS)
def test_every_codec_and_transport_gives_every_picture_in_order(server: Server, name: str, transport: str) -> None:
    seen = look(server.url(name), frames=10, transport=transport)
    assert seen.error is None
    assert seen.numbers == list(range(seen.numbers[0], seen.numbers[0] + 10))
    assert seen.codec == CODECS[name]


def test_the_end_of_the_stream_comes_after_the_last_picture(server: Server) -> None:
    seen = look(server.url("h264"))
    assert seen.numbers == list(range(FRAMES))
    assert seen.error is not None
    assert seen.error.code is SourceErrorCode.END_OF_STREAM


def test_an_unknown_path_is_not_found(server: Server) -> None:
    seen = look(server.url("nothing"))
    assert seen.error is not None
    assert seen.error.code is SourceErrorCode.NOT_FOUND


def test_digest_takes_any_password_and_refuses_a_wrong_one(clips: Mapping[str, Path], registry: Path) -> None:
    with serving(clips, registry, "--user", "admin", "--password", PASSWORD) as server:
        assert len(look(server.url("h264"), frames=3, username="admin", password=PASSWORD).numbers) == 3
        for username, password in ((None, None), ("admin", "guess")):
            error = look(server.url("h264"), username=username, password=password).error
            assert error is not None
            assert error.code is SourceErrorCode.AUTH_FAILED


def test_an_encrypted_stream_is_read(clips: Mapping[str, Path], registry: Path, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    with serving(clips, registry, "--tls", str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")) as server:
        seen = look(server.url("h264", "rtsps"), frames=5)
    assert seen.error is None
    assert len(seen.numbers) == 5


@pytest.mark.parametrize(
    ("number", "code", "stall_s"),
    [(signal.SIGKILL, SourceErrorCode.END_OF_STREAM, 5.0), (signal.SIGSTOP, SourceErrorCode.READ_TIMEOUT, 1.0)],
)
def test_a_server_that_dies_or_freezes_has_its_code(
    clips: Mapping[str, Path], registry: Path, number: int, code: SourceErrorCode, stall_s: float
) -> None:
    with serving(clips, registry) as server:
        seen = look(server.url("jpeg"), signal_at=(5, number, server), stall_timeout_s=stall_s)
        server.process.kill()  # a frozen one would not notice its closed input
    assert len(seen.numbers) >= 5
    assert seen.error is not None
    assert seen.error.code is code
