"""No camera URL, file or redirect makes us reach what cameras may not be on. Against the real FFmpeg."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest

from app.backends.ffmpeg.open import _options, _urls
from app.backends.ffmpeg.source import PyavSource
from app.cameras.doctor import diagnose
from app.cameras.hosts import HostList, HostPolicy
from app.cameras.source import SourceRequest
from app.cameras.urls import parse_camera_url
from app.errors import SourceError, SourceErrorCode
from tests.support.app import API, StartApp
from tests.support.clips import write_test_clip

DENIED = "127.0.0.9"  # all of 127.0.0.0/8 is this machine: the deny list tells one part of it from another
HOSTS = HostPolicy(deny=HostList.parse([DENIED]))


@dataclass
class Listener:
    """A real TCP server that answers each RTSP request with `answer`, and keeps what it was sent."""

    answer: Callable[[str], str] = lambda method: "RTSP/1.0 404 Not Found\r\n"
    heard: list[bytes] = field(default_factory=list)
    port: int = 0
    connections: int = 0


@contextmanager
def listener(host: str = "127.0.0.1", answer: Callable[[str], str] | None = None) -> Iterator[Listener]:
    made = Listener() if answer is None else Listener(answer)
    with socket.create_server((host, 0)) as server:
        made.port = server.getsockname()[1]

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                made.connections += 1
                with connection:
                    connection.settimeout(5)
                    if not _talk(connection, made):
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield made
        finally:
            made.connections -= 1
            with socket.create_connection((host, made.port)) as last:
                last.sendall(b"QUIT\r\n\r\n")
            thread.join(10)


def _talk(connection: socket.socket, listener: Listener) -> bool:
    data = b""
    while True:
        try:
            data += (more := connection.recv(4096))
        except OSError:
            return True
        if not more:
            return True
        while b"\r\n\r\n" in data:
            head, data = data.split(b"\r\n\r\n", 1)
            if head == b"QUIT":
                return False
            listener.heard.append(head)
            number = re.search(rb"CSeq: (\d+)", head)
            method = head.split(b" ")[0].decode()
            text = listener.answer(method) + f"CSeq: {number[1].decode() if number else 0}\r\n\r\n"
            connection.sendall(text.encode())


def redirecting(location: str, methods: tuple[str, ...] = ("DESCRIBE",)) -> Callable[[str], str]:
    def answer(method: str) -> str:
        if method in methods:
            return f"RTSP/1.0 302 Moved\r\nLocation: {location}\r\n"
        return "RTSP/1.0 200 OK\r\nPublic: DESCRIBE\r\n"

    return answer


def failure(url: str, **more: Any) -> SourceError:
    request = SourceRequest(camera_id="cam", url=url, **{"stall_timeout_s": 2.0, "hosts": HOSTS, **more})
    source = PyavSource(request)
    try:
        for frame in source.frames():
            frame.surface.release()
            raise AssertionError("a picture came")
        raise AssertionError("it ended without an error")
    except SourceError as exc:
        return exc
    finally:
        source.close()


# Redirects


@pytest.mark.parametrize("methods", [("OPTIONS",), ("DESCRIBE",)])
@pytest.mark.parametrize("transport", ["auto", "tcp", "udp"])
def test_a_redirect_to_a_denied_host_reaches_nobody(methods: tuple[str, ...], transport: str) -> None:
    with (
        listener(DENIED) as victim,
        listener(answer=redirecting(f"rtsp://{DENIED}:{victim.port}/x", methods)) as camera,
    ):
        error = failure(f"rtsp://127.0.0.1:{camera.port}/1", transport=transport)
        assert error.code is SourceErrorCode.FORBIDDEN_URL
        assert error.message == (
            f"127.0.0.1:{camera.port} redirects to a place that is not allowed: "
            f"host is on cameras.deny_hosts ({DENIED}), where no camera may be"
        )
        assert camera.heard
        assert (victim.connections, victim.heard) == (0, [])


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "tcp://127.0.0.1:{port}",
        "data:video/mp4;base64,AAAA",
        "crypto:rtsp://127.0.0.1:{port}/",
        "concat:rtsp://127.0.0.1:{port}/",
        "subfile,,start,0,end,0,,:rtsp://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "/etc/passwd",
        "satip://127.0.0.1:{port}/",
        "rtsp://2130706441:{port}/",
        "rtsp://[::ffff:127.0.0.9]:{port}/",
        "rtsp://",
        "",
    ],
)
def test_a_redirect_to_anything_but_an_allowed_rtsp_url_reaches_nobody(location: str) -> None:
    with listener() as victim, listener(answer=redirecting(location.format(port=victim.port))) as camera:
        error = failure(f"rtsp://127.0.0.1:{camera.port}/1")
        # FFmpeg itself takes only rtsp:// and rtsps:// for a redirect; the others are no answer at all.
        assert error.code in (SourceErrorCode.FORBIDDEN_URL, SourceErrorCode.NO_VIDEO)
        assert (victim.connections, victim.heard) == (0, [])


def test_a_redirect_to_an_allowed_host_is_followed_with_the_password_only_to_the_same_host() -> None:
    challenge = 'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\n'
    for host, known in (("127.0.0.1", True), ("127.0.0.2", False)):
        with (
            listener(host, answer=lambda method: challenge) as other,
            listener(answer=redirecting(f"rtsp://{host}:{other.port}/2")) as camera,
        ):
            error = failure(f"rtsp://127.0.0.1:{camera.port}/1", username="admin", password="hunter2")
            assert error.code is SourceErrorCode.AUTH_FAILED
            assert any(b"Authorization" in head for head in other.heard) is known


def test_a_redirect_in_a_circle_ends() -> None:
    with listener() as camera:
        camera.answer = redirecting(f"rtsp://127.0.0.1:{camera.port}/again")
        error = failure(f"rtsp://127.0.0.1:{camera.port}/1")
        assert (error.code, camera.connections) == (SourceErrorCode.NOT_FOUND, 4)
        assert error.message == f"127.0.0.1:{camera.port} redirects again and again"


def test_ffmpeg_itself_would_follow_a_redirect() -> None:
    """What the tests above are there for: without our guard the victim is reached."""
    with listener() as victim, listener(answer=redirecting(f"rtsp://127.0.0.1:{victim.port}/x")) as camera:
        with pytest.raises(av.FFmpegError):
            av.open(f"rtsp://127.0.0.1:{camera.port}/1", format="rtsp", options={"rtsp_transport": "tcp"}, timeout=2)
        assert victim.heard


# Names


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Have every look-up of camera.test answered by the next of these addresses; the last one stays."""
    left, asked = list(answers), []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "camera.test":
            return real(host, port, *args, **more)
        asked.append(host)
        return real(left.pop(0) if len(left) > 1 else left[0], port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_that_leads_to_a_denied_address_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, DENIED)
    with listener(DENIED) as victim:
        error = failure(f"rtsp://camera.test:{victim.port}/1")
        assert error.code is SourceErrorCode.FORBIDDEN_URL
        assert victim.connections == 0


