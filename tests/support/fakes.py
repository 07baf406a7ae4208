"""Values and scripted parts that tests put into the pipeline: frames, results, a clock, detectors, sources."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from app.backends.base import OnProgress, unwatched
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import CLASSES, SyntheticDetector
from app.backends.synthetic.source import SyntheticSurface
from app.cameras.lane import Lane, LaneSettings
from app.cameras.source import DecodeEffort, SourceRequest
from app.results.wire import Result
from app.types import Detections, EngineInfo, Frame, FrameTimes, GpuSnapshot, SourceFrame, StageTimes, StreamInfo

SyntheticFrame: TypeAlias = Frame[SyntheticSurface]
STAGES = StageTimes(preprocess_s=0.001, infer_s=0.01, postprocess_s=0.0005)


class FakeClock:
    """Monotonic seconds that move only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_times(at: float = 0.0, *, decode_s: float = 0.002) -> FrameTimes:
    return FrameTimes(
        arrived_at=at, decoded_at=at + decode_s, decode_s=decode_s, captured_utc=1_795_000_000.0, clock="arrival"
    )


def make_frame(camera_id: str = "gate-1", seq: int = 1, *, at: float = 0.0) -> SyntheticFrame:
    surface = SyntheticSurface(640, 360, float(seq))
    return Frame(camera_id=camera_id, seq=seq, pts_s=seq / 25, times=make_times(at), surface=surface)


def make_source_frame(number: int = 0, *, at: float = 0.0, pts_s: float | None = 0.0) -> SourceFrame[SyntheticSurface]:
    return SourceFrame(pts_s=pts_s, times=make_times(at), surface=SyntheticSurface(640, 360, float(number)))


def next_frame(lane: Lane, *, at: float = 0.0) -> SyntheticFrame:
    """A frame as the lane's reader would count and make it."""
    return make_frame(lane.camera_id, lane.ledger.decoded(), at=at)


def make_detections(
    frame: SyntheticFrame, scores: Sequence[float] = (0.9,), class_ids: Sequence[int] = (0,)
) -> Detections:
    count = len(scores)
    boxes = np.array([[10.0 * n, 20.0, 10.0 * n + 5, 40.0] for n in range(count)], dtype=np.float32).reshape(-1, 4)
    return Detections(
        camera_id=frame.camera_id,
        seq=frame.seq,
        pts_s=frame.pts_s,
        width=frame.surface.width,
        height=frame.surface.height,
        times=frame.times,
        stages=STAGES,
        boxes=boxes,
        scores=np.array(scores, dtype=np.float32),
        class_ids=np.array(class_ids, dtype=np.int32),
    )


def make_result(
    camera_id: str = "gate-1", seq: int = 1, scores: Sequence[float] = (0.9,), class_ids: Sequence[int] = (0,)
) -> Result:
    found = make_detections(make_frame(camera_id, seq), scores, class_ids)
    return Result(found, classes=CLASSES, model="synthetic", batch_size=1, formed_at=0.003, published_at=0.02)


def make_lane(camera_id: str = "gate-1", *, priority: int = 5, min_score: float = 0.25) -> Lane:
    return Lane(camera_id, LaneSettings(priority=priority, min_score=min_score))


@dataclass(slots=True)
class Call:
    """One `detect` under way at a `ManualDetector`."""

    frames: tuple[SyntheticFrame, ...]
    min_scores: tuple[float, ...]
    ending: asyncio.Future[None]

    def finish(self) -> None:
        self.ending.set_result(None)

    def fail(self, error: BaseException) -> None:
        self.ending.set_exception(error)

    @property
    def cameras(self) -> list[str]:
        return [frame.camera_id for frame in self.frames]


class ManualDetector:
    """A detector whose every batch ends when, and how, the test says."""

    def __init__(self, *, contexts: int = 1, max_batch: int = 16) -> None:
        self.info: EngineInfo = SyntheticDetector(contexts=contexts, max_batch=max_batch).info
        self.calls: list[Call] = []
        self.closed = False

    async def detect(self, frames: Sequence[SyntheticFrame], *, min_scores: Sequence[float]) -> list[Detections]:
        call = Call(tuple(frames), tuple(min_scores), asyncio.get_running_loop().create_future())
        self.calls.append(call)
        await call.ending
        return [make_detections(frame) for frame in frames]

    async def aclose(self) -> None:
        self.closed = True


class CrowdDetector(SyntheticDetector):
    """Finds the same object many times over, so that its results make large messages."""

    def __init__(self, *, count: int = 100) -> None:
        super().__init__(contexts=1)
        self._count = count

    async def detect(self, frames: Sequence[SyntheticFrame], *, min_scores: Sequence[float]) -> list[Detections]:
        return [make_detections(frame, [0.9] * self._count, [0] * self._count) for frame in frames]


class SlowOpeningBackend(SyntheticBackend):
    """Its detector opens when the test says so: an engine that takes its time to warm up."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
        assert self.go_on.wait(30), "the test forgot to let the detector open"
        return super().open_detector(on_progress)


class BuildingBackend(SlowOpeningBackend):
    """Builds an engine until the test says that it is done, and tells how far it is all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None  # what ended the building early

    def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
        try:
            while not self.go_on.wait(0.002):
                on_progress("building the engine: 42 %, about 3 min left")
        except BaseException as exc:
            self.error = exc
            raise
        return super().open_detector(on_progress)


def make_gpu(index: int = 0, **readings: Any) -> GpuSnapshot:
    """A reading of an L4 under load; `readings` replace single ones."""
    values: dict[str, Any] = {
        "index": index,
        "name": "NVIDIA L4",
        "uuid": f"GPU-{index}",
        "utilization_ratio": 0.75,
        "decoder_utilization_ratio": 0.5,
        "memory_used_bytes": 3 << 30,
        "memory_total_bytes": 24 << 30,
        "power_watts": 61.25,
        "temperature_celsius": 58.0,
        "sm_clock_mhz": 1905.0,
        "throttle_reasons": ("sw_power_cap",),
        **readings,
    }
    return GpuSnapshot(**values)


class GpuBackend(SyntheticBackend):
    """A synthetic backend on GPUs that read what the test says."""

    def __init__(self, *readings: GpuSnapshot) -> None:
        super().__init__()
        self.readings = readings
        self.read_by: set[str] = set()  # threads

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        self.read_by.add(threading.current_thread().name)
        return self.readings


Step: TypeAlias = "SourceFrame[SyntheticSurface] | Exception | threading.Event"


@dataclass
class ScriptedSource:
    """A source that plays its steps: gives a frame, raises an error, or waits for an event (or for `interrupt`)."""

    steps: Sequence[Step]
    request: SourceRequest | None = None
    paces: list[float | None] = field(default_factory=list)
    efforts: list[DecodeEffort] = field(default_factory=list)
    closed: int = 0
    interrupted: threading.Event = field(default_factory=threading.Event)
    info: StreamInfo | None = None

    def frames(self) -> Iterator[SourceFrame[SyntheticSurface]]:
        self.info = StreamInfo(codec="h264", width=640, height=360, declared_fps=25.0, decoder="scripted")
        for step in self.steps:
            if self.interrupted.is_set():
                return
            if isinstance(step, Exception):
                raise step
            if isinstance(step, threading.Event):
                while not step.wait(0.005) and not self.interrupted.is_set():
                    pass
            else:
                yield step

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        self.paces.append(max_fps)
        self.efforts.append(effort)

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.closed += 1
        self.info = None
