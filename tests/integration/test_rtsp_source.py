"""The CPU source against the simulator: every codec and transport, every fault and the code that it gets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import re
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.backends.ffmpeg.source import PyavSource
from app.cameras.doctor import diagnose
from app.cameras.source import DecodeEffort, SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.simulator.auth import AuthScheme
from app.simulator.clip import Clip, load_clip
from app.simulator.server import RtspServer, ServerOptions
from app.types import FrameTimes, StreamInfo
from tests.support.clips import Codec, read_frame_number, write_test_clip
from tests.support.wait import wait_until

FPS = 50
GOP = 5
FRAMES = 40
# Where a time-out is what the test waits for; elsewhere a busy machine must not look like one, from half of this on.
STALL_S = 0.5
PATIENT_S = 5.0
BUSY_S = 10.0  # what a busy machine may add
TIMEOUTS = {SourceErrorCode.CONNECT_TIMEOUT, SourceErrorCode.READ_TIMEOUT}
PASSWORD = "p@ss:w/ö#%?"

CLIPS: dict[str, tuple[Codec, int]] = {
    "h264": ("h264", 0),
    "hevc": ("hevc", 0),
    "mjpeg": ("mjpeg", 0),
    "av1": ("av1", 0),
    "h264-b": ("h264", 2),
    "hevc-b": ("hevc", 2),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Clip]:
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for name, (codec, b_frames) in CLIPS.items():
        path = folder / f"{name}.mp4"
        write_test_clip(
            path, codec=codec, width=192, height=128, fps=FPS, gop=GOP, seconds=FRAMES / FPS, b_frames=b_frames
        )
        made[name] = load_clip(path)
    wide = write_test_clip(folder / "wide.mp4", width=256, height=144, fps=FPS, gop=GOP, seconds=FRAMES / FPS)
    return {**made, "wide": load_clip(wide)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    number: int  # that the camera drew into the picture
    pts_s: float | None
    times: FrameTimes
    info: StreamInfo | None


class Viewing:
    """A `PyavSource` that is read in a thread, and what came of it."""

    def __init__(self, url: str, *, max_fps: float | None = None, pause_s: float = 0.0, **more: Any) -> None:
        tls_ca_file = more.pop("tls_ca_file", None)
        request = SourceRequest(camera_id="cam", url=url, **{"stall_timeout_s": PATIENT_S, **more})
        self.source = PyavSource(request, tls_ca_file=tls_ca_file)
        self.source.pace(max_fps)
        self.seen: list[Seen] = []
        self.error: SourceError | None = None
        self.ended_at: float | None = None
        self._pause_s = pause_s
        self._thread = threading.Thread(target=self._read, name="camera:viewing")
        self._thread.start()

    @property
    def numbers(self) -> list[int]:
        return [seen.number for seen in self.seen]

    @property
    def code(self) -> SourceErrorCode | None:
        return None if self.error is None else self.error.code

    def _read(self) -> None:
        try:
            for frame in self.source.frames():
                number = read_frame_number(frame.surface.to_bgr())
                frame.surface.release()
                self.seen.append(Seen(number=number, pts_s=frame.pts_s, times=frame.times, info=self.source.info))
                time.sleep(self._pause_s)
        except SourceError as exc:
            self.error = exc
        finally:
            self.source.close()
            self.ended_at = time.monotonic()

    async def frames(self, count: int) -> list[Seen]:
        """Wait for `count` frames from now on and give them; fail at once when the source fails."""
        start = len(self.seen)
        await wait_until(lambda: len(self.seen) >= start + count or self.ended_at, what=f"{count} frames")
        assert self.error is None, self.error
        return self.seen[start:]

    async def end(self) -> SourceErrorCode | None:
        """Wait until the source ends by itself, and give the code of its error."""
        await wait_until(lambda: self.ended_at)
        return self.code

    async def stop(self) -> None:
        self.source.interrupt()
        await wait_until(lambda: not self._thread.is_alive())


@contextlib.asynccontextmanager
async def viewing(url: str, **more: Any) -> AsyncIterator[Viewing]:
    view = Viewing(url, **more)
    try:
        yield view
    finally:
        await view.stop()


@contextlib.asynccontextmanager
async def serving(clip: Clip, options: ServerOptions | None = None, **more: Any) -> AsyncIterator[RtspServer]:
    """A server with one camera, `cam`."""
    async with RtspServer(options) as server:
        server.add_camera("cam", clip, **more)
        yield server


def follows(numbers: list[int]) -> bool:
    """Whether each picture is the one after the one before, in a clip that repeats."""
    return len(numbers) > 1 and all((after - before) % FRAMES == 1 for before, after in itertools.pairwise(numbers))


@pytest.mark.parametrize("name", CLIPS)
async def test_every_codec_gives_every_picture_in_order(clips: Mapping[str, Clip], name: str) -> None:
    async with serving(clips[name]) as server, viewing(server.url("cam")) as view:
        seen = await view.frames(12)
    assert follows(view.numbers)
    info = seen[0].info
    assert info is not None
    assert (info.codec, info.width, info.height, info.decoder) == (CLIPS[name][0], 192, 128, "software")
    if info.codec in ("h264", "hevc"):
        assert info.declared_fps == FPS
    pts = [frame.pts_s for frame in seen if frame.pts_s is not None]
    assert len(pts) == len(seen)
    # The first packet of a camera has no date; its frame gets one that is right within a few milliseconds.
    steps = [after - before for before, after in itertools.pairwise(pts)]
    assert steps[0] == pytest.approx(1 / FPS, abs=0.015)
    assert steps[1:] == pytest.approx([1 / FPS] * (len(pts) - 2), abs=1e-3)
    assert view.source.stats.undecodable == 0
    assert view.source.stats.lag_s < 0.5


@pytest.mark.parametrize("transport", ["auto", "tcp", "udp"])
async def test_every_transport_works(clips: Mapping[str, Clip], transport: str) -> None:
    async with serving(clips["h264"]) as server, viewing(server.url("cam"), transport=transport) as view:
        await view.frames(6)
    assert follows(view.numbers)


async def test_audio_before_the_video_is_left_out(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264"], audio_first=True) as server, viewing(server.url("cam")) as view:
        await view.frames(6)
    assert follows(view.numbers)


async def test_parameter_sets_in_the_stream_alone_suffice(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["hevc"], sprop=False) as server, viewing(server.url("cam")) as view:
        await view.frames(6)
    assert follows(view.numbers)


async def _relay_without_tcp(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass requests and answers on, but answer 461 to RTP over TCP."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

    async def answers() -> None:
        while data := await inner_reader.read(4096):
            writer.write(data)

    passing = asyncio.create_task(answers())
    try:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            cseq = re.search(rb"CSeq: \d+", request)
            if cseq and request.startswith(b"SETUP") and b"RTP/AVP/TCP" in request:
                writer.write(b"RTSP/1.0 461 Unsupported Transport\r\n" + cseq[0] + b"\r\n\r\n")
            else:
                inner_writer.write(request)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        passing.cancel()
        inner_writer.close()
        writer.close()


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server of ours on loopback. Gives its URL."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/cam"
    finally:
        server.close()
        await server.wait_closed()


async def test_auto_takes_udp_when_the_camera_refuses_tcp(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264"]) as server, listening(partial(_relay_without_tcp, server.port)) as url:
        async with viewing(url, transport="auto") as view:
            await view.frames(6)
        assert follows(view.numbers)
        async with viewing(url, transport="tcp") as view:
            assert await view.end() is SourceErrorCode.NO_VIDEO
        assert view.error is not None
        assert view.error.message.endswith("does not offer the transport that is set")


SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"


@pytest.mark.parametrize(
    ("media", "code"),
    [
        ("m=audio 0 RTP/AVP 0\r\na=control:0\r\n", SourceErrorCode.NO_VIDEO),
        ("", SourceErrorCode.NO_VIDEO),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 X-SECRET/90000\r\na=control:0\r\n", SourceErrorCode.UNSUPPORTED_CODEC),
    ],
)
async def test_a_description_that_is_no_use_has_its_code(media: str, code: SourceErrorCode) -> None:
    body = (SDP + media).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                cseq = re.search(rb"CSeq: \d+", request)
                head = b"RTSP/1.0 200 OK\r\n" + (cseq[0] if cseq else b"CSeq: 0") + b"\r\n"
                if request.startswith(b"DESCRIBE"):
                    head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                elif request.startswith(b"SETUP"):
                    head += b"Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
                else:
                    head += b"Session: 1\r\n\r\n"
                writer.write(head)
        writer.close()

    # Longer than any machine takes to answer: what is later than half of this is a time-out.
    async with listening(serve) as url, viewing(url, stall_timeout_s=2.0) as view:
        assert await view.end() is code, view.error


@pytest.mark.parametrize("auth", ["digest", "basic"])
async def test_any_password_gets_through_and_none_gets_out(clips: Mapping[str, Clip], auth: AuthScheme) -> None:
    options = ServerOptions(auth=auth, username="admin", password=PASSWORD)
    async with serving(clips["h264"], options) as server:
        async with viewing(server.url("cam"), username="admin", password=PASSWORD) as view:
            await view.frames(3)
        async with viewing(server.url("cam", credentials=True)) as view:
            await view.frames(3)
        for wrong in ({}, {"username": "admin", "password": "guess-guess"}, {"username": "admin"}):
            async with viewing(server.url("cam"), **wrong) as view:
                assert await view.end() is SourceErrorCode.AUTH_FAILED
            text = "".join(traceback.format_exception(view.error)) if view.error else ""
            assert "AUTH_FAILED" in repr(view.code)
            assert "guess" not in text
            assert "admin" not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    options: ServerOptions
    authority: Path
    stranger: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    return Certificates(
        options=ServerOptions(certificate=folder / "cert.pem", key=folder / "key.pem"),
        authority=folder / "authority.pem",
        stranger=folder / "stranger.pem",
    )


@pytest.mark.parametrize("transport", ["auto", "udp"])
async def test_an_encrypted_camera_is_read_whoever_signed_it(
    clips: Mapping[str, Clip], certificates: Certificates, transport: str
) -> None:
    # The simulator offers no UDP beside TLS, so this also shows that the video stays inside the connection.
    async with (
        serving(clips["h264"], certificates.options) as server,
        viewing(server.url("cam"), transport=transport) as view,
    ):
        await view.frames(6)
    assert follows(view.numbers)


async def test_a_certificate_is_verified_when_an_authority_is_named(
    clips: Mapping[str, Clip], certificates: Certificates
) -> None:
    async with serving(clips["h264"], certificates.options) as server:
        async with viewing(server.url("cam"), tls_ca_file=certificates.authority) as view:
            await view.frames(3)
        async with viewing(server.url("cam"), tls_ca_file=certificates.stranger) as view:
            assert await view.end() is SourceErrorCode.TLS_FAILED


async def test_a_camera_that_does_not_encrypt_fails_the_handshake(clips: Mapping[str, Clip]) -> None:
    async with (
        serving(clips["h264"]) as server,
        viewing(server.url("cam").replace("rtsp:", "rtsps:"), stall_timeout_s=STALL_S) as view,
    ):
        assert await view.end() in (SourceErrorCode.TLS_FAILED, SourceErrorCode.CONNECT_TIMEOUT)


@pytest.mark.parametrize("name", ["h264", "mjpeg"])
async def test_a_silent_encrypted_camera_times_out(
    clips: Mapping[str, Clip], certificates: Certificates, name: str
) -> None:
    async with (
        serving(clips[name], certificates.options) as server,
        viewing(server.url("cam"), stall_timeout_s=STALL_S) as view,
    ):
        await view.frames(3)
        server.set_fault("cam", "stall")
        assert await view.end() is SourceErrorCode.READ_TIMEOUT


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("refuse", SourceErrorCode.CONNECTION_REFUSED),
        ("unauthorized", SourceErrorCode.AUTH_FAILED),
        ("missing", SourceErrorCode.NOT_FOUND),
        ("mute", SourceErrorCode.CONNECT_TIMEOUT),
        ("stall", SourceErrorCode.READ_TIMEOUT),
    ],
)
async def test_a_camera_that_cannot_be_opened_has_its_code(
    clips: Mapping[str, Clip], fault: str, code: SourceErrorCode
) -> None:
    async with serving(clips["h264"]) as server:
        server.set_fault("cam", fault)
        stall_s = STALL_S if code in TIMEOUTS else PATIENT_S
        started_at = time.monotonic()
        async with viewing(server.url("cam"), stall_timeout_s=stall_s) as view:
            assert await view.end() is code
        assert time.monotonic() - started_at < stall_s + BUSY_S
        assert view.seen == []
        server.set_fault("cam", "ok")
        async with viewing(server.url("cam")) as view:
            await view.frames(3)


BROKEN = {SourceErrorCode.READ_TIMEOUT, SourceErrorCode.END_OF_STREAM, SourceErrorCode.DECODE_FAILED}


@pytest.mark.parametrize(
    ("name", "fault", "codes"),
    [
        ("h264", "stall", {SourceErrorCode.READ_TIMEOUT}),
        ("mjpeg", "stall", {SourceErrorCode.READ_TIMEOUT}),
        ("h264", "mute", {SourceErrorCode.READ_TIMEOUT}),
        ("h264", "close", {SourceErrorCode.END_OF_STREAM}),
        ("av1", "eof", {SourceErrorCode.END_OF_STREAM}),
        ("h264", "flap=0.1", {SourceErrorCode.END_OF_STREAM}),
        ("h264", "missing", {SourceErrorCode.END_OF_STREAM}),
        ("h264", "garbage", BROKEN),
        ("mjpeg", "garbage", BROKEN),
    ],
)
async def test_a_camera_that_fails_while_it_runs_has_its_code(
    clips: Mapping[str, Clip], name: str, fault: str, codes: set[SourceErrorCode]
) -> None:
    stall_s = STALL_S if codes & TIMEOUTS else PATIENT_S
    async with serving(clips[name]) as server, viewing(server.url("cam"), stall_timeout_s=stall_s) as view:
        await view.frames(5)
        failed_at = time.monotonic()
        server.set_fault("cam", fault)
        assert await view.end() in codes
        assert view.ended_at is not None
        took_s = view.ended_at - failed_at
        assert took_s < stall_s + BUSY_S
        if codes == {SourceErrorCode.READ_TIMEOUT}:
            assert took_s > stall_s - 0.2


async def test_a_stall_over_udp_times_out(clips: Mapping[str, Clip]) -> None:
    async with (
        serving(clips["h264"]) as server,
        viewing(server.url("cam"), transport="udp", stall_timeout_s=STALL_S) as view,
    ):
        await view.frames(3)
        server.set_fault("cam", "stall")
        assert await view.end() is SourceErrorCode.READ_TIMEOUT


async def test_a_pause_shorter_than_the_stall_timeout_is_bridged(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264"]) as server, viewing(server.url("cam"), stall_timeout_s=3.0) as view:
        await view.frames(3)
        server.set_fault("cam", "stall")
        # The picture that the parser still held comes out when reading has timed out for the first time.
        await wait_until(lambda: view.seen[-1].times.arrived_at - view.seen[-2].times.arrived_at > 0.5)
        server.set_fault("cam", "ok")
        await view.frames(10)
        assert not view.source.stats.skipped


async def test_video_that_cannot_be_decoded_is_told_apart_from_silence(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["av1"]) as server, viewing(server.url("cam"), stall_timeout_s=STALL_S) as view:
        await view.frames(3)
        server.set_fault("cam", "corrupt=1")
        assert await view.end() is SourceErrorCode.DECODE_FAILED
        assert view.source.stats.packets > view.source.stats.frames


async def test_damage_here_and_there_is_tolerated_and_counted(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264"]) as server, viewing(server.url("cam")) as view:
        await view.frames(3)
        server.set_fault("cam", "corrupt=0.3")
        await wait_until(lambda: view.source.stats.corrupt_frames > 2)
        server.set_fault("cam", "ok")
        await view.frames(2 * GOP)
        last = await view.frames(10)
    assert follows([frame.number for frame in last])


async def test_a_new_picture_size_goes_on_and_is_told(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264"]) as server, viewing(server.url("cam")) as view:
        server.add_clip(clips["wide"])
        await view.frames(5)
        server.set_fault("cam", "resolution=wide")
        await wait_until(lambda: view.seen[-1].info and view.seen[-1].info.width == 256)
        await view.frames(5)
    sizes = [(seen.info.width, seen.info.height) for seen in view.seen if seen.info]
    assert {size for size, _ in itertools.groupby(sizes)} == {(192, 128), (256, 144)}
    assert len(list(itertools.groupby(sizes))) == 2


async def test_a_camera_that_sends_no_more_keyframes_is_given_up_rather_than_waited_for(
    clips: Mapping[str, Clip], tmp_path: Path
) -> None:
    once = write_test_clip(tmp_path / "once.mp4", width=192, height=128, fps=FPS, gop=1000, seconds=8)
    async with serving(clips["h264"]) as server, viewing(server.url("cam"), stall_timeout_s=1.0) as view:
        server.add_clip(await asyncio.to_thread(load_clip, once))
        await view.frames(3 * GOP)
        server.set_fault("cam", "resolution=once")
        view.source.pace(None, DecodeEffort.KEYFRAMES)
        assert await view.end() is SourceErrorCode.DECODE_FAILED
    assert view.error is not None
    assert "no keyframe" in view.error.message


@pytest.mark.parametrize("jump_s", [100.0, -100.0])
async def test_a_jump_of_the_cameras_clock_is_passed_on_and_loses_nothing(
    clips: Mapping[str, Clip], jump_s: float
) -> None:
    async with serving(clips["h264"]) as server, viewing(server.url("cam")) as view:
        await view.frames(5)
        server.set_fault("cam", f"jump={jump_s:g}")
        await view.frames(10)
    assert follows(view.numbers)
    pts = [seen.pts_s for seen in view.seen if seen.pts_s is not None]
    steps = [after - before for before, after in itertools.pairwise(pts)]
    assert [step for step in steps if abs(step) > 1] == [pytest.approx(jump_s, abs=0.1)]


async def test_a_sender_report_dates_the_frames(clips: Mapping[str, Clip]) -> None:
    behind_s = 10.0
    async with RtspServer(wall=lambda: time.time() - behind_s) as server:
        server.add_camera("cam", clips["mjpeg"])
        opened_utc = time.time()
        async with viewing(server.url("cam")) as view:
            seen = await view.frames(10)
            now_utc = time.time()
    assert seen[-1].times.clock == "rtcp"
    assert opened_utc - 0.3 <= seen[-1].times.captured_utc + behind_s <= now_utc + 0.3


@pytest.mark.parametrize("fault", ["skew=7200", "skew=-7200", "jump=3600", "jump=-3600"])
async def test_a_date_that_cannot_be_is_replaced_by_the_arrival(clips: Mapping[str, Clip], fault: str) -> None:
    async with serving(clips["mjpeg"]) as server:
        server.add_camera("skewed", clips["mjpeg"])
        async with viewing(server.url("skewed")) as view:
            await wait_until(lambda: view.seen and view.seen[-1].times.clock == "rtcp")
            server.set_fault("skewed", fault)
            await wait_until(lambda: view.seen[-1].times.clock == "arrival")
            assert abs(time.time() - view.seen[-1].times.captured_utc) < 30.0


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("audio", SourceErrorCode.NO_VIDEO),
        ("empty", SourceErrorCode.NO_VIDEO),
        ("zero", SourceErrorCode.END_OF_STREAM),
        ("trickle", SourceErrorCode.CONNECT_TIMEOUT),
        ("vanish", SourceErrorCode.CONNECT_TIMEOUT),
        ("hole", SourceErrorCode.CONNECT_TIMEOUT),
    ],
)
async def test_a_camera_that_shows_nothing_has_its_code(
    clips: Mapping[str, Clip], fault: str, code: SourceErrorCode
) -> None:
    async with serving(clips["h264"]) as server:
        server.set_fault("cam", fault)
        async with viewing(server.url("cam"), stall_timeout_s=STALL_S if code in TIMEOUTS else PATIENT_S) as view:
            assert await view.end() is code
        assert view.seen == []


async def test_keyframes_suffice_for_a_slow_pace_and_everything_comes_back(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["h264-b"]) as server, viewing(server.url("cam"), max_fps=5.0) as view:
        await wait_until(lambda: view.source.stats.skipped)
        keyframes = await view.frames(4)
        assert all(frame.number % GOP == 0 for frame in keyframes[1:])
        view.source.pace(None)
        await view.frames(1)
        skipped = view.source.stats.skipped
        everything = await view.frames(20)
        assert view.source.stats.skipped <= skipped + GOP
    assert follows([frame.number for frame in everything[GOP:]])


async def test_a_reader_that_is_too_slow_sheds_its_lag_and_says_so(clips: Mapping[str, Clip]) -> None:
    # 50 fps come, 25 are read: without shedding the lag would grow by half a second each second.
    async with serving(clips["h264"]) as server, viewing(server.url("cam"), pause_s=0.04) as view:
        await wait_until(lambda: view.source.stats.lag_s > 0.5, what="the lag shows")
        await wait_until(lambda: view.source.stats.skipped, what="the lag is shed")
        await wait_until(lambda: view.source.stats.lag_s < 0.3, what="the lag is gone")
        assert view.error is None


async def test_an_interrupt_ends_a_running_and_a_silent_source_quietly(clips: Mapping[str, Clip]) -> None:
    stall_s = 2.0
    for fault in ("ok", "stall"):
        async with serving(clips["h264"]) as server, viewing(server.url("cam"), stall_timeout_s=stall_s) as view:
            await view.frames(3)
            server.set_fault("cam", fault)
            view.source.interrupt()
            started_at = time.monotonic()
            assert await view.end() is None
            assert time.monotonic() - started_at < 0.95 * stall_s  # silence is looked up from in half of that


def _held() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_opening_again_and_again_leaves_nothing_behind(clips: Mapping[str, Clip]) -> None:
    def read_one(url: str) -> None:
        source = PyavSource(SourceRequest(camera_id="cam", url=url, stall_timeout_s=PATIENT_S))
        frames = source.frames()
        with contextlib.suppress(SourceError):
            next(frames)
        source.close()

    async with serving(clips["h264"]) as server:
        urls = [server.url("cam"), server.url("cam") + "x", "rtsp://127.0.0.1:1/x"]
        loop = asyncio.get_running_loop()

        async def read(times: int) -> None:
            await loop.run_in_executor(thread, list, map(read_one, urls * times))
            await wait_until(lambda: server.stats()["cam"].clients == 0)

        with ThreadPoolExecutor(max_workers=1) as thread:
            await read(5)
            held, resident = _held(), _resident_bytes()
            await read(20)
            # The server's side of the last connection may be counted before, and be closed by now.
            await wait_until(lambda: all(now <= then for now, then in zip(_held(), held, strict=True)))
            # What PyAV keeps of a demuxer that is not closed is 100 KB each time.
            assert _resident_bytes() - resident < 3_000_000


async def test_a_decoder_has_no_threads_of_its_own(clips: Mapping[str, Clip]) -> None:
    async with serving(clips["av1"]) as server:
        before = set(os.listdir("/proc/self/task"))
        async with viewing(server.url("cam")) as view:
            await view.frames(5)
            assert len(set(os.listdir("/proc/self/task")) - before) == 1  # one of before may just be ending


async def test_the_doctor_passes_a_healthy_camera_and_finds_what_ails_others(clips: Mapping[str, Clip]) -> None:
    options = ServerOptions(auth="digest", username="admin", password=PASSWORD)
    async with serving(clips["h264"], options) as server:

        async def ail(
            fault: str, password: str = PASSWORD, timeout_s: float = 15.0
        ) -> tuple[list[str], SourceErrorCode | None]:
            server.set_fault("cam", fault)
            request = SourceRequest(camera_id="doctor", url=server.url("cam"), username="admin", password=password)
            diagnosis = await diagnose(request, open_source=PyavSource, timeout_s=timeout_s)
            return [result.step for result in diagnosis.steps if result.state == "failed"], diagnosis.code

        assert await ail("ok") == ([], None)
        assert await ail("ok", password="wrong-wrong") == (["auth"], SourceErrorCode.AUTH_FAILED)
        assert await ail("missing") == (["sdp"], SourceErrorCode.NOT_FOUND)
        assert await ail("mute", timeout_s=1.5) == (["rtsp"], SourceErrorCode.CONNECT_TIMEOUT)
        assert await ail("stall", timeout_s=1.5) == (["first_packet"], SourceErrorCode.READ_TIMEOUT)
