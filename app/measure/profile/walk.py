"""The components one after the other: frames walk through every stage, in one thread, with nothing beside them.

Each camera gives one frame, the mailbox forms batches of them, one execution context runs a batch, the hub publishes
its results to one subscriber: the service's own objects, called in the order in which a frame meets them. So no stage
waits for a core that another one has, and the process' CPU time during a stage is that stage's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.gate import RateGate
from app.cameras.lane import Lane
from app.cameras.source import FrameSource, SourceRequest
from app.errors import AppError, SourceError, SourceErrorCode
from app.measure.profile.devices import Device
from app.measure.profile.spans import Recorder
from app.measure.profile.stages import DECODE, HAND_OVER, PREPROCESS, PUBLISH, READ
from app.results.history import History
from app.results.hub import ResultHub
from app.results.subscription import Interest, Subscription
from app.types import Frame, SourceFrame, StreamInfo

FPS = 2000.0  # of the clip that is walked through: faster than it is decoded, so that no reader waits for a due time
_WARM_UP_ROUNDS = 2
_FOR_EVER_S = 3600.0
_HISTORY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlan:
    clip: Path  # sent at `FPS`
    packet_bytes: float  # mean of its video packets
    cameras: int
    batch: int  # frames of a batch, at most
    seconds: float
    frames: int | None = None  # instead of `seconds`


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRun:
    """What was walked. `moved`: bytes that each stage read and wrote, where that can be told."""

    frames: int
    batches: int
    seconds: float
    detections: int
    stream: StreamInfo
    moved: Mapping[str, float]


def walk(
    plan: WalkPlan, device: Device, recorder: Recorder, *, on_tick: Callable[[float], None] = lambda done: None
) -> WalkRun:
    """Walk, after two rounds to warm up. Blocking; inside `device.bound()`. Raises what a stage raises."""
    walker = _Walker(plan, device, recorder)
    try:
        with recorder.watching(device.stage_names):
            with recorder.paused():
                for _ in range(_WARM_UP_ROUNDS):
                    walker.round()
            walker.forget()
            began_s = time.perf_counter()
            while not walker.enough(took_s := time.perf_counter() - began_s):
                walker.round()
                on_tick(walker.frames if plan.frames else took_s)
        return walker.result(time.perf_counter() - began_s)
    finally:
        walker.close()


class _Eyes:
    """One camera: a source that starts over when its clip ends, and the camera's place in the pipeline."""

    def __init__(self, number: int, plan: WalkPlan, device: Device, recorder: Recorder) -> None:
        self.lane = Lane(f"cam-{number}")
        self.info: StreamInfo | None = None
        self._gate = RateGate()
        self._clip = plan.clip
        self._device = device
        self._recorder = recorder
        self._source: FrameSource[Any] | None = None
        self._frames: Iterator[SourceFrame[Any]] = iter(())

    def frame(self) -> SourceFrame[Any]:
        with self._recorder.span(READ):  # what is left of it without the decoding inside
            found = self._next()
        if found is None:
            with self._recorder.paused():
                self._open()
                found = self._next()
        if found is None:
            raise AppError(f"clip {self._clip.name} has no picture")
        return found

    def numbered(self, found: SourceFrame[Any]) -> Frame[Any]:
        """As the camera's reader does it, its rate gate included."""
        seq = self.lane.ledger.decoded()
        self._gate.admits(found.pts_s or 0.0, self.lane.settings.max_fps)
        return Frame(
            camera_id=self.lane.camera_id, seq=seq, pts_s=found.pts_s, times=found.times, surface=found.surface
        )

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            self.info = source.info
            source.close()

    def _next(self) -> SourceFrame[Any] | None:
        try:
            return next(self._frames, None)
        except SourceError as exc:
            if exc.code is not SourceErrorCode.END_OF_STREAM:
                raise
            return None

    def _open(self) -> None:
        self.close()
        request = SourceRequest(
            camera_id=self.lane.camera_id, url=f"file:{self._clip.name}", media_dir=self._clip.parent
        )
        self._source = self._device.open_source(request)
        self._frames = self._source.frames()


