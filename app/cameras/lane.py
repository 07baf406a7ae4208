"""What one camera's reader, the batcher and the hub share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from app.cameras.ladder import Degradation
from app.cameras.ledger import FrameCounts, Ledger
from app.cameras.meters import Histogram, RateMeter
from app.cameras.motion import MotionState
from app.cameras.settings import MotionSettings
from app.cameras.source import DecodeEffort


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What a frame's way through the pipeline depends on. Replaced whole when a camera changes."""

    max_fps: float | None = None
    motion: MotionSettings | None = None  # None: the gate is off
    priority: int = 5
    min_score: float = 0.25
    class_ids: frozenset[int] | None = None  # None: all


class Lane:
    """One camera's place in the pipeline: its thresholds, its ledger and its meters.

    A camera that is removed and registered again gets a new lane, so a late result cannot be counted for its heir.
    `settings` may be replaced from the event loop at any time; everyone reads it once per frame.
    """

    def __init__(self, camera_id: str, settings: LaneSettings | None = None) -> None:
        self.camera_id = camera_id
        self.settings = settings or LaneSettings()
        self.ledger = Ledger()
        self.decoded_rate = RateMeter()  # written by the reader thread
        self.inferred_rate = RateMeter()  # written by the event loop, as all below
        self.latency = Histogram()
        self.found: Counter[str] = Counter()
        self.under_way = 0  # frames that went into a batch and have not ended
        self.last_frame_utc: float | None = None  # written by the reader thread, as the next three
        self.motion: MotionState | None = None  # None: the gate is off, or has seen nothing yet
        self.cpu_s = 0.0  # CPU time of its reader threads since the start, as far as frames came
        self.lag_s = 0.0  # how far reading is behind the camera
        self.degradation: Degradation | None = None  # under overload; written by the event loop, as the next two
        self.thin_fps: float | None = None  # frames a second that are let through; None: all
        self.effort = DecodeEffort.FULL
        self.closed = False

    def __repr__(self) -> str:
        return f"Lane({self.camera_id!r}, {self.counts()})"

    @property
    def level(self) -> int:
        """Of its degradation; 0: none."""
        degradation = self.degradation
        return 0 if degradation is None else degradation.level

    @property
    def wanted_fps(self) -> float | None:
        """Frames a second that are wanted of its source; None: all."""
        limits = [fps for fps in (self.settings.max_fps, self.thin_fps) if fps is not None]
        return min(limits, default=None)

    def counts(self) -> FrameCounts:
        return self.ledger.counts()
