"""What Vidette's own work costs: the whole service over cameras and a detector that cost next to nothing.

Everything between the decoder's output and the subscriber is the service's own: reader threads, rate gate, mailbox,
batcher, detector threads, order, hub, messages. The cameras are those of the synthetic backend; each detector thread
answers at once with one box a frame. What these two spend is measured in their own threads, as thread CPU time, and is
taken off. Nothing else is: wake-ups, timers, waits for the interpreter's lock and this measurement all count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np

from app.backends.base import OnProgress, unwatched
from app.backends.select import Choice
from app.backends.synthetic.detector import SCORE, SyntheticDetector
from app.backends.synthetic.source import SyntheticSource, SyntheticSurface, box_at
from app.cameras.settings import CameraRegistration
from app.cameras.source import DecodeEffort, SourceRequest
from app.inference.pool import PooledDetector
from app.measure.figures import difference
from app.measure.observation import look, summed
from app.measure.threads import CONTEXTS, READERS, ThreadClocks
from app.measure.workload import run_on_loop, running, subscriber, until_all_run
from app.service import Service
from app.settings import Settings
from app.types import Availability, Detections, Frame, GpuSnapshot, SourceFrame, StageTimes, StreamInfo

_DETECTOR = "synthetic-detector"
_WARM_UP_S = 0.7
_TICK_S = 0.25
_NO_TIME = StageTimes(preprocess_s=0.0, infer_s=0.0, postprocess_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadPlan:
    """One load: `cameras` that send `offered_fps` frames a second together."""

    cameras: int
    offered_fps: float
    subscribers: int  # 0 or 1: one that takes every message, as a WebSocket would
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadRun:
    """What one load cost. CPU seconds are of the whole measurement."""

    plan: OverheadPlan
    seconds: float
    decoded: int
    published: int
    dropped: Mapping[str, int]
    batches: int
    process_s: float  # of the whole process
    source_s: float  # of it, making frames
    detector_s: float  # of it, making detections
    threads_s: Mapping[str, float]  # the rest, by what the threads are for

    @property
    def own_s(self) -> float:
        return self.process_s - self.source_s - self.detector_s

    @property
    def us_per_decoded(self) -> float:
        return 1e6 * self.own_s / max(1, self.decoded)

    @property
    def us_per_published(self) -> float:
        return 1e6 * self.own_s / max(1, self.published)

    @property
    def mean_batch(self) -> float:
        return self.published / max(1, self.batches)


class MeteredSource:
    """A synthetic camera that knows what it costs. Implements `FrameSource[SyntheticSurface]`."""

    def __init__(self, request: SourceRequest) -> None:
        self.cpu_s = 0.0  # written by the reader's thread
        self._source = SyntheticSource(request)

    @property
    def info(self) -> StreamInfo | None:
        return self._source.info

    def frames(self) -> Iterator[SourceFrame[SyntheticSurface]]:
        frames = self._source.frames()
        while True:
            before = time.thread_time()
            frame = next(frames, None)
            self.cpu_s += time.thread_time() - before
            if frame is None:
                return
            yield frame

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        self._source.pace(max_fps, effort)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


class InstantRunner:
    """A context that finds the one object of every synthetic scene at once. Implements `Runner[SyntheticSurface]`."""

    def __init__(self) -> None:
        self.cpu_s = 0.0  # written by the context's thread
        self._scores = np.full(1, SCORE, dtype=np.float32)
        self._class_ids = np.zeros(1, dtype=np.int32)

    def run(self, frames: Sequence[Frame[SyntheticSurface]], min_scores: Sequence[float]) -> list[Detections]:
        before = time.thread_time()
        found = [self._found(frame) for frame in frames]
        self.cpu_s += time.thread_time() - before
        return found

    def close(self) -> None:
        pass

    def _found(self, frame: Frame[SyntheticSurface]) -> Detections:
        surface = frame.surface
        box = box_at(surface.at_s, surface.width, surface.height)
        return Detections(
            camera_id=frame.camera_id,
            seq=frame.seq,
            pts_s=frame.pts_s,
            width=surface.width,
            height=surface.height,
            times=frame.times,
            stages=_NO_TIME,
            boxes=np.array([box], dtype=np.float32),
            scores=self._scores,
            class_ids=self._class_ids,
        )


class MeteredBackend:
    """Synthetic cameras, and the detector threads that real devices have. Implements `Backend[SyntheticSurface]`."""

    name = "synthetic"

    def __init__(self, *, contexts: int) -> None:
        self._info = SyntheticDetector(contexts=contexts, base_s=0.0, frame_s=1e-9).info
        self._runners = [InstantRunner() for _ in range(contexts)]
        self._sources: list[MeteredSource] = []

    def probe(self) -> Availability:
        return Availability(name=self.name, available=True, reason="synthetic cameras and an instant detector")

    def open_source(self, request: SourceRequest) -> MeteredSource:
        source = MeteredSource(request)
        self._sources.append(source)
        return source

    def open_detector(self, on_progress: OnProgress = unwatched) -> PooledDetector[SyntheticSurface]:
        return PooledDetector(self._info, self._runners, name=_DETECTOR)

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        return ()

    @property
    def source_s(self) -> float:
        """CPU seconds spent in sources so far. Any thread."""
        return sum(source.cpu_s for source in self._sources)

    @property
    def detector_s(self) -> float:
        return sum(runner.cpu_s for runner in self._runners)


def measure_overhead(
    plan: OverheadPlan, settings: Settings, *, contexts: int, on_tick: Callable[[float], None] = lambda done_s: None
) -> OverheadRun:
    """Run the service over `plan`'s load, on an event loop of its own, and measure it after a warm-up. Blocking."""
    backend = MeteredBackend(contexts=contexts)
    service = Service(settings, choice=Choice(backend=backend, reason="measured", availability=()))
    return run_on_loop(_measure(plan, service, backend, on_tick))