class _Walker:
    def __init__(self, plan: WalkPlan, device: Device, recorder: Recorder) -> None:
        self._plan, self._device, self._recorder = plan, device, recorder
        self._cameras = [_Eyes(number, plan, device, recorder) for number in range(plan.cameras)]
        # A round may take longer than a service would wait: here no frame is too old.
        policy = BatchPolicy(max_size=plan.batch, max_age_s=_FOR_EVER_S)
        self._mailbox: Mailbox[Any] = Mailbox(policy, on_frame=lambda: None)
        for camera in self._cameras:
            self._mailbox.add(camera.lane)
        engine = device.engine
        self._hub: ResultHub[Any] = ResultHub(
            model=engine.model, classes=engine.classes, history=History(_HISTORY), clock=time.monotonic
        )
        self._interest = self._hub.subscribed(Interest(mode="all"))
        self._subscription = self._interest.__enter__()
        self._moved: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """Begin to count."""
        self.frames = self._batches = self._detections = 0
        self._moved.clear()

    def enough(self, took_s: float) -> bool:
        return self.frames >= self._plan.frames if self._plan.frames else took_s >= self._plan.seconds

    def round(self) -> None:
        """One frame of every camera, and every batch that they make."""
        for camera in self._cameras:
            found = camera.frame()
            self._count(found)
            with self._recorder.span(HAND_OVER):
                self._mailbox.offer(camera.lane, camera.numbered(found), time.monotonic())
        for _ in range(-(-len(self._cameras) // self._plan.batch)):
            with self._recorder.span(HAND_OVER):
                batch, _ = self._mailbox.take(time.monotonic())
                if batch is not None:
                    for frame, lane in zip(batch.frames, batch.lanes, strict=True):
                        self._hub.started(lane, frame.seq)
            if batch is not None:
                self._infer(batch)

    def result(self, seconds: float) -> WalkRun:
        self.close()
        stream = self._cameras[0].info
        assert stream is not None  # it gave frames
        return WalkRun(
            frames=self.frames,
            batches=self._batches,
            seconds=seconds,
            detections=self._detections,
            stream=stream,
            moved=dict(self._moved),
        )

    def close(self) -> None:
        """Let go of every picture and source. Idempotent."""
        self._interest.__exit__(None, None, None)
        self._mailbox.close()
        self._hub.snapshots.close()
        for camera in self._cameras:
            camera.close()

    def _infer(self, batch: Batch[Any]) -> None:
        scores = [lane.settings.min_score for lane in batch.lanes]
        found = self._device.stage_run(batch.frames, scores)
        for frame, lane, result in zip(batch.frames, batch.lanes, found, strict=True):
            with self._recorder.span(HAND_OVER):  # what the hub does beside publishing, which it marks itself
                self._hub.finished(lane, frame, result, batch)
            self._moved[PUBLISH] += len(_message(self._subscription))
        self._batches += 1
        self.frames += len(batch)
        self._detections += sum(map(len, found))
        for stage, image_bytes in self._device.image_bytes.items():
            self._moved[stage] += image_bytes * len(batch)

    def _count(self, found: SourceFrame[Any]) -> None:
        picture = found.surface.width * found.surface.height * 3 // 2  # 8 bits, 4:2:0: what cameras send
        self._moved[READ] += round(self._plan.packet_bytes)
        self._moved[DECODE] += picture
        self._moved[PREPROCESS] += picture


def _message(subscription: Subscription) -> bytes:
    """The message that waits, without an event loop: since one waits, `next` ends at once."""
    taking = subscription.next()
    try:
        taking.send(None)
    except StopIteration as done:
        message: bytes = done.value
        return message
    taking.close()
    raise AppError("a frame was inferred and nothing was published")
