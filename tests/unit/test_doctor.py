"""The camera doctor: which step fails for which ailment, within the time, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from app.backends.ffmpeg.source import PyavSource
from app.backends.synthetic.source import SyntheticSurface
from app.cameras.doctor import STEPS, Diagnosis, Step, StreamStep, diagnose
from app.cameras.source import DecodeEffort, SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.logs import configure_logging
from app.types import FrameTimes, SourceFrame, StreamInfo
from tests.support.clips import write_test_clip
from tests.support.wait import wait_until

ALL_STEPS: tuple[StreamStep, ...] = ("described", "packet", "keyframe", "frame")
OPTIONS_OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPublic: DESCRIBE\r\n\r\n"


class ScriptedSource:
    """Reports `steps`, then fails with `error`, hangs until interrupted, or delivers a frame."""

    def __init__(self, steps: Sequence[StreamStep] = (), *, error: Exception | None = None, hang: bool = False) -> None:
        self.surface = SyntheticSurface(width=640, height=480, at_s=0)
        self.closed = threading.Event()
        self.gave_up = False  # nobody interrupted it
        self.request: SourceRequest | None = None
        self._steps = steps
        self._error = error
        self._hang = hang
        self._interrupted = threading.Event()
        self._on_step: Callable[[StreamStep], None] = lambda step: None

    @property
    def info(self) -> StreamInfo:
        return StreamInfo(codec="h264", width=640, height=480, declared_fps=None, decoder="software")

    def report_steps(self, on_step: Callable[[StreamStep], None]) -> None:
        self._on_step = on_step

    def frames(self) -> Iterator[SourceFrame[SyntheticSurface]]:
        for step in self._steps:
            self._on_step(step)
        if self._hang:
            self.gave_up = not self._interrupted.wait(20)
            return
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        times = FrameTimes(arrived_at=now, decoded_at=now, decode_s=0, captured_utc=0, clock="arrival")
        yield SourceFrame(pts_s=0, times=times, surface=self.surface)

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        pass

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self.closed.set()

    def open(self, request: SourceRequest) -> ScriptedSource:
        self.request = request
        return self


class SilentSource(ScriptedSource):
    """A source that cannot report steps."""

    report_steps = None  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def answering(answer: bytes | None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers whatever is asked with `answer` and hangs up; None: it never answers. Gives its port."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if answer is None:
                await released.wait()
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        released.set()
        server.close()
        await server.wait_closed()


def request(url: str, media_dir: Path | None = None) -> SourceRequest:
    return SourceRequest(camera_id="doctor", url=url, media_dir=media_dir)


def states(diagnosis: Diagnosis) -> dict[Step, str]:
    assert tuple(result.step for result in diagnosis.steps) == STEPS
    return {result.step: result.state for result in diagnosis.steps}


def failing(diagnosis: Diagnosis) -> Step | None:
    """The failed step, after a look at what goes with it: everything before ran, everything after did not."""
    failed = [result for result in diagnosis.steps if result.state == "failed"]
    if not failed:
        assert diagnosis.ok is (diagnosis.code is None)
        return None
    (result,) = failed
    assert (result.code, result.message) == (diagnosis.code, diagnosis.message)
    after = diagnosis.steps[STEPS.index(result.step) + 1 :]
    assert all((step.state, step.ms) == ("skipped", None) for step in after)
    assert all(step.ms is not None and step.ms >= 0 for step in diagnosis.steps if step.state != "skipped")
    return result.step


async def test_a_healthy_camera_passes_every_step() -> None:
    source = ScriptedSource(ALL_STEPS)
    async with answering(OPTIONS_OK) as port:
        diagnosis = await diagnose(request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open)
    assert set(states(diagnosis).values()) == {"ok"}
    assert diagnosis.ok
    assert diagnosis.message == f"127.0.0.1:{port} works: h264, 640x480"
    assert source.surface.released == 1
    await wait_until(source.closed.is_set)


@pytest.mark.parametrize("url", ["http://cam/x", "rtsp://cam/\r\n", "file:///etc/passwd"])
async def test_a_forbidden_url_is_not_even_looked_up(url: str) -> None:
    diagnosis = await diagnose(request(url), open_source=ScriptedSource().open)
    assert set(states(diagnosis).values()) == {"skipped"}
    assert diagnosis.code is SourceErrorCode.FORBIDDEN_URL
    assert diagnosis.message.startswith("url: ")


async def test_an_unknown_name_fails_at_dns() -> None:
    diagnosis = await diagnose(request("rtsp://camera.invalid/x"), open_source=ScriptedSource().open)
    assert (failing(diagnosis), diagnosis.code) == ("dns", SourceErrorCode.DNS_FAILED)
    assert diagnosis.message == "camera.invalid is not known to the name server"


async def test_a_closed_port_fails_at_tcp() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{unused.getsockname()[1]}/x"
        diagnosis = await diagnose(request(url), open_source=ScriptedSource().open)
    assert (failing(diagnosis), diagnosis.code) == ("tcp", SourceErrorCode.CONNECTION_REFUSED)
    assert states(diagnosis)["dns"] == "ok"


async def test_a_dropped_connection_fails_at_tcp() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # nobody accepts, so the kernel drops what comes after
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        url = f"rtsp://127.0.0.1:{full.getsockname()[1]}/x"
        diagnosis = await diagnose(request(url), open_source=ScriptedSource().open, timeout_s=1.5)
    assert (failing(diagnosis), diagnosis.code) == ("tcp", SourceErrorCode.CONNECT_TIMEOUT)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, SourceErrorCode.CONNECT_TIMEOUT),
        (b"", SourceErrorCode.CONNECTION_REFUSED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", SourceErrorCode.NO_VIDEO),
        (b"x" * 100_000, SourceErrorCode.NO_VIDEO),
    ],
)
async def test_what_does_not_speak_rtsp_fails_at_rtsp(answer: bytes | None, code: SourceErrorCode) -> None:
    async with answering(answer) as port:
        diagnosis = await diagnose(
            request(f"rtsp://127.0.0.1:{port}/x"), open_source=ScriptedSource().open, timeout_s=1.5
        )
    assert (failing(diagnosis), diagnosis.code) == ("rtsp", code)


async def test_an_encrypted_camera_is_asked_through_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("camera.example").configure_cert(context)
    async with answering(OPTIONS_OK, tls=context) as port:
        diagnosis = await diagnose(request(f"rtsps://127.0.0.1:{port}/x"), open_source=ScriptedSource(ALL_STEPS).open)
    assert diagnosis.ok


async def test_a_camera_that_does_not_encrypt_fails_at_rtsp() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RTSP/1.0 200 OK\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        url = f"rtsps://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        diagnosis = await diagnose(request(url), open_source=ScriptedSource().open)
    assert (failing(diagnosis), diagnosis.code) == ("rtsp", SourceErrorCode.TLS_FAILED)


async def test_a_camera_that_resets_the_connection_fails_at_rtsp() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        # Closing with unread data and no linger sends a reset instead of an end.
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server:
        url = f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        diagnosis = await diagnose(request(url), open_source=ScriptedSource().open)
    assert (failing(diagnosis), diagnosis.code) == ("rtsp", SourceErrorCode.CONNECTION_REFUSED)


@pytest.mark.parametrize(
    ("reached", "code", "step"),
    [
        (0, SourceErrorCode.AUTH_FAILED, "auth"),
        (0, SourceErrorCode.NOT_FOUND, "sdp"),
        (0, SourceErrorCode.NO_VIDEO, "sdp"),
        (0, SourceErrorCode.UNSUPPORTED_CODEC, "sdp"),
        (0, SourceErrorCode.CONNECT_TIMEOUT, "sdp"),
        (1, SourceErrorCode.READ_TIMEOUT, "first_packet"),
        (1, SourceErrorCode.END_OF_STREAM, "first_packet"),
        (2, SourceErrorCode.READ_TIMEOUT, "first_keyframe"),
        (3, SourceErrorCode.DECODE_FAILED, "first_decoded_frame"),
    ],
)
async def test_a_failing_stream_fails_at_the_step_it_did_not_reach(
    reached: int, code: SourceErrorCode, step: Step
) -> None:
    source = ScriptedSource(ALL_STEPS[:reached], error=SourceError(code, "127.0.0.1:554 is ill"))
    async with answering(OPTIONS_OK) as port:
        diagnosis = await diagnose(request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open)
    assert (failing(diagnosis), diagnosis.code, diagnosis.message) == (step, code, "127.0.0.1:554 is ill")


@pytest.mark.parametrize(
    ("reached", "code", "step"),
    [
        (0, SourceErrorCode.CONNECT_TIMEOUT, "sdp"),
        (1, SourceErrorCode.READ_TIMEOUT, "first_packet"),
        (3, SourceErrorCode.DECODE_FAILED, "first_decoded_frame"),
    ],
)
async def test_the_time_is_bounded_and_the_source_interrupted(reached: int, code: SourceErrorCode, step: Step) -> None:
    source = ScriptedSource(ALL_STEPS[:reached], hang=True)

    def clock() -> float:
        # The time is nearly up as soon as the source is asked: what comes before has enough of it on any machine.
        return time.monotonic() + (14.5 if source.request is not None else 0.0)

    async with answering(OPTIONS_OK) as port:
        diagnosis = await diagnose(
            request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open, timeout_s=15.0, clock=clock
        )
    assert not source.gave_up
    assert (failing(diagnosis), diagnosis.code) == (step, code)
    await wait_until(source.closed.is_set)


async def test_the_sources_own_patience_ends_first() -> None:
    source = ScriptedSource(ALL_STEPS)
    async with answering(OPTIONS_OK) as port:
        await diagnose(request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open, timeout_s=2)
    assert source.request is not None
    assert source.request.stall_timeout_s < 2


async def test_a_cancelled_diagnosis_interrupts_its_source() -> None:
    source = ScriptedSource(ALL_STEPS[:1], hang=True)
    async with answering(OPTIONS_OK) as port:
        task = asyncio.create_task(diagnose(request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open))
        await wait_until(lambda: source.request is not None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await wait_until(source.closed.is_set)


async def test_an_unexpected_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource(ALL_STEPS[:2], error=ZeroDivisionError("oops"))
    async with answering(OPTIONS_OK) as port:
        diagnosis = await diagnose(request(f"rtsp://127.0.0.1:{port}/x"), open_source=source.open)
    assert (failing(diagnosis), diagnosis.code) == ("first_keyframe", SourceErrorCode.INTERNAL)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("where", ["opening", "reading"])
async def test_an_unexpected_error_s_text_is_logged_without_the_password(
    where: str, own_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    error = RuntimeError("cannot open camera with hunter2&é")

    def open_source(asked: SourceRequest) -> ScriptedSource:
        if where == "opening":
            raise error
        return ScriptedSource(error=error)

    async with answering(OPTIONS_OK) as port:
        asked = replace(request(f"rtsp://127.0.0.1:{port}/x"), username="admin", password="hunter2&é")
        diagnosis = await diagnose(asked, open_source=open_source)
    assert diagnosis.code is SourceErrorCode.INTERNAL
    log = capsys.readouterr().err
    assert "cannot open camera with ***" in log
    assert "hunter2" not in log


async def test_a_source_that_reports_no_steps_is_judged_by_its_frame() -> None:
    async with answering(OPTIONS_OK) as port:
        url = f"rtsp://127.0.0.1:{port}/x"
        works = await diagnose(request(url), open_source=SilentSource().open)
        ends = SilentSource(error=SourceError(SourceErrorCode.END_OF_STREAM, "gone"))
        ended = await diagnose(request(url), open_source=ends.open)
    assert set(states(works).values()) == {"ok"}
    assert failing(ended) == "sdp"


async def test_a_file_skips_the_network(tmp_path: Path) -> None:
    await asyncio.to_thread(write_test_clip, tmp_path / "clip.mp4", seconds=0.5)
    diagnosis = await diagnose(request("file:clip.mp4", tmp_path), open_source=PyavSource)
    assert diagnosis.message == "clip.mp4 works: h264, 320x240"
    assert [step for step, state in states(diagnosis).items() if state == "skipped"] == ["dns", "tcp", "rtsp", "auth"]
    missing = await diagnose(request("file:none.mp4", tmp_path), open_source=PyavSource)
    assert (failing(missing), missing.code) == ("sdp", SourceErrorCode.NOT_FOUND)


async def test_a_name_server_that_never_answers_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [answer.wait(30)][:0])
    request = SourceRequest(camera_id="doctor", url="rtsp://cam.example/")
    try:
        diagnoses = [diagnose(request, open_source=ScriptedSource().open, timeout_s=0.3) for _ in range(40)]
        assert {diagnosis.code for diagnosis in await asyncio.gather(*diagnoses)} == {SourceErrorCode.DNS_FAILED}
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 10) == "free"
    finally:
        answer.set()
    await wait_until(lambda: not any(thread.name.startswith("dns:") for thread in threading.enumerate()))
