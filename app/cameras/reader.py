"""A camera's thread: connects, reads, thins out, offers; waits and tries again when the camera fails."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias

from app.cameras.backoff import Backoff
from app.cameras.gate import RateGate, StreamTime
from app.cameras.lane import Lane
from app.cameras.ledger import DropReason
from app.cameras.motion import MotionGate, MotionState
from app.cameras.settings import MotionSettings
from app.cameras.source import FrameSource, SourceRequest
from app.errors import DeviceLost, SourceError, SourceErrorCode
from app.logs import camera_logger
from app.types import Frame, S, SourceFrame, StreamInfo

State: TypeAlias = Literal["connecting", "running", "retrying", "disabled"]


# Decoders are many and contexts few: at the same niceness they would starve inference and the API of cores.
NICENESS = 5


class Mailslot(Protocol[S]):
    """Where a reader leaves its frames."""

    def offer(self, lane: Lane, frame: Frame[S], now: float) -> None: ...

    def device_lost(self, error: DeviceLost) -> None:
        """Tell that no camera can deliver any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderReport:
    """What a reader says of itself whenever its state changes."""

    state: State
    since_utc: float
    error: SourceError | None = None
    retry_at: float | None = None  # monotonic


class Reader(Generic[S]):
    """One thread for one camera's connection. Started once, stopped once; a changed camera gets a new reader.

    `on_report` and `on_end` are called in the reader's thread. After `stop` no frame is counted or offered, even if
    the thread still hangs in a read: it ends by itself at the read timeout.
    """

    def __init__(
        self,
        request: SourceRequest,
        *,
        lane: Lane,
        mailbox: Mailslot[S],
        open_source: Callable[[SourceRequest], FrameSource[S]],
        backoff: Backoff,
        on_report: Callable[[ReaderReport], None],
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._request = request
        self._lane = lane
        self._mailbox = mailbox
        self._open_source = open_source
        self._backoff = backoff
        self._on_report = on_report
        self._on_end = on_end
        self._clock = clock
        self._wall = wall
        self._log = camera_logger(request.camera_id)
        self._time = StreamTime()
        self._gate = RateGate()
        self._overload_gate = RateGate()
        self._motion = MotionGate()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._source: FrameSource[S] | None = None
        self._spent_s = 0.0  # CPU time of this thread that is counted
        self._thread = threading.Thread(target=self._run, name=f"camera:{request.camera_id}", daemon=True)

    @property
    def info(self) -> StreamInfo | None:
        source = self._source
        return source.info if source is not None else None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Any thread; returns at once."""
        self._stopping.set()
        self._wake.set()
        source = self._source
        if source is not None:
            source.interrupt()

    def pace(self) -> None:
        """Tell the source that what the lane wants has changed. Any thread."""
        source, lane = self._source, self._lane
        if source is not None:
            source.pace(lane.wanted_fps, lane.effort)

    def _run(self) -> None:
        _give_way()
        try:
            while not self._stopping.is_set():
                self._report("connecting")
                error, delay_s = self._attempt()
                if self._stopping.is_set() or error is None:
                    break
                self._report("retrying", error=error, retry_at=self._clock() + delay_s)
                self._wake.wait(delay_s)
        finally:
            self._on_end()

    def _attempt(self) -> tuple[SourceError | None, float]:
        """One connection, from opening to its end: why it ended and how long to wait. No error: it was stopped."""
        running_at: float | None = None
        self._time = StreamTime()
        self._motion, self._lane.motion = MotionGate(), None
        try:
            source = self._source = self._open_source(self._request)
            try:
                if self._stopping.is_set():  # `stop` may have come before it could see this source
                    return None, 0.0
                source.pace(self._lane.wanted_fps, self._lane.effort)
                for frame in source.frames():
                    if self._stopping.is_set():
                        frame.surface.release()
                        return None, 0.0
                    if running_at is None:
                        running_at = self._clock()
                        self._report("running")
                        self._log.info("running: %s", source.info)
                    self._deliver(frame)
            finally:
                source.close()
            if self._stopping.is_set():
                return None, 0.0
            raise SourceError(SourceErrorCode.END_OF_STREAM, "the camera ended the stream")
        except SourceError as exc:
            run_s = 0.0 if running_at is None else self._clock() - running_at
            return exc, self._delay(exc, run_s)
        except DeviceLost as exc:  # waiting would not help: the whole service has to start anew
            self._log.error("%s", exc)
            self._mailbox.device_lost(exc)
            return SourceError(SourceErrorCode.INTERNAL, "the device was lost"), self._backoff.longest()
        except MemoryError:
            error = SourceError(SourceErrorCode.RESOURCE_EXHAUSTED, "no memory was left for the camera's video")
            return error, self._delay(error, 0.0 if running_at is None else self._clock() - running_at)
        except Exception as exc:  # a supervisor's catch: no camera may end with a thread that died silently
            self._log.exception("an unexpected error ended the connection")
            message = f"an unexpected {type(exc).__name__} ended the connection; the log has the details"
            return SourceError(SourceErrorCode.INTERNAL, message), self._backoff.longest()

    def _delay(self, error: SourceError, run_s: float) -> float:
        if self._stopping.is_set():
            return 0.0
        # A file that was played to its end did nothing wrong: it starts over.
        if error.code is SourceErrorCode.END_OF_STREAM and self._request.url.startswith("file:") and run_s > 0:
            self._backoff.reset()
        delay_s = self._backoff.after(run_s)
        self._log.warning("%s (%s); trying again in %.1f s", error.message, error.code.value, delay_s)
        return delay_s

    def _deliver(self, frame: SourceFrame[S]) -> None:
        lane, settings, times = self._lane, self._lane.settings, frame.times
        seq = lane.ledger.decoded()
        lane.decoded_rate.mark(times.decoded_at)
        lane.last_frame_utc = times.captured_utc
        lane.lag_s = times.lag_s
        spent_s = time.thread_time()
        lane.cpu_s += spent_s - self._spent_s
        self._spent_s = spent_s
        at_s = self._time.of(frame.pts_s, times.arrived_at)
        try:
            unwanted: DropReason | None = None
            if not self._gate.admits(at_s, settings.max_fps):
                unwanted = "rate_limit"
            elif not self._overload_gate.admits(at_s, lane.thin_fps):
                unwanted = "degraded"
            elif not self._shows_news(frame, settings.motion):
                unwanted = "still"
        except BaseException:  # a lost device, say: the connection ends, and this frame with it
            lane.ledger.dropped("shutdown")
            frame.surface.release()
            raise
        if unwanted is not None:
            lane.ledger.dropped(unwanted)
            frame.surface.release()
            return
        numbered = Frame(camera_id=lane.camera_id, seq=seq, pts_s=frame.pts_s, times=times, surface=frame.surface)
        self._mailbox.offer(lane, numbered, self._clock())

    def _shows_news(self, frame: SourceFrame[S], settings: MotionSettings | None) -> bool:
        lane = self._lane
        if settings is None:
            if lane.motion is not None:  # switched off: what is learnt grows old
                self._motion, lane.motion = MotionGate(), None
            return True
        wanted = self._motion.admits(frame, settings)
        if lane.motion is None or lane.motion.still is not self._motion.still:
            lane.motion = MotionState(still=self._motion.still, since_utc=self._wall())
        return wanted

    def _report(self, state: State, *, error: SourceError | None = None, retry_at: float | None = None) -> None:
        self._on_report(ReaderReport(state=state, since_utc=self._wall(), error=error, retry_at=retry_at))


def _give_way() -> None:
    """Have this thread run after the event loop and the execution contexts where cores are short."""
    if sys.platform == "linux":  # elsewhere niceness is the process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
