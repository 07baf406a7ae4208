"""OpenVINO: a model compiled for a CPU, once per batch size, and the contexts that run it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from onnx import ModelProto
from openvino.preprocess import PrePostProcessor

from app.backends.cpu.tuning import Plan, plan_for
from app.cores import available_cores
from app.errors import EngineError, ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_batch import batch_mismatch, make_batchable
from app.inference.onnx_file import load_onnx
from app.types import FloatArray

P = ParamSpec("P")
T = TypeVar("T")
_DEVICE = "CPU"
_PRECISION_HINT = {"fp32": "f32", "bf16": "bf16"}
_QUANTISED_OPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"})


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


class Context:
    """One set of infer requests, over one batch buffer. Belongs to one thread.

    OpenVINO does not keep the memory that a request reads alive, so the context does.
    """

    def __init__(self, images: NDArray[np.uint8], compiled: Mapping[int, ov.CompiledModel], outputs: Sequence[int]):
        self.images = images
        self._outputs = outputs
        self._requests = {size: model.create_infer_request() for size, model in compiled.items()}
        self._tensors: dict[tuple[int, int], ov.Tensor] = {}
        self.sizes = tuple(sorted(self._requests, reverse=True))

    def infer(self, start: int, size: int) -> list[FloatArray]:
        """Run the frames `start` to `start + size` of the buffer. Blocking; lets go of the GIL.

        `size` is one of `sizes`. Returns the outputs in the family's order, f32[size, ...]: views that hold until the
        next call. Raises `EngineError`.
        """
        request = self._requests[size]
        tensor = self._tensors.get((start, size))
        if tensor is None:
            tensor = self._tensors[start, size] = ov.Tensor(self.images[start : start + size], shared_memory=True)
        try:
            request.set_input_tensor(tensor)
            results = request.infer(share_outputs=True)
        except RuntimeError as exc:
            raise EngineError(f"a batch of {size} could not be inferred: {_reason(exc)}") from exc
        return [results[number] for number in self._outputs]


class Engine:
    """A model that can be compiled for any plan and batch size. Any thread, one at a time."""

    def __init__(self, spec: ModelSpec) -> None:
        """Read the model. Blocking. Raises `ModelError` when OpenVINO cannot."""
        original = load_onnx(spec.path)
        batchable = make_batchable(original)
        self.spec = spec
        self.batch_1_reason = batchable.reason
        self.quantised = any(node.op_type in _QUANTISED_OPS for node in original.graph.node)
        self._core = ov.Core()
        self._single = self._read(original)
        self._batch = self._single if batchable.model is original else self._read(batchable.model)
        self._outputs = _positions(self._single, spec.output_names)
        self._compiled: dict[tuple[Plan, int], ov.CompiledModel] = {}

    @property
    def device(self) -> str:
        """The processor's own name."""
        return str(self._core.get_property(_DEVICE, "FULL_DEVICE_NAME"))

    @property
    def precisions(self) -> tuple[str, ...]:
        """What this processor computes in natively: fp32, and bf16 where it has the instructions."""
        return (
            ("fp32", "bf16") if "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES") else ("fp32",)
        )

    def context(self, plan: Plan, sizes: Sequence[int], images: NDArray[np.uint8] | None = None) -> Context:
        """A context for batches of `sizes` over `images`, u8[n, height, width, 3] with n at least the largest size.

        Static shapes, one model compiled per size: with a dynamic batch axis yolox_nano took 12 to 38 % longer a frame.
        Raises `ModelError`.
        """
        if images is None:
            images = self.random_images(max(sizes))
        return Context(images, {size: self._compile(plan, size) for size in sizes}, self._outputs)

    def mismatch(self, plan: Plan, size: int) -> str | None:
        """None when a batch of `size` gives what its frames give alone, else the reason why it cannot be used."""
        images = self.random_images(size)

        def infer(batch: NDArray[np.uint8]) -> list[FloatArray]:
            images[: len(batch)] = batch
            return context.infer(0, len(batch))

        try:
            context = self.context(plan, (1, size), images)
            return batch_mismatch(infer, size, (self.spec.input_height, self.spec.input_width))
        except (ModelError, EngineError) as exc:
            return f"a batch of {size} cannot be run: {exc}"

    def random_images(self, count: int) -> NDArray[np.uint8]:
        """u8[count, height, width, 3] of noise, to measure with."""
        shape = (count, self.spec.input_height, self.spec.input_width, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def _read(self, model: ModelProto) -> ov.Model:
        with self._model_errors():
            return self._core.read_model(io.BytesIO(model.SerializeToString()))

    def _compile(self, plan: Plan, size: int) -> ov.CompiledModel:
        if (plan, size) not in self._compiled:
            with self._model_errors():
                model = self._with_image_input((self._single if size == 1 else self._batch).clone(), size)
                self._compiled[plan, size] = self._core.compile_model(model, _DEVICE, _properties(plan))
        return self._compiled[plan, size]

    def _with_image_input(self, model: ov.Model, size: int) -> ov.Model:
        """The model for batches of `size` that takes u8[size, height, width, 3] and gives f32."""
        spec = self.spec
        model.reshape({model.inputs[0]: ov.PartialShape([size, 3, spec.input_height, spec.input_width])})
        graph = PrePostProcessor(model)
        image = graph.input()
        image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        image.model().set_layout(ov.Layout("NCHW"))
        image.preprocess().convert_element_type(ov.Type.f32).mean(list(spec.mean)).scale(list(spec.std))
        for number in range(len(model.outputs)):
            graph.output(number).tensor().set_element_type(ov.Type.f32)
        return graph.build()

    @contextmanager
    def _model_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as exc:
            raise ModelError(f"model {self.spec.name} cannot be used by OpenVINO: {_reason(exc)}") from exc


@in_own_thread
def check_model(spec: ModelSpec) -> str | None:
    """Run a model once on random images, alone and in batches of 3 and 16. Blocking, seconds.

    Returns None, or the sentence why the service will run it at batch 1. Raises `ModelError` when it cannot be run.
    """
    engine = Engine(spec)
    plan = plan_for("fp32", 1, available_cores())
    try:
        engine.context(plan, (1,)).infer(0, 1)
    except EngineError as exc:
        raise ModelError(f"model {spec.name} cannot be run: {exc}") from exc
    return engine.batch_1_reason or engine.mismatch(plan, 3) or engine.mismatch(plan, 16)


def _properties(plan: Plan) -> dict[str, object]:
    return {
        "NUM_STREAMS": plan.streams,
        "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
        "INFERENCE_PRECISION_HINT": _PRECISION_HINT[plan.precision],
        "ENABLE_CPU_PINNING": False,  # decoders need the same cores, and a pinned thread cannot step aside
    }


def _positions(model: ov.Model, names: Sequence[str]) -> tuple[int, ...]:
    """Where the named outputs are among all outputs of the model."""
    position = {name: number for number, output in enumerate(model.outputs) for name in output.get_names()}
    return tuple(position[name] for name in names)


def _reason(exc: RuntimeError) -> str:
    """The end of one of OpenVINO's messages, on one line: there it names the operation and what is wrong with it."""
    return " ".join(str(exc).split())[-300:]
