"""What every inference engine of the CPU backend has in common: the graphs it is given, and the contexts it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from app.backends.cpu.tuning import Plan
from app.errors import EngineError, ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_batch import batch_mismatch, make_batchable
from app.inference.onnx_file import load_onnx
from app.inference.onnx_focus import fuse_focus
from app.types import FloatArray

P = ParamSpec("P")
T = TypeVar("T")
_QUANTISED_OPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"})


class Context(Protocol):
    """One execution context over one batch buffer. Belongs to one thread."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """The buffer, u8[n, height, width, 3]."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs, largest first."""

    def infer(self, start: int, size: int) -> list[FloatArray]:
        """Run the frames `start` to `start + size` of the buffer. Blocking; lets go of the GIL.

        `size` is one of `sizes`. Returns the outputs in the family's order, f32[size, ...]: views that hold until the
        next call. Raises `EngineError`.
        """


class Engine(Protocol):
    """A model that can be run by any plan in any batch size. Any thread, one at a time."""

    @property
    def graphs(self) -> ModelGraphs: ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the engine can compute this model in on this processor."""

    def context(self, plan: Plan, sizes: Sequence[int], images: NDArray[np.uint8] | None = None) -> Context:
        """A context for batches of `sizes` over `images`, u8[n, height, width, 3] with n at least the largest size.

        None takes random images, to measure with. Raises `ModelError`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraphs:
    """A model as the engines are given it: for single frames, and for batches if it takes any."""

    spec: ModelSpec
    single: ModelProto
    batch: ModelProto
    batch_1_reason: str | None  # why only single frames are safe, as far as the graph tells
    quantised: bool

    def graph(self, size: int) -> ModelProto:
        return self.single if size == 1 else self.batch


def load_graphs(spec: ModelSpec) -> ModelGraphs:
    """Read a model's file and prepare it. Blocking. Raises `ModelError`."""
    original = fuse_focus(load_onnx(spec.path))
    batchable = make_batchable(original)
    return ModelGraphs(
        spec=spec,
        single=original,
        batch=batchable.model,
        batch_1_reason=batchable.reason,
        quantised=any(node.op_type in _QUANTISED_OPS for node in original.graph.node),
    )


def mismatch(engine: Engine, plan: Plan, size: int) -> str | None:
    """None when a batch of `size` gives what its frames give alone, else the reason why it cannot be used."""
    spec = engine.graphs.spec
    images = random_images(spec, size)

    def infer(batch: NDArray[np.uint8]) -> list[FloatArray]:
        images[: len(batch)] = batch
        return context.infer(0, len(batch))

    try:
        context = engine.context(plan, (1, size), images)
        return batch_mismatch(infer, size, (spec.input_height, spec.input_width))
    except (ModelError, EngineError) as exc:
        return f"a batch of {size} cannot be run: {exc}"


def random_images(spec: ModelSpec, count: int) -> NDArray[np.uint8]:
    """u8[count, height, width, 3] of noise, to measure with."""
    shape = (count, spec.input_height, spec.input_width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def one_line(exc: Exception) -> str:
    """The end of an engine library's message, on one line: there it names the operation and what is wrong with it."""
    return " ".join(str(exc).split())[-300:]


def off_main_thread(work: Callable[[], T]) -> T:
    """Do the work in a thread of its own. Blocking.

    OpenVINO gives a thread that compiles a model, or frees one, a signal stack that may vanish before the thread does.
    The next signal that the main thread gets, such as SIGTERM, would end the process with a segmentation fault.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="openvino") as thread:
        return thread.submit(work).result()


def in_own_thread(work: Callable[P, T]) -> Callable[P, T]:
    """The same function, but done `off_main_thread`."""

    @wraps(work)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        return off_main_thread(lambda: work(*args, **kwargs))

    return done
