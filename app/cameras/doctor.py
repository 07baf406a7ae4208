"""The camera doctor: goes the whole way from a camera's name to its first picture, and says where the way ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args, runtime_checkable

from app.cameras.handshake import ask_options, connect, resolve
from app.cameras.hosts import HostPolicy
from app.cameras.registration import secrets_in
from app.cameras.source import FrameSource, SourceRequest
from app.cameras.urls import CameraUrl, parse_camera_url
from app.errors import SourceError, SourceErrorCode
from app.logs import registered

Step: TypeAlias = Literal["dns", "tcp", "rtsp", "auth", "sdp", "first_packet", "first_keyframe", "first_decoded_frame"]
StepState: TypeAlias = Literal["ok", "failed", "skipped"]
# How far a source came: the stream is described, a packet came, a key packet came, a picture was decoded.
StreamStep: TypeAlias = Literal["described", "packet", "keyframe", "frame"]

STEPS: tuple[Step, ...] = get_args(Step)
DEFAULT_TIMEOUT_S = 15.0
_STREAM_STEPS: tuple[tuple[StreamStep, Step], ...] = (
    ("described", "sdp"),
    ("packet", "first_packet"),
    ("keyframe", "first_keyframe"),
    ("frame", "first_decoded_frame"),
)
# These are said after the camera has accepted the credentials; of other failures to open that is not known.
_AFTER_AUTH = (SourceErrorCode.NOT_FOUND, SourceErrorCode.NO_VIDEO, SourceErrorCode.UNSUPPORTED_CODEC)

T = TypeVar("T")
logger = logging.getLogger("vidette.doctor")


@runtime_checkable
class StepReporter(Protocol):
    """A source that can tell how far it came. One that cannot is only known to have delivered a frame or not."""

    def report_steps(self, on_step: Callable[[StreamStep], None]) -> None:
        """Call `on_step` once for each step, in the reader's thread. To be said before `frames`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step of a diagnosis. `ms` is its duration, None when it did not run."""

    step: Step
    state: StepState
    ms: float | None = None
    code: SourceErrorCode | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All steps in order and a sentence. `code` is the failed step's; None means that the camera works."""

    steps: tuple[StepResult, ...]
    code: SourceErrorCode | None
    message: str

    @property
    def ok(self) -> bool:
        return self.code is None


async def diagnose(
    request: SourceRequest,
    *,
    open_source: Callable[[SourceRequest], FrameSource[Any]],
    timeout_s: float = DEFAULT_TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Diagnosis:
    """Find out how far one gets with a camera, in `timeout_s` seconds at most. Never raises `SourceError`.

    `open_source` makes the backend's own source, which runs in a thread of its own; when the time is up or the caller
    is cancelled it is interrupted, and ends with its current read. `auth` and `sdp` are one exchange and show the
    same time, which includes the wait for the first packet. A file skips everything before `sdp`.
    """
    try:
        # In a thread, since a file's links are looked up on disk.
        camera = await asyncio.to_thread(parse_camera_url, request.url, media_dir=request.media_dir)
    except ValueError as exc:
        return _Chart().close(SourceErrorCode.FORBIDDEN_URL, str(exc))
    chart = _Chart()
    watch = _Stopwatch(clock, timeout_s=timeout_s)
    try:
        if camera.path is None:
            await _knock(camera, request.hosts, chart, watch)
        # The source's own time-outs come before ours, since it knows better what is wrong.
        patient = replace(request, stall_timeout_s=min(request.stall_timeout_s, 0.9 * watch.left_s))
        viewer = _Viewer(_opened(open_source, patient, camera), patient, camera.address, clock=clock)
        description = await _view(camera, viewer, chart, watch)
    except SourceError as exc:
        return chart.close(exc.code, exc.message)
    return chart.close(None, f"{camera.address} works: {description}")


class _Stopwatch:
    def __init__(self, clock: Callable[[], float], *, timeout_s: float) -> None:
        self.now = clock
        self._deadline = clock() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.05, self._deadline - self.now())


class _Chart:
    """The results so far. A step that fails ends the examination, so the steps behind it are skipped."""

    def __init__(self) -> None:
        self._results: dict[Step, StepResult] = {}

    def ok(self, step: Step, seconds: float) -> None:
        self._results[step] = StepResult(step=step, state="ok", ms=round(seconds * 1e3, 1))

    def failed(self, step: Step, seconds: float, error: SourceError) -> None:
        self._results[step] = StepResult(
            step=step, state="failed", ms=round(seconds * 1e3, 1), code=error.code, message=error.message
        )

    def close(self, code: SourceErrorCode | None, message: str) -> Diagnosis:
        steps = tuple(self._results.get(step, StepResult(step=step, state="skipped")) for step in STEPS)
        return Diagnosis(steps=steps, code=code, message=message)


