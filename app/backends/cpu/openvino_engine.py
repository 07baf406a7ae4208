"""OpenVINO: a model compiled for a CPU, once per batch size, and the contexts that run it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from onnx import ModelProto
from openvino.preprocess import PrePostProcessor

from app.backends.cpu.engine import ModelGraphs, in_own_thread, load_graphs, mismatch, one_line, random_images
from app.backends.cpu.tuning import Plan, Variant, plan_for
from app.cores import available_cores
from app.errors import EngineError, ModelError
from app.inference.model import ModelSpec
from app.types import FloatArray

log = logging.getLogger(__name__)

NAME = "openvino"
_DEVICE = "CPU"
# Has Q/DQ pairs computed as they are written, in floats, instead of the layers between them in integers.
AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO"}
# How far integers may be off, see `_error`: 0.07 (yolov8n) and 0.10 (yolox_nano) where they were right, 1.0 and 1.6
# where they were wrong.
_MOST_ERROR = 0.4
_PRECISION_HINT = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoContext:
    """Implements `Context` by one infer request for each batch size.

    OpenVINO does not keep the memory that a request reads alive, so the context does.
    """

    def __init__(self, images: NDArray[np.uint8], compiled: Mapping[int, ov.CompiledModel], outputs: Sequence[int]):
        self.images = images
        self._outputs = outputs
        self._requests = {size: model.create_infer_request() for size, model in compiled.items()}
        self._tensors: dict[tuple[int, int], ov.Tensor] = {}
        self.sizes = tuple(sorted(self._requests, reverse=True))

    def infer(self, start: int, size: int) -> list[FloatArray]:
        request = self._requests[size]
        tensor = self._tensors.get((start, size))
        if tensor is None:
            tensor = self._tensors[start, size] = ov.Tensor(self.images[start : start + size], shared_memory=True)
        try:
            request.set_input_tensor(tensor)
            results = request.infer(share_outputs=True)
        except RuntimeError as exc:
            raise EngineError(f"a batch of {size} could not be inferred: {one_line(exc)}") from exc
        return [results[number] for number in self._outputs]


class OpenVinoEngine:
    """Implements `Engine`."""

    def __init__(self, graphs: ModelGraphs) -> None:
        """Read the model. Blocking. Raises `ModelError` when OpenVINO cannot."""
        self.graphs = graphs
        self._core = ov.Core()
        self._single = self._read(graphs.single)
        self._batch = self._single if graphs.batch is graphs.single else self._read(graphs.batch)
        self._outputs = _positions(self._single, graphs.spec.output_names)
        self._compiled: dict[tuple[Plan, int], ov.CompiledModel] = {}

    @property
    def precisions(self) -> tuple[str, ...]:
        """What this processor computes in natively: fp32, and bf16 where it has the instructions."""
        return ("fp32", "bf16") if self._has_bf16 else ("fp32",)

    def context(self, plan: Plan, sizes: Sequence[int], images: NDArray[np.uint8] | None = None) -> OpenVinoContext:
        """Static shapes, one model compiled per size: with a dynamic batch axis yolox_nano took 12 to 38 % longer."""
        if images is None:
            images = random_images(self.graphs.spec, max(sizes))
        return OpenVinoContext(images, {size: self._compile(plan, size) for size in sizes}, self._outputs)

    @property
    def _has_bf16(self) -> bool:
        return "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")

    @cached_property
    def _integers_are_right(self) -> bool:
        """Whether this processor's integer kernels give what the quantised model says.

        OpenVINO 2026.4 gets signed activations wrong on a processor with AVX-VNNI and no AMX: no box is left.
        """
        spec, outputs = self.graphs.spec, []
        for how in ({}, AS_WRITTEN):
            properties = {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", **how}
            with self._model_errors():
                model = self._with_image_input(self._single.clone(), 1)
                compiled = self._core.compile_model(model, _DEVICE, properties)
            request = compiled.create_infer_request()
            results = request.infer({0: random_images(spec, 1)})
            outputs.append([np.array(results[number], dtype=np.float32) for number in self._outputs])
        integers, floats = outputs
        right = all(_error(*both) <= _MOST_ERROR for both in zip(integers, floats, strict=True))
        if not right:
            log.warning(
                "model %s is computed in floats: OpenVINO's integer kernels get it wrong on this processor", spec.name
            )
        return right

    def _read(self, model: ModelProto) -> ov.Model:
        with self._model_errors():
            return self._core.read_model(io.BytesIO(model.SerializeToString()))

    def _compile(self, plan: Plan, size: int) -> ov.CompiledModel:
        if (plan, size) not in self._compiled:
            with self._model_errors():
                model = self._with_image_input((self._single if size == 1 else self._batch).clone(), size)
                self._compiled[plan, size] = self._core.compile_model(model, _DEVICE, self._properties(plan))
        return self._compiled[plan, size]

    def _with_image_input(self, model: ov.Model, size: int) -> ov.Model:
        """The model for batches of `size` that takes u8[size, height, width, 3] and gives f32."""
        spec = self.graphs.spec
        model.reshape({model.inputs[0]: ov.PartialShape([size, 3, spec.input_height, spec.input_width])})
        graph = PrePostProcessor(model)
        image = graph.input()
        image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        image.model().set_layout(ov.Layout("NCHW"))
        image.preprocess().convert_element_type(ov.Type.f32).mean(list(spec.mean)).scale(list(spec.std))
        for number in range(len(model.outputs)):
            graph.output(number).tensor().set_element_type(ov.Type.f32)
        return graph.build()

    def _properties(self, plan: Plan) -> dict[str, object]:
        # What a quantised model computes in floats is computed in the fastest ones there are.
        floats = ("bf16" if self._has_bf16 else "fp32") if plan.precision == "int8" else plan.precision
        return {
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
            "INFERENCE_PRECISION_HINT": _PRECISION_HINT[floats],
            "ENABLE_CPU_PINNING": False,  # decoders need the same cores, and a pinned thread cannot step aside
            **(AS_WRITTEN if self.graphs.quantised and not self._integers_are_right else {}),
        }

    @contextmanager
    def _model_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as exc:
            raise ModelError(f"model {self.graphs.spec.name} cannot be used by OpenVINO: {one_line(exc)}") from exc


def processor_name() -> str:
    """The processor's own name."""
    return str(ov.Core().get_property(_DEVICE, "FULL_DEVICE_NAME"))


