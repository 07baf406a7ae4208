"""One execution context on the device: everything between a batch of pictures in device memory and its boxes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from app.backends.cuda.driver import Driver, Graph, Module
from app.backends.cuda.engine import Engine, Session
from app.backends.cuda.kernels import Letterbox, Postprocess
from app.backends.cuda.memory import Blocks
from app.backends.cuda.pictures import DevicePicture, PictureTable
from app.backends.cuda.slab import IMAGE_BYTES, read_slab
from app.backends.cuda.surface import CudaSurface
from app.errors import DeviceLost, EngineError
from app.inference.found import Found, detections
from app.inference.model import ModelSpec
from app.nvtx import stage
from app.types import Detections, Frame, StageTimes

log = logging.getLogger(__name__)

_SIZES = (1, 2, 4, 8, 12, 16)  # what a batch is padded up to; each costs a TensorRT context and a graph


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """The batch sizes that a context is prepared for, rising; the last is `max_batch`."""
    return (*(size for size in _SIZES if size < max_batch), max_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What all contexts of a detector share."""

    spec: ModelSpec
    driver: Driver
    engine: Engine
    module: Module
    iou: float
    sizes: tuple[int, ...]  # rising


@dataclass(slots=True, kw_only=True)
class _Step:
    """What the device does for batches of one size."""

    size: int
    session: Session
    graph: Graph | None = None