def test_a_name_is_looked_up_once_and_its_checked_address_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as camera, listener(DENIED) as victim:
        asked = answering(monkeypatch, "127.0.0.1", DENIED)
        error = failure(f"rtsp://camera.test:{camera.port}/1", username="admin", password="hunter2")
        # FFmpeg's own look-up would have failed: the C library knows no camera.test.
        assert (error.code, asked) == (SourceErrorCode.NOT_FOUND, ["camera.test"])
        assert error.message == f"camera.test:{camera.port} has no stream at this path"
        assert victim.connections == 0


def test_an_encrypted_camera_with_one_denied_address_is_opened_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        return [answer for address in (DENIED, "127.0.0.1") for answer in real(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    camera = parse_camera_url("rtsps://camera.test/1")
    assert _urls(camera, HOSTS) == ["rtsps://127.0.0.1/1"]  # FFmpeg would try every address of a name
    assert _urls(camera, HostPolicy()) == ["rtsps://camera.test/1"]


async def test_the_doctor_obeys_the_same_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, DENIED)
    with listener(DENIED) as victim:
        request = SourceRequest(camera_id="doctor", url=f"rtsp://camera.test:{victim.port}/1", hosts=HOSTS)
        diagnosis = await diagnose(request, open_source=PyavSource)
        assert (diagnosis.code, victim.connections) == (SourceErrorCode.FORBIDDEN_URL, 0)
        assert [step.state for step in diagnosis.steps] == ["failed"] + ["skipped"] * 7


# The API


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xA9FEA9FE", "[::ffff:169.254.169.254]", "0.0.0.0"])
async def test_a_denied_host_cannot_be_registered_changed_to_or_diagnosed(start_app: StartApp, host: str) -> None:
    running = await start_app()
    await running.register("gate-1", enabled=False)
    url = f"rtsp://admin:hunter2@{host}/latest/meta-data"
    answers = [
        await running.http.post(f"{API}/cameras", json={"url": url}),
        await running.http.patch(f"{API}/cameras/gate-1", json={"url": url}),
        await running.http.put(f"{API}/cameras/gate-1", json={"url": url}),
        await running.http.post(f"{API}/diagnose", json={"url": url}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        (error,) = answer.json()["errors"]
        assert error["field"] == "url"
        assert re.fullmatch(r"host is .*, where no camera may be \(forbidden_url\)", error["message"])


async def test_a_camera_that_was_stored_before_its_host_was_denied_says_so(start_app: StartApp) -> None:
    running = await start_app()
    await running.http.post(f"{API}/cameras", json={"id": "gate-1", "url": "rtsp://127.0.0.9/1", "enabled": False})
    await running.stop()
    running = await start_app(cameras={"deny_hosts": [DENIED]})
    assert (await running.camera("gate-1"))["status"]["state"] == "disabled"
    refused = await running.http.patch(f"{API}/cameras/gate-1", json={"enabled": True})
    assert refused.json()["errors"][0]["field"] == "url"


# Files


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_test_clip(tmp_path / "outside.mp4", seconds=0.3)
    write_test_clip(folder / "inside.mp4", seconds=0.3)
    return folder


def test_playlists_in_media_dir_open_nothing_else(media: Path) -> None:
    outside = media.parent / "outside.mp4"
    with listener() as victim:
        url = f"http://127.0.0.1:{victim.port}/x.mp4"
        sdp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {victim.port} RTP/AVP 96\n"
        playlists = {
            "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
            "b.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{outside}\n#EXT-X-ENDLIST\n",
            "c.ffconcat": f"ffconcat version 1.0\nfile '{outside}'\n",
            "d.mp4": f"ffconcat version 1.0\nfile '{url}'\n",
            "e.mpd": f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
            "f.sdp": f"{sdp}a=rtpmap:96 H264/90000\n",
            "g.mp4": f"concat:{outside}",
            "h.txt": str(outside),
        }
        for name, text in playlists.items():
            (media / name).write_text(text)
            assert failure(f"file:{name}", media_dir=media).code is SourceErrorCode.NO_VIDEO, name
        assert victim.connections == 0


async def test_a_file_that_cannot_even_be_looked_up_is_not_found(media: Path, start_app: StartApp) -> None:
    (media / "round.mp4").symlink_to("round.mp4")
    running = await start_app(media_dir=media)
    for name in ("round.mp4", "x" * 300, "inside.mp4/x"):
        made = await running.http.post(f"{API}/cameras", json={"url": f"file:{name}", "enabled": False})
        assert made.status_code == 201, made.text
        error = await asyncio.to_thread(failure, f"file:{name}", media_dir=media)
        assert error.code is SourceErrorCode.NOT_FOUND, name


@pytest.mark.parametrize(
    "url",
    [
        "concat:{outside}",
        "subfile,,start,0,end,0,,:{outside}",
        "crypto:{outside}",
        "data:video/mp4;base64,AAAA",
        "cache:{outside}",
        "async:{outside}",
        "fd:0",
        "pipe:0",
        "{outside}",
        "file:{outside}",
        "file:../outside.mp4",
        "file:%2e%2e/outside.mp4",
        "file:link.mp4",
        "file:folder/outside.mp4",
    ],
)
def test_only_files_below_media_dir_are_opened(media: Path, url: str) -> None:
    (media / "link.mp4").symlink_to(media.parent / "outside.mp4")
    (media / "folder").symlink_to(media.parent)
    error = failure(url.format(outside=media.parent / "outside.mp4"), media_dir=media)
    assert error.code is SourceErrorCode.FORBIDDEN_URL


def test_a_link_that_was_bent_after_the_registration_is_noticed_when_it_is_opened(media: Path) -> None:
    link = media / "link.mp4"
    link.symlink_to(media / "inside.mp4")
    request = SourceRequest(camera_id="cam", url="file:link.mp4", media_dir=media)
    first = PyavSource(request)
    next(frames := first.frames()).surface.release()
    frames.close()  # type: ignore[attr-defined]
    first.close()
    link.unlink()
    link.symlink_to(media.parent / "outside.mp4")
    assert failure("file:link.mp4", media_dir=media).code is SourceErrorCode.FORBIDDEN_URL


def test_a_pipe_or_device_in_media_dir_is_no_file(media: Path) -> None:
    os.mkfifo(media / "pipe")
    (media / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        assert failure(f"file:{name}", media_dir=media).code is SourceErrorCode.FORBIDDEN_URL


def test_the_protocols_that_ffmpeg_may_use_are_pinned() -> None:
    request, camera = SourceRequest(camera_id="cam", url="rtsp://h/"), parse_camera_url("rtsp://h/")
    options, name = _options(request, camera, patience_s=1, tls_ca_file=None)
    assert (options["protocol_whitelist"], name) == ("rtp,rtsp,rtsps,udp,tcp,tls,srtp", "rtsp")


def test_many_cameras_may_be_opened_at_once_and_each_hears_of_its_own_redirect() -> None:
    with listener(DENIED) as victim:
        url = f"rtsp://{DENIED}:{victim.port}/x"
        errors: list[SourceErrorCode] = []

        def look(port: int) -> None:
            errors.append(failure(f"rtsp://127.0.0.1:{port}/1").code)

        with listener(answer=redirecting(url)) as one, listener() as two, listener(answer=redirecting(url)) as three:
            threads = [threading.Thread(target=look, args=(each.port,)) for each in (one, two, three)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        forbidden, missing = SourceErrorCode.FORBIDDEN_URL, SourceErrorCode.NOT_FOUND
        assert sorted(errors) == sorted([forbidden, forbidden, missing])
        assert victim.connections == 0


def test_a_build_of_pyav_that_hides_its_libraries_still_opens_cameras(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.backends.ffmpeg.redirects._available", False)
    with listener() as camera:
        assert failure(f"rtsp://127.0.0.1:{camera.port}/1").code is SourceErrorCode.NOT_FOUND
    assert "FFmpeg follows redirects of cameras by itself" in caplog.text