@in_own_thread
def check_model(spec: ModelSpec) -> str | None:
    """Run a model once on random images, alone and in batches of 3 and 16. Blocking, seconds.

    Returns None, or the sentence why the service will run it at batch 1. Raises `ModelError` when it cannot be run.
    """
    engine = OpenVinoEngine(load_graphs(spec))
    plan = plan_for(Variant(engine=NAME, precision="fp32"), 1, available_cores())
    try:
        engine.context(plan, (1,)).infer(0, 1)
    except EngineError as exc:
        raise ModelError(f"model {spec.name} cannot be run: {exc}") from exc
    return engine.graphs.batch_1_reason or mismatch(engine, plan, 3) or mismatch(engine, plan, 16)


def _error(one: FloatArray, other: FloatArray) -> float:
    """How far one output is off the other, as a share of the latter: the median over its channels.

    Boxes in pixels would drown scores in one sum, so each channel is looked at along the longest axis, its anchors.
    """
    anchors = int(np.argmax(other.shape))
    lengths = np.linalg.norm(other, axis=anchors)
    return float(np.median(np.linalg.norm(one - other, axis=anchors) / np.maximum(lengths, 1e-9)))


def _positions(model: ov.Model, names: Sequence[str]) -> tuple[int, ...]:
    """Where the named outputs are among all outputs of the model."""
    position = {name: number for number, output in enumerate(model.outputs) for name in output.get_names()}
    return tuple(position[name] for name in names)