async def _measure(
    plan: OverheadPlan, service: Service, backend: MeteredBackend, on_tick: Callable[[float], None]
) -> OverheadRun:
    query = f"fps={plan.offered_fps / plan.cameras:.9g}"
    async with running(service) as parts, AsyncExitStack() as stack:
        for _ in range(plan.subscribers):
            await stack.enter_async_context(subscriber(parts.hub))
        registrations = (
            CameraRegistration(id=f"cam-{number}", url=f"rtsp://synthetic/{number}?{query}")
            for number in range(plan.cameras)
        )
        cameras = [await parts.registry.add(registration) for registration in registrations]
        await until_all_run(service, cameras)
        await asyncio.sleep(_WARM_UP_S)
        before, clocks, meters = look(parts, cameras), ThreadClocks.read(), (backend.source_s, backend.detector_s)
        await _wait(plan.seconds, on_tick)
        spent, after = ThreadClocks.read().since(clocks), look(parts, cameras)
        source_s, detector_s = backend.source_s - meters[0], backend.detector_s - meters[1]
    if service.fatal is not None:
        raise service.fatal
    decoded = sum(b.decoded - a.decoded for a, b in zip(before.frames, after.frames, strict=True))
    published = sum(b.published - a.published for a, b in zip(before.frames, after.frames, strict=True))
    return OverheadRun(
        plan=plan,
        seconds=after.at - before.at,
        decoded=decoded,
        published=published,
        dropped=summed(difference(b.dropped, a.dropped) for a, b in zip(before.frames, after.frames, strict=True)),
        batches=sum(difference(after.batch_sizes, before.batch_sizes).values()),
        process_s=spent.process_s,
        source_s=source_s,
        detector_s=detector_s,
        threads_s={
            **spent.threads_s,
            READERS: spent.threads_s[READERS] - source_s,
            CONTEXTS: spent.threads_s[CONTEXTS] - detector_s,
        },
    )


async def _wait(seconds: float, on_tick: Callable[[float], None]) -> None:
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        await asyncio.sleep(min(_TICK_S, left_s))
        on_tick(seconds - left_s)
