"""ONNX Runtime: a session for each batch size, and the contexts that run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from app.backends.cpu.engine import ModelGraphs, one_line, random_images
from app.backends.cpu.tuning import Plan
from app.errors import EngineError, ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_file import real_inputs
from app.types import FloatArray

NAME = "onnxruntime"
_INPUT = "vidette_images"
_SILENT = 4  # its log level: what it would print is raised as well
_ERRORS = (
    RuntimeError,
    ValueError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntimeContext:
    """Implements `Context`. Binding the outputs to memory of our own gained nothing that could be measured."""

    def __init__(
        self, images: NDArray[np.uint8], sessions: Mapping[int, ort.InferenceSession], output_names: Sequence[str]
    ):
        self.images = images
        self.sizes = tuple(sorted(sessions, reverse=True))
        self._sessions = sessions
        self._output_names = list(output_names)

    def infer(self, start: int, size: int) -> list[FloatArray]:
        try:
            outputs = self._sessions[size].run(self._output_names, {_INPUT: self.images[start : start + size]})
        except _ERRORS as exc:
            raise EngineError(f"a batch of {size} could not be inferred: {one_line(exc)}") from exc
        return list(outputs)


class OnnxRuntimeEngine:
    """Implements `Engine`."""

    precisions = ("fp32",)  # it has no BF16 kernels for these processors

    def __init__(self, graphs: ModelGraphs) -> None:
        self.graphs = graphs
        self._shared: dict[int, ort.InferenceSession] = {}

    def context(self, plan: Plan, sizes: Sequence[int], images: NDArray[np.uint8] | None = None) -> OnnxRuntimeContext:
        """Raises `ModelError` when ONNX Runtime cannot use the model."""
        if images is None:
            images = random_images(self.graphs.spec, max(sizes))
        # A session without threads of its own computes in those that call it, and any number of them may.
        sessions = {size: self._session(size) if plan.threads == 1 else self._open(size, plan) for size in sizes}
        return OnnxRuntimeContext(images, sessions, self.graphs.spec.output_names)

    def _session(self, size: int) -> ort.InferenceSession:
        if size not in self._shared:
            self._shared[size] = self._open(size, None)
        return self._shared[size]

    def _open(self, size: int, plan: Plan | None) -> ort.InferenceSession:
        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = 1 if plan is None else plan.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # A thread that spins while it waits takes the core from a decoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with self._model_errors():
            model = with_image_input(self.graphs.graph(size), self.graphs.spec, size)
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    @contextmanager
    def _model_errors(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as exc:
            raise ModelError(f"model {self.graphs.spec.name} cannot be used by ONNX Runtime: {one_line(exc)}") from exc


def with_image_input(model: ModelProto, spec: ModelSpec, size: int) -> ModelProto:
    """The model for batches of `size` that takes u8[size, height, width, 3] and gives f32 under the same names.

    Bytes are transposed, not floats: a quarter of the memory.
    """
    image = real_inputs(model)[0]
    element = image.type.tensor_type.elem_type
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes: list[NodeProto] = []
    value = _INPUT

    def then(op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def per_channel(name: str, values: Sequence[float]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.float32).reshape(1, 3, 1, 1), name))
        return name

    value = then("Transpose", [value], f"{_INPUT}_planar", perm=[0, 3, 1, 2])
    value = then("Cast", [value], f"{_INPUT}_float", to=TensorProto.FLOAT)
    if any(spec.mean):
        value = then("Sub", [value, per_channel(f"{_INPUT}_mean", spec.mean)], f"{_INPUT}_centred")
    if any(std != 1 for std in spec.std):
        value = then("Div", [value, per_channel(f"{_INPUT}_std", spec.std)], f"{_INPUT}_scaled")
    then("Cast", [value], image.name, to=element)
    body = list(graph.node)
    nodes += body + _casts_to_float(made)
    shape = [size, spec.input_height, spec.input_width, 3]
    others = [tensor for tensor in graph.input if tensor.name != image.name]
    for field, items in (
        (graph.node, nodes),
        (graph.input, [helper.make_tensor_value_info(_INPUT, TensorProto.UINT8, shape), *others]),
    ):
        del field[:]
        field.extend(items)
    del graph.value_info[:]  # they may hold the shapes of another batch
    return made


def _casts_to_float(model: ModelProto) -> list[NodeProto]:
    """Casts for the outputs that are no f32; renames what made them, so that the outputs keep their names."""
    halves = [output for output in model.graph.output if output.type.tensor_type.elem_type != TensorProto.FLOAT]
    names = {output.name: f"{output.name}_uncast" for output in halves}
    for node in model.graph.node:
        for places in (node.input, node.output):
            for number, name in enumerate(places):
                if name in names:
                    places[number] = names[name]
    for output in halves:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    return [helper.make_node("Cast", [inner], [name], to=TensorProto.FLOAT) for name, inner in names.items()]
