"""Opening a detector on the device: its contexts, how many of them and which batch, by measuring."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from app.backends.cuda import tuning
from app.backends.cuda.contexts import CudaRunner, LoadedModel
from app.backends.cuda.driver import Driver, OutOfDeviceMemory
from app.backends.cuda.memory import Blocks
from app.backends.cuda.surface import CudaSurface, PictureLayout
from app.inference.pool import PooledDetector
from app.inference.timing import time_streams
from app.types import EngineInfo

log = logging.getLogger(__name__)

TUNING_BUDGET_S = 3.0
_MEASUREMENT_S = 0.15
_MIN_SCORE = 0.25

CudaDetector: TypeAlias = PooledDetector[CudaSurface]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a user may have written down; None leaves it to the measurement."""

    contexts: int | None = None
    batch: int | None = None  # what `best_batch` will be
    graphs: bool = True
    tune: bool = True
    budget_s: float = TUNING_BUDGET_S


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOrigin:
    """What `EngineInfo` tells of an engine beyond its model."""

    backend: str  # tensorrt, tensorrt_rtx
    precision: str
    notes: tuple[str, ...] = ()


def open_cuda_detector(
    model: LoadedModel,
    origin: EngineOrigin,
    *,
    plan: Plan | None = None,
    max_batch: int = 16,
    on_progress: Callable[[str], None] = lambda sentence: None,
    on_closed: Callable[[], None] = lambda: None,
) -> CudaDetector:
    """Make the contexts of a model and measure for up to 3 s how to run it. Blocking; inside `driver.bound()`.

    Batches of up to `max_batch` are accepted whatever batch the engine takes at once. `on_closed` frees what `model`
    holds, in the detector's last thread, inside `driver.bound()`; when this raises, that is left to the caller, and
    everything else is freed. Raises `EngineError`, `OutOfDeviceMemory`, `DeviceLost`.
    """
    plan = plan or Plan()
    free, _ = model.driver.memory()
    runners = _Runners(model, graphs=plan.graphs)
    with ExitStack() as failed:
        failed.callback(runners.close)
        choice = _choose(model, runners, plan, on_progress)
        kept = runners.keep(choice.contexts)
        taken = max(0, free - model.driver.memory()[0])
        info = _info(model, origin, choice, kept, max_batch, taken)
        detector = PooledDetector[CudaSurface](
            info, kept, name="cuda-detector", in_thread=model.driver.bound, on_closed=on_closed
        )
        failed.pop_all()
    for note in info.notes:
        log.info("model %s: %s", info.model, note)
    return detector


class _Runners:
    """The contexts that were made so far. Belongs to one thread."""

    def __init__(self, model: LoadedModel, *, graphs: bool) -> None:
        self._model = model
        self._graphs = graphs
        self._made: list[CudaRunner] = []

    def first(self, count: int) -> list[CudaRunner]:
        """The first `count` contexts, made where they are not. Raises `OutOfDeviceMemory` and others."""
        while len(self._made) < count:
            self._made.append(CudaRunner(self._model, number=len(self._made) + 1, graphs=self._graphs))
        return self._made[:count]

    def keep(self, count: int) -> list[CudaRunner]:
        """The first `count` contexts; the others are closed."""
        kept, others = self.first(count), self._made[count:]
        self._made = list(kept)
        for runner in others:
            runner.close()
        return kept

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


def _choose(model: LoadedModel, runners: _Runners, plan: Plan, on_progress: Callable[[str], None]) -> tuning.Choice:
    largest = model.sizes[-1]
    space = tuning.Space(
        contexts=plan.contexts,
        batch=None if plan.batch is None else min(plan.batch, largest),
        sizes=model.sizes,
        budget_s=plan.budget_s,
    )
    if not plan.tune:
        return space.unmeasured
    needed = plan.contexts or tuning.USUAL_CONTEXTS
    on_progress(f"making {needed} contexts")
    runners.first(needed)  # what these lack room for cannot be run at all; what more of them lack is no harm
    on_progress("measuring how many contexts and which batch are fastest")
    with RandomPicture(model.driver) as picture:

        def measure(contexts: int, batch: int) -> float | None:
            try:
                busy = runners.first(contexts)
            except OutOfDeviceMemory as exc:
                log.info("model %s: %d contexts were not measured: %s", model.spec.name, contexts, exc)
                return None
            runs = [partial(run_batch, model.driver, runner, picture, batch) for runner in busy]
            return time_streams(runs, duration_s=_MEASUREMENT_S, clock=time.perf_counter)

        return tuning.choose(measure, space, clock=time.monotonic)


def _info(
    model: LoadedModel,
    origin: EngineOrigin,
    choice: tuning.Choice,
    runners: Sequence[CudaRunner],
    max_batch: int,
    taken: int,
) -> EngineInfo:
    spec, largest = model.spec, model.sizes[-1]
    own = sum(runner.device_bytes for runner in runners)
    # The device's own count: graphs and TensorRT's contexts are in it, and whatever others took meanwhile.
    notes = [choice.note(), f"contexts take {taken >> 20} MiB of device memory, {own >> 20} MiB of it for tensors"]
    notes += dict.fromkeys(note for runner in runners for note in runner.notes)
    if largest < max_batch:
        notes.append(f"the engine takes {largest} frames at once; larger batches run in parts")
    return EngineInfo(
        model=spec.name,
        sha256=spec.sha256,
        family=spec.family,
        input_width=spec.input_width,
        input_height=spec.input_height,
        classes=spec.classes,
        precision=origin.precision,
        backend=origin.backend,
        device=model.driver.name,
        max_batch=max_batch,
        best_batch=choice.batch,
        contexts=len(runners),
        capacity_fps=choice.fps,
        notes=(*notes, *origin.notes),
    )


def run_batch(driver: Driver, runner: CudaRunner, picture: RandomPicture, batch: int) -> None:
    """One batch of the same picture, in whichever thread calls: what is measured."""
    with driver.bound():
        runner.detect([picture] * batch, [_MIN_SCORE] * batch)


class RandomPicture:
    """A picture of noise in device memory, NV12. Implements `DevicePicture` while it is entered."""

    def __init__(self, driver: Driver, *, width: int = 1280, height: int = 720) -> None:  # a usual camera's
        self.width, self.height = width, height
        self._driver = driver
        self._blocks = Blocks(driver, owner="the measurement")

    def __enter__(self) -> RandomPicture:
        layout = PictureLayout(
            width=self.width,
            height=self.height,
            chroma_width=self.width // 2,
            chroma_height=self.height // 2,
            sample_bytes=1,
            interleaved=True,
        )
        with ExitStack() as failed:
            failed.callback(self._blocks.close)
            address = self._blocks.device(layout.nbytes, "picture")
            self._fill(address, layout.nbytes)
            failed.pop_all()
        self.planes = layout.planes(address, full_range=False, matrix="bt709")
        return self

    def __exit__(self, *_: object) -> None:
        self._blocks.close()

    def _fill(self, address: int, nbytes: int) -> None:
        with Blocks(self._driver, owner="the measurement") as passing:
            noise = passing.pinned(nbytes, "picture")
            noise.array[:] = np.random.default_rng(0).integers(0, 256, nbytes, dtype=np.uint8)
            stream = self._driver.stream()
            try:
                self._driver.copy_in(address, noise.address, nbytes, stream=stream)
                stream.synchronize()
            finally:
                stream.close()
