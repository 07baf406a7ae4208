"""An FP32 ONNX as FP16, for TensorRT's strongly typed networks: the file says in which type each operation computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from app.errors import ModelError
from app.inference.onnx_file import real_inputs

M = TypeVar("M", NodeProto, TensorProto, ValueInfoProto)
_MAX = float(np.finfo(np.float16).max)
_LEAST_SCALE = float(np.finfo(np.float16).smallest_normal)
_LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
# A convolution with no more weights than this is arithmetic on the outputs (the 16 bins of a YOLOv8 side), not a layer.
_LAYER_WEIGHTS = 32
# What computes as well in half the bits. Anything else keeps FP32, between casts: slower perhaps, never wrong.
_HALF_OPS = """
    Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose DepthToSpace Div Dropout Elu Expand Flatten Gather
    Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu MatMul MaxPool Mish Mul Neg Pad PRelu
    Relu Reshape Resize Sigmoid Slice Softmax Softplus SpaceToDepth Split Squeeze Sub Tanh Tile Transpose Unsqueeze
"""
_HALF = frozenset(_HALF_OPS.split())
_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SCALES_MAY_BE_HALF = 19  # the opset that let Q and DQ take and give FP16
# Inputs that stay FP32 whatever the node computes in: regions and scale factors.
_ALWAYS_FLOAT: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2)}


def to_fp16(model: ModelProto) -> ModelProto:
    """The same model computing in FP16, its inputs and outputs as they were. The given model stays as it is.

    What follows the last layers stays FP32: boxes in pixels are decoded there, and FP16 has steps of half a pixel
    beyond 512. So does what is computed from constants alone, and every layer with a weight that FP16 cannot hold.
    A model that computes in FP16 already comes back as it is. Raises `ModelError` when its types cannot be followed.
    """
    converted = ModelProto()
    converted.CopyFrom(model)
    del converted.graph.value_info[:]  # they would name the old types
    if any(tensor.type.tensor_type.elem_type == TensorProto.FLOAT16 for tensor in converted.graph.input):
        return converted
    constants_as_weights(converted)
    _Conversion(converted).run()
    return converted


@dataclass(slots=True)
class _Conversion:
    """One model on its way. A tensor keeps its name as FP32; what is FP16 of it has a name of its own."""

    model: ModelProto
    floats: set[str] = field(default_factory=set)  # names of FP32 tensors
    weights: dict[str, TensorProto] = field(default_factory=dict)
    halves: dict[str, str] = field(default_factory=dict)  # FP32 name: FP16 name
    nodes: list[NodeProto] = field(default_factory=list)

    def run(self) -> None:
        graph = self.model.graph
        self.floats = _float_tensors(self.model)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        half = self._half_nodes()
        needed = set(self._needed_as_float(half))
        for number, node in enumerate(graph.node):
            if number in half:
                self._append_half(node, needed)
            else:
                self.nodes.append(node)
        # Kept before `graph.node` is emptied: its messages live in it.
        nodes = [_copy(node) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in _inputs(node)} | {tensor.name for tensor in graph.output}
        kept = [_copy(tensor) for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _half_nodes(self) -> set[int]:
        """Positions of the nodes that shall compute in FP16."""
        graph = self.model.graph
        tail = self._tail()
        version = next((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), 0)
        allowed = _HALF | _QUANTISING if version >= _SCALES_MAY_BE_HALF else _HALF
        of_image = {tensor.name for tensor in graph.input}
        found = set()
        for number, node in enumerate(graph.node):
            if of_image.isdisjoint(node.input):
                continue
            of_image.update(name for name in node.output if name in self.floats or node.op_type in _QUANTISING)
            if number not in tail and node.op_type in allowed and self._fits(node):
                found.add(number)
        return self._with_weight_scales(found) if version >= _SCALES_MAY_BE_HALF else found

    def _with_weight_scales(self, half: set[int]) -> set[int]:
        """The nodes that quantise the weights of FP16 layers, too: a weight must have its layer's type."""
        graph = self.model.graph
        found = set(half)
        wanted = {name for number in half for name in graph.node[number].input}
        for number, node in reversed(list(enumerate(graph.node))):
            if node.op_type in _QUANTISING and not wanted.isdisjoint(node.output) and self._fits(node):
                found.add(number)
                wanted.update(node.input)
        return found

    def _fits(self, node: NodeProto) -> bool:
        """Whether FP16 can hold all constants of the node."""
        constants = [self._constant(name) for name in node.input if name in self.floats and name in self.weights]
        if node.op_type == "DequantizeLinear" and node.input[0] in self.weights:  # its integers are scaled already
            return all(np.min(scale, initial=_MAX) >= _LEAST_SCALE for scale in constants)
        return all(np.max(np.abs(value), initial=0.0) <= _MAX for value in constants)

    def _constant(self, name: str) -> NDArray[np.float32]:
        value: NDArray[np.float32] = numpy_helper.to_array(self.weights[name])
        return value

    def _tail(self) -> set[int]:
        """Positions of the nodes that no layer follows."""
        graph = self.model.graph
        before_a_layer: set[str] = set()
        tail = set()
        for number, node in reversed(list(enumerate(graph.node))):
            if is_layer(node, self.weights) or not before_a_layer.isdisjoint(node.output):
                before_a_layer.update(_inputs(node))
            else:
                tail.add(number)
        return tail

    def _needed_as_float(self, half: set[int]) -> Iterator[str]:
        """Names that somebody reads as FP32."""
        graph = self.model.graph
        yield from (tensor.name for tensor in graph.output)
        for number, node in enumerate(graph.node):
            if number not in half:
                yield from _inputs(node)

    def _append_half(self, node: NodeProto, needed: set[str]) -> None:
        twin = _copy(node)
        stays = _ALWAYS_FLOAT.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if name in self.floats and place not in stays:
                # Zero is no scale; weights that are all but zero may have one that FP16 rounds to it.
                least = _LEAST_SCALE if node.op_type in _QUANTISING and place == 1 else None
                twin.input[place] = self._as_half(name, least)
        for place, name in enumerate(node.output):
            if name in self.floats:
                twin.output[place] = self.halves[name] = f"{name}_f16"
        self.nodes.append(twin)
        for name in node.output:
            if name in self.floats and name in needed:
                self.nodes.append(_cast(self.halves[name], name, TensorProto.FLOAT))

    def _as_half(self, name: str, least: float | None = None) -> str:
        if name not in self.halves:
            self.halves[name] = f"{name}_f16"
            if name in self.weights:
                value = self._constant(name) if least is None else np.maximum(self._constant(name), np.float32(least))
                self.model.graph.initializer.append(
                    numpy_helper.from_array(value.astype(np.float16), self.halves[name])
                )
            else:
                self.nodes.append(_cast(name, self.halves[name], TensorProto.FLOAT16))
        return self.halves[name]


