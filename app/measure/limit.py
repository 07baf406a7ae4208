"""The limit: what decode + preprocess + infer + postprocess alone can do on these cores.

Measured by a closed loop of the service's own components, without the service. One thread per camera decodes the same
clip from a file, in real time, as the camera would send it; it replaces its newest picture and does nothing else. One
thread per execution context runs preprocess, infer and postprocess over the newest pictures, batch after batch, and
throws the boxes away; when no picture is new it takes an old one again, so it never waits. There is no network, no
queue, no event loop, no rate gate, no ordering, no result.
The inferred frames a second of these threads are the limit; they count from the moment when every camera has shown a
picture.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from app.cameras.source import FrameSource, SourceRequest
from app.errors import AppError, SourceError, SourceErrorCode
from app.measure.figures import LimitRun
from app.measure.usage import UsageMeter
from app.types import Detections, Frame, S, SourceFrame

OpenSource = Callable[[SourceRequest], FrameSource[S]]
# One execution context: blocking, for one thread.
Run = Callable[[Sequence[Frame[S]], Sequence[float]], list[Detections]]

MIN_SCORE = 0.25
_START_S = 20.0
_TICK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPlan:
    """What is run: `cameras` times `clip`, shifted by `phases_s`, in batches of `batch`."""

    clip: Path
    phases_s: tuple[float, ...]  # one for each camera
    batch: int


def measure_limit(
    plan: LimitPlan,
    *,
    open_source: OpenSource[Any],
    runs: Sequence[Run[Any]],
    seconds: float,
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> LimitRun:
    """Run the closed loop for `seconds` after its start. Blocking. Raises `AppError` when a part of it fails."""
    loop: ClosedLoop[Any] = ClosedLoop(plan, open_source=open_source, runs=runs)
    with loop:
        loop.wait_for_pictures()
        meter, before = UsageMeter(), loop.counts()
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(_TICK_S, left_s))
            on_tick(seconds - left_s)
            loop.check()
        after, reading = loop.counts(), meter.read()
    inferred, decoded = after.inferred - before.inferred, after.decoded - before.decoded
    took_s, usage = reading.seconds, reading.usage
    decode_cpu_s = after.decode_cpu_s - before.decode_cpu_s
    return LimitRun(
        seconds=took_s,
        inferred_fps=inferred / took_s,
        decoded_fps=decoded / took_s,
        decode_cpu_ms=1e3 * decode_cpu_s / max(1, decoded),
        infer_cpu_ms=1e3 * (usage.process * took_s - decode_cpu_s) / max(1, inferred),
        usage=usage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCounts:
    decoded: int
    inferred: int
    decode_cpu_s: float


class ClosedLoop(Generic[S]):
    """Runs while its context is open. Every thread writes its own counters only."""

    def __init__(self, plan: LimitPlan, *, open_source: OpenSource[S], runs: Sequence[Run[S]]) -> None:
        self._plan = plan
        self._open_source = open_source
        self._lock = threading.Lock()
        self._newest: deque[tuple[int, SourceFrame[S]]] = deque()  # one a camera at most, oldest first
        self._stop = threading.Event()
        self._failed: list[Exception] = []
        self._decoded = [0] * len(plan.phases_s)
        self._decode_cpu_s = [0.0] * len(plan.phases_s)
        self._inferred = [0] * len(runs)
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._decode, number), name=f"limit:camera-{number}")
            for number in range(len(plan.phases_s))
        ] + [
            threading.Thread(target=self._guarded, args=(self._infer, number, run), name=f"limit:context-{number}")
            for number, run in enumerate(runs)
        ]

    def __enter__(self) -> ClosedLoop[S]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        while self._newest:
            self._newest.popleft()[1].surface.release()

    def counts(self) -> LoopCounts:
        return LoopCounts(
            decoded=sum(self._decoded), inferred=sum(self._inferred), decode_cpu_s=sum(self._decode_cpu_s)
        )

    def check(self) -> None:
        """Raise what ended one of the threads."""
        if self._failed:
            raise AppError(f"the limit could not be measured: {self._failed[0]}") from self._failed[0]

    def wait_for_pictures(self) -> None:
        """Until every camera and every context has done its first work."""
        ends_at = time.monotonic() + _START_S
        while not (all(self._decoded) and all(self._inferred)):
            self.check()
            if time.monotonic() > ends_at:
                raise AppError(f"the limit could not be measured: not every camera showed a picture in {_START_S:g} s")
            time.sleep(_TICK_S)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as exc:  # a thread's end must not go unnoticed: `check` raises it
            self._failed.append(exc)

    def _decode(self, number: int) -> None:
        self._stop.wait(self._plan.phases_s[number])
        clip = self._plan.clip
        request = SourceRequest(camera_id=f"limit-{number}", url=f"file:{clip.name}", media_dir=clip.parent)
        while not self._stop.is_set():
            with contextlib.closing(self._open_source(request)) as source:
                try:
                    for frame in source.frames():
                        self._show(number, frame)
                        self._decode_cpu_s[number] = time.thread_time()
                        if self._stop.is_set():
                            return
                except SourceError as exc:
                    if exc.code is not SourceErrorCode.END_OF_STREAM:
                        raise

    def _show(self, number: int, frame: SourceFrame[S]) -> None:
        self._decoded[number] += 1
        with self._lock:
            older = next((item for item in self._newest if item[0] == number), None)
            if older is not None:
                self._newest.remove(older)
            self._newest.append((number, frame))
        if older is not None:
            older[1].surface.release()

    def _infer(self, number: int, run: Run[S]) -> None:
        batch: deque[Frame[S]] = deque()
        try:
            while not self._stop.is_set():
                self._refill(batch)
                if not batch:
                    self._stop.wait(0.001)
                    continue
                run(batch, [MIN_SCORE] * len(batch))
                self._inferred[number] += len(batch)
        finally:
            for frame in batch:
                frame.surface.release()

    def _refill(self, batch: deque[Frame[S]]) -> None:
        """Take new pictures, as many as fit, in exchange for the oldest that were inferred already."""
        with self._lock:
            taken = [self._newest.popleft() for _ in range(min(self._plan.batch, len(self._newest)))]
        for number, frame in taken:
            if len(batch) == self._plan.batch:
                batch.popleft().surface.release()
            batch.append(
                Frame(camera_id=str(number), seq=1, pts_s=frame.pts_s, times=frame.times, surface=frame.surface)
            )