async def _knock(camera: CameraUrl, hosts: HostPolicy, chart: _Chart, watch: _Stopwatch) -> None:
    """Steps dns, tcp and rtsp. A third of the time is enough for one answer, and leaves some to see what is behind."""
    patience_s = watch.left_s / 3
    addresses = await _timed("dns", resolve(camera, hosts=hosts, timeout_s=patience_s), chart, watch)
    address = await _timed("tcp", connect(camera, addresses, timeout_s=patience_s), chart, watch)
    await _timed("rtsp", ask_options(camera, address, timeout_s=patience_s), chart, watch)


async def _timed(step: Step, work: Awaitable[T], chart: _Chart, watch: _Stopwatch) -> T:
    started_at = watch.now()
    try:
        result = await work
    except SourceError as exc:
        chart.failed(step, watch.now() - started_at, exc)
        raise
    chart.ok(step, watch.now() - started_at)
    return result


def _opened(
    open_source: Callable[[SourceRequest], FrameSource[Any]], request: SourceRequest, camera: CameraUrl
) -> FrameSource[Any]:
    with registered(_secrets(request)):
        try:
            return open_source(request)
        except SourceError:
            raise
        except Exception as exc:
            raise _broke(camera.address, exc) from None


def _secrets(request: SourceRequest) -> tuple[str, ...]:
    return secrets_in(request.url, request.username, request.password)


def _broke(name: str, exc: Exception) -> SourceError:
    """A supervisor's answer to what nobody foresaw: the one who asked would wait in vain."""
    logger.exception("the diagnosis of %s broke", name)
    return SourceError(SourceErrorCode.INTERNAL, f"the diagnosis broke with an unexpected {type(exc).__name__}")


async def _view(camera: CameraUrl, viewer: _Viewer, chart: _Chart, watch: _Stopwatch) -> str:
    """Steps auth to first_decoded_frame, by the source itself. Gives a description of the stream."""
    since = watch.now()
    error = await viewer.run(timeout_s=watch.left_s)
    described_at = viewer.reached.get("described")
    if camera.path is None:
        if described_at is not None or (error is not None and error.code in _AFTER_AUTH):
            chart.ok("auth", (described_at or watch.now()) - since)
        elif error is not None and error.code is SourceErrorCode.AUTH_FAILED:
            chart.failed("auth", watch.now() - since, error)
            raise error
    for stream_step, step in _STREAM_STEPS:
        reached_at = viewer.reached.get(stream_step)
        if reached_at is not None:
            chart.ok(step, reached_at - since)
            since = reached_at
        elif error is not None:
            chart.failed(step, watch.now() - since, error)
            raise error
    return viewer.description


class _Viewer:
    """Runs a source up to its first frame, in a thread of its own."""

    def __init__(
        self, source: FrameSource[Any], request: SourceRequest, name: str, *, clock: Callable[[], float]
    ) -> None:
        self.reached: dict[StreamStep, float] = {}
        self.description = ""
        self._source = source
        self._secrets = _secrets(request)
        self._name = name
        self._clock = clock
        if isinstance(source, StepReporter):
            source.report_steps(self._reach)

    async def run(self, *, timeout_s: float) -> SourceError | None:
        """Wait for the first frame, or for what prevents it."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[SourceError | None] = loop.create_future()

        def finish(error: SourceError | None) -> None:
            if not outcome.done():
                outcome.set_result(error)

        def work() -> None:
            with registered(self._secrets):  # here, since the thread may outlive the one who asked
                error = self._read()
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everyone who asked
                loop.call_soon_threadsafe(finish, error)

        threading.Thread(target=work, name=f"doctor:{self._name}", daemon=True).start()
        try:
            return await asyncio.wait_for(outcome, timeout_s)
        except asyncio.TimeoutError:
            return self._too_late()
        finally:
            self._source.interrupt()

    def _read(self) -> SourceError | None:
        try:
            for frame in self._source.frames():
                info = self._source.info
                self.description = "" if info is None else f"{info.codec}, {info.width}x{info.height}"
                frame.surface.release()
                self._reach("frame")
                return None
            return SourceError(SourceErrorCode.END_OF_STREAM, f"{self._name} ended the stream before a picture came")
        except SourceError as exc:
            return exc
        except Exception as exc:
            return _broke(self._name, exc)
        finally:
            self._source.close()

    def _reach(self, step: StreamStep) -> None:
        now = self._clock()
        for earlier, _ in _STREAM_STEPS:
            # A picture proves the steps before it, reported or not.
            self.reached.setdefault(earlier, now)
            if earlier == step:
                break

    def _too_late(self) -> SourceError:
        if "keyframe" in self.reached:
            return SourceError(SourceErrorCode.DECODE_FAILED, f"{self._name} sent video, but no picture came of it")
        if "described" in self.reached:
            return SourceError(SourceErrorCode.READ_TIMEOUT, f"{self._name} sent no complete picture in time")
        return SourceError(SourceErrorCode.CONNECT_TIMEOUT, f"{self._name} did not describe its stream in time")