def is_layer(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node is one of the network's layers, and not arithmetic on what the last ones gave."""
    sizes = [int(np.prod(weights[name].dims)) for name in node.input[1:2] if name in weights]
    return node.op_type in _LAYERS and (not sizes or sizes[0] > _LAYER_WEIGHTS)


def _float_tensors(model: ModelProto) -> set[str]:
    try:
        graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    except shape_inference.InferenceError as exc:
        raise ModelError(f"has a graph whose types cannot be followed: {' '.join(str(exc).split())[:200]}") from exc
    tensors = (*graph.input, *graph.value_info, *graph.output)
    named = {tensor.name for tensor in tensors if tensor.type.tensor_type.elem_type == TensorProto.FLOAT}
    return named | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def constants_as_weights(model: ModelProto) -> None:
    """Turn `Constant` nodes into initializers and list none of them as an input, so that one rule serves all."""
    graph, rest = model.graph, []
    image_only = [_copy(tensor) for tensor in real_inputs(model)]
    del graph.input[:]
    graph.input.extend(image_only)
    model.ir_version = max(model.ir_version, 4)  # from there on a weight need not be listed as an input
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = _copy(node.attribute[0].t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            rest.append(_copy(node))
    del graph.node[:]
    graph.node.extend(rest)


def _inputs(node: NodeProto) -> Iterable[str]:
    """What a node reads, the graphs inside it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield from _inputs(inner)
            yield from (tensor.name for tensor in graph.output)


def _cast(source: str, target: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=element)


def _copy(message: M) -> M:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