class CudaRunner:
    """Letterbox, infer and postprocess one batch at a time. Implements `Runner[CudaSurface]`; belongs to one thread.

    All memory is its own and allocated here, so nothing is while it runs. A batch is padded up to the next prepared
    size with blank rows, which the kernels skip.

    Preprocessing, inference and postprocessing are one graph on the device, so no clock stands between them. What
    `StageTimes` says is the host's time: `preprocess_s` for filling the picture table, `infer_s` from the launch until
    the device has done everything (its letterboxing and its decoding of boxes included), `postprocess_s` for reading
    what came back.
    """

    def __init__(self, model: LoadedModel, *, number: int, graphs: bool) -> None:
        """Allocate, warm up and, with `graphs`, capture each size. Blocking; inside `driver.bound()`.

        Raises `EngineError`, `OutOfDeviceMemory`, `DeviceLost`; then nothing stays allocated.
        """
        self._driver = model.driver
        self._capacity = model.sizes[-1]
        self._name = f"context {number}"
        self.notes: tuple[str, ...] = ()
        with ExitStack() as owned:
            self._allocate(model, owned)
            self._steps = [
                self._step(model, size, owned) for size in reversed(model.sizes)
            ]  # the largest first: what does not fit is known soonest
            if graphs:
                self._capture(owned)
            self._owned = owned.pop_all()
        by_size = {step.size: step for step in self._steps}
        sizes = [next(size for size in model.sizes if size >= count) for count in range(1, self._capacity + 1)]
        self._step_for = [by_size[size] for size in sizes]  # by count - 1

    def __repr__(self) -> str:
        captured = sum(step.graph is not None for step in self._steps)
        return f"CudaRunner({self._name}, batches up to {self._capacity}, {captured} graphs)"

    @property
    def device_bytes(self) -> int:
        """Device memory that this context allocated; what graphs and the driver need for it comes on top."""
        return self._blocks.nbytes

    def run(self, frames: Sequence[Frame[CudaSurface]], min_scores: Sequence[float]) -> list[Detections]:
        """Detect in a batch of frames. Blocking. Raises `EngineError`, `DeviceLost`.

        Once it returns or raises, the device reads the surfaces no more.
        """
        found, stages = self.detect([frame.surface for frame in frames], min_scores)
        return [detections(frame, boxes, stages) for frame, boxes in zip(frames, found, strict=True)]

    def detect(self, pictures: Sequence[DevicePicture], min_scores: Sequence[float]) -> tuple[list[Found], StageTimes]:
        """Detect in pictures, as many as there are. Blocking. Raises `EngineError`, `DeviceLost`."""
        found: list[Found] = []
        preprocess_s = infer_s = postprocess_s = 0.0
        for start in range(0, len(pictures), self._capacity):
            part = slice(start, start + self._capacity)
            began = time.perf_counter()
            count = min(self._capacity, len(pictures) - start)
            step = self._step_for[count - 1]
            with stage("preprocess"):
                self._table.write(pictures[part], min_scores[part], rows=step.size)
            filled = time.perf_counter()
            with stage("infer"):
                self._run(step)
            done = time.perf_counter()
            with stage("postprocess"):
                found += read_slab(self._slab, count)
            preprocess_s += filled - began
            infer_s += done - filled
            postprocess_s += time.perf_counter() - done
        return found, StageTimes(preprocess_s=preprocess_s, infer_s=infer_s, postprocess_s=postprocess_s)

    def close(self) -> None:
        """Free everything. Idempotent; never raises, so that one lost context does not keep the others open."""
        try:
            self._owned.close()
        except EngineError as exc:
            log.warning("%s could not be freed entirely: %s", self._name, exc)

    def _allocate(self, model: LoadedModel, owned: ExitStack) -> None:
        driver, engine, capacity = model.driver, model.engine, self._capacity
        self._letterbox = Letterbox(model.module, model.spec, engine.input.element)
        self._postprocess = Postprocess(model.module, model.spec, engine.outputs, iou=model.iou)
        self._blocks = blocks = owned.enter_context(Blocks(driver, owner=self._name))
        table = blocks.pinned(PictureTable.nbytes(capacity), "picture table")
        self._table_source = table.address
        self._table = PictureTable(model.spec, table.array, capacity)
        slab = blocks.pinned(IMAGE_BYTES * capacity, "results")
        self._slab_target = slab.address
        self._slab = slab.array
        self._device_table = blocks.device(PictureTable.nbytes(capacity), "picture table")
        self._device_slab = blocks.device(IMAGE_BYTES * capacity, "results")
        self._input = blocks.device(engine.input.image_bytes * capacity, "input tensor")
        self._outputs = [blocks.device(tensor.image_bytes * capacity, tensor.name) for tensor in engine.outputs]
        self._candidates = blocks.device(max(1, self._postprocess.scratch_bytes(capacity)), "candidate boxes")
        self._scratch = blocks.device(max(1, engine.scratch_bytes), "layers between input and output")
        self._stream = driver.stream()
        owned.callback(self._stream.close)
        self._event = driver.event()
        owned.callback(self._event.close)
        # Blank rows are never written: whatever lay there must not be NaN or slow to compute with.
        driver.fill(self._input, 0, engine.input.image_bytes * capacity, stream=self._stream)

    def _step(self, model: LoadedModel, size: int, owned: ExitStack) -> _Step:
        """Make a size ready and run it once on blank rows: the first run is the slowest, and shows what cannot run."""
        engine = model.engine
        names = (output.name for output in engine.outputs)
        addresses = {engine.input.name: self._input, **dict(zip(names, self._outputs, strict=True))}
        session = engine.session(size, addresses=addresses, scratch=self._scratch)
        owned.callback(session.close)
        step = _Step(size=size, session=session)
        self._table.write([], [], rows=size)
        self._run(step)
        return step

    def _capture(self, owned: ExitStack) -> None:
        """Capture every size, or none: the first that cannot be captured ends it, and `notes` says why."""
        with ExitStack() as graphs:
            try:
                for step in self._steps:
                    step.graph = self._driver.capture(partial(self._queue, step), stream=self._stream)
                    graphs.callback(step.graph.close)
                    self._table.write([], [], rows=step.size)
                    self._run(step)
            except DeviceLost:
                raise
            except EngineError as exc:
                for step in self._steps:
                    step.graph = None
                self.notes = (f"CUDA graphs are off, every batch is queued piece by piece: {exc}",)
                return
            owned.push(graphs.pop_all())

    def _run(self, step: _Step) -> None:
        """Have the device do a step on what is in the table, and sleep until it has."""
        try:
            if step.graph is not None:
                step.graph.launch(stream=self._stream)
            else:
                self._queue(step)
            self._event.record(stream=self._stream)
            self._event.synchronize()
        except Exception:
            # What was queued before still reads the table and the surfaces, which are others' once this raises.
            self._stream.synchronize()
            raise

    def _queue(self, step: _Step) -> None:
        """Queue all of a step: this is what a graph captures."""
        size, stream = step.size, self._stream
        self._driver.copy_in(self._device_table, self._table_source, PictureTable.nbytes(size), stream=stream)
        self._letterbox.launch(table=self._device_table, target=self._input, batch=size, stream=stream)
        step.session.enqueue(stream=stream)
        self._postprocess.launch(
            table=self._device_table,
            outputs=self._outputs,
            scratch=self._candidates,
            slab=self._device_slab,
            batch=size,
            stream=stream,
        )
        self._driver.copy_out(self._slab_target, self._device_slab, IMAGE_BYTES * size, stream=stream)
