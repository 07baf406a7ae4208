"""One registered camera: its settings, its lane, its reader and what is known of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol

from app.cameras.backoff import Backoff
from app.cameras.ladder import Degradation
from app.cameras.lane import Lane, LaneSettings
from app.cameras.ledger import FrameCounts
from app.cameras.motion import MotionState
from app.cameras.reader import Mailslot, Reader, ReaderReport, State
from app.cameras.settings import CameraSettings
from app.cameras.source import FrameSource, SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.types import S, StreamInfo

MAX_ENDING = 4
AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStatus:
    """A reading of a camera, for the API and the metrics."""

    camera_id: str
    state: State
    since_utc: float
    retry_in_s: float | None
    error: SourceError | None
    info: StreamInfo | None
    measured_fps: float
    inferred_fps: float
    restarts: dict[str, int]  # by error code
    last_frame_utc: float | None
    motion: MotionState | None  # None: the gate is off, or has seen nothing
    degradation: Degradation | None  # None: nothing gives way
    frames: FrameCounts


class CameraContext(Protocol[S]):
    """What every camera needs of its surroundings; the registry provides it."""

    @property
    def mailbox(self) -> CameraMailbox[S]: ...

    def open_source(self, request: SourceRequest) -> FrameSource[S]: ...

    def request(self, settings: CameraSettings) -> SourceRequest: ...

    def lane_settings(self, settings: CameraSettings) -> LaneSettings: ...

    def backoff(self) -> Backoff: ...

    def changed(self, camera: Camera[S]) -> None: ...


class CameraMailbox(Mailslot[S], Protocol[S]):
    def add(self, lane: Lane) -> None: ...

    def remove(self, lane: Lane) -> None: ...


class Camera(Generic[S]):
    """Event loop only; its reader's thread reaches it through `call_soon_threadsafe` alone.

    A change of URL, credentials or transport gets a new reader at once; the old one is told to stop and ends by
    itself, counted in `ending`, so a camera that hangs in a read cannot hold up its own repair. With
    `MAX_ENDING` of them that do not end, the camera waits until one has.
    """

    def __init__(self, settings: CameraSettings, context: CameraContext[S], *, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.lane = Lane(settings.id, context.lane_settings(settings))
        self.ending: set[Reader[S]] = set()
        self.ended = asyncio.Event()
        self.ended.set()
        self._context = context
        self._loop = loop
        self._reader: Reader[S] | None = None
        self._report = ReaderReport(state="disabled", since_utc=time.time())
        self._again: asyncio.TimerHandle | None = None  # a reader could not be started
        self._restarts: Counter[str] = Counter()

    def start(self) -> None:
        """Enter the mailbox and, when enabled, start reading."""
        self._context.mailbox.add(self.lane)
        if self.settings.enabled:
            self._read()

    def apply(self, settings: CameraSettings) -> None:
        """Take new settings; only what they touch restarts."""
        reconnect = self.settings.reconnects(settings)
        self.settings = settings
        self.lane.settings = self._context.lane_settings(settings)
        if reconnect:
            self.restart()
        else:
            self.pace()

    def pace(self) -> None:
        """Have the source know what the lane wants of it."""
        if self._reader is not None:
            self._reader.pace()

    def restart(self) -> None:
        """Connect anew, now, with the backoff forgotten. A disabled camera stays disabled."""
        self._stop_reading()
        if self.settings.enabled:
            self._read()
        else:
            self._tell(ReaderReport(state="disabled", since_utc=time.time()))

    def stop(self) -> None:
        """Leave the mailbox and tell the reader to end; `ended` is set when every thread has. Returns at once."""
        self._stop_reading()
        self._context.mailbox.remove(self.lane)

    @property
    def running(self) -> bool:
        return self._report.state == "running"

    @property
    def info(self) -> StreamInfo | None:
        reader = self._reader
        return reader.info if reader is not None else None

    @property
    def readers_ending(self) -> int:
        """Threads that were told to end and have not. Any thread."""
        return len(self.ending) - (self._reader is not None)

    @property
    def status(self) -> CameraStatus:
        now = time.monotonic()
        # Metrics read this in a worker thread: each field once, so that it cannot change between two looks.
        report, reader, lane = self._report, self._reader, self.lane
        running = report.state == "running"
        return CameraStatus(
            camera_id=self.settings.id,
            state=report.state,
            since_utc=report.since_utc,
            retry_in_s=None if report.retry_at is None else max(0.0, report.retry_at - now),
            error=report.error,
            info=reader.info if reader is not None else None,
            measured_fps=lane.decoded_rate.rate(now) if running else 0.0,
            inferred_fps=lane.inferred_rate.rate(now) if running else 0.0,
            restarts=dict(self._restarts),
            last_frame_utc=lane.last_frame_utc,
            motion=lane.motion if running else None,
            degradation=lane.degradation,
            frames=lane.counts(),
        )

    def _read(self) -> None:
        self._again = None
        if len(self.ending) >= MAX_ENDING:
            self._cannot_read(f"{len(self.ending)} earlier connections of this camera have not ended yet")
            return
        reader: Reader[S] = Reader(
            self._context.request(self.settings),
            lane=self.lane,
            mailbox=self._context.mailbox,
            open_source=self._context.open_source,
            backoff=self._context.backoff(),
            on_report=lambda report: self._from_thread(self._on_report, reader, report),
            on_end=lambda: self._from_thread(self._on_end, reader),
        )
        self._reader = reader
        self.ending.add(reader)
        self.ended.clear()
        # Told here and not only by the thread, so that whoever asked for it never reads the state before.
        self._tell(ReaderReport(state="connecting", since_utc=time.time()))
        try:
            reader.start()
        except RuntimeError:  # Python's word for a thread that the system refuses
            self._reader = None
            self._on_end(reader)
            self._cannot_read("the system has no thread left for this camera")

    def _cannot_read(self, why: str) -> None:
        error = SourceError(SourceErrorCode.RESOURCE_EXHAUSTED, f"{why}; trying again in {AGAIN_S:g} s")
        self._restarts[error.code.value] += 1
        self._again = self._loop.call_later(AGAIN_S, self._read)
        self._tell(
            ReaderReport(state="retrying", since_utc=time.time(), error=error, retry_at=time.monotonic() + AGAIN_S)
        )

    def _stop_reading(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        self.lane.decoded_rate.reset()

    def _from_thread(self, call: Callable[..., None], *args: object) -> None:
        # A closed loop means the service is gone; nobody is left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _on_report(self, reader: Reader[S], report: ReaderReport) -> None:
        if reader is not self._reader:
            return  # an earlier reader's last words
        if report.state == self._report.state == "connecting":
            return  # told already when the reader was made
        if report.error is not None:
            self._restarts[report.error.code.value] += 1
        if report.state == "connecting" and self._report.error is not None:
            # The reason of the last failure stays visible until frames come again.
            report = ReaderReport(state="connecting", since_utc=report.since_utc, error=self._report.error)
        self._tell(report)

    def _on_end(self, reader: Reader[S]) -> None:
        self.ending.discard(reader)
        if not self.ending:
            self.ended.set()
        if self._again is not None:
            self._again.cancel()
            self._read()

    def _tell(self, report: ReaderReport) -> None:
        self._report = report
        self._context.changed(self)
