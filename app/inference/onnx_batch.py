"""Making a fixed-batch ONNX take any batch, and checking that a batch gives what its frames give alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from app.inference.onnx_file import real_inputs
from app.types import FloatArray

BATCH_AXIS = "batch"
# Per value: 1e-3 + 1e-3 |value|, a thousandth of a score and of a coordinate. OpenVINO gave equal bits for batches of
# 1, 4 and 8 of five models, in fp32 and bf16; other kernels may round differently. A scale shared over the batch shows.
TOLERANCE = 1e-3

# One batch of images u8[n, height, width, 3] in, every output f32[n, ...] out.
Infer: TypeAlias = Callable[[NDArray[np.uint8]], Sequence[FloatArray]]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batchable:
    """A model for batches of any size, as far as its graph can tell. `reason`: why only single frames are safe."""

    model: ModelProto
    reason: str | None = None


def make_batchable(model: ModelProto) -> Batchable:
    """Free the batch axis of a model, and every constant in the graph that has a batch of 1 baked in.

    Handles Reshape (leading 1 -> 0, "as in the input", or -1), Resize with fixed sizes (-> scales) and Slice over
    the batch axis. What else a graph may bake in shows in `batch_mismatch`, which must follow. The given model stays
    as it is.
    """
    if any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node):
        return Batchable(
            model=model,
            reason="its dynamic quantisation takes one scale over the whole batch, "
            "so a camera's boxes would depend on the other cameras in the batch",
        )
    image = real_inputs(model)[0]
    if image.type.tensor_type.shape.dim[0].dim_value <= 0:
        return Batchable(model=model)
    freed = ModelProto()
    freed.CopyFrom(model)
    _free_constants(freed, image.name)
    for tensor in (*real_inputs(freed), *freed.graph.output):
        if shape := tensor.type.tensor_type.shape.dim:
            shape[0].dim_param = BATCH_AXIS
    del freed.graph.value_info[:]  # they hold the shapes of batch 1
    return Batchable(model=freed)


def batch_mismatch(infer: Infer, size: int, image_shape: tuple[int, int], *, seed: int = 0) -> str | None:
    """None when a batch of `size` random images gives the same as its images one by one, else the reason why not.

    Same means: every output has the batch as its first axis and every value is within `TOLERANCE`. The images differ
    from each other, so a model that mixes its frames is found out.
    """
    images = np.random.default_rng(seed).integers(0, 256, (size, *image_shape, 3), dtype=np.uint8)
    # A dim frame beside a bright one: a scale that is shared over the batch would show.
    images[::2] //= 8
    singles = [[np.array(output) for output in infer(images[i : i + 1])] for i in range(size)]
    batch = [np.array(output) for output in infer(images)]
    for number, outputs in enumerate(zip(*singles, strict=True)):
        alone = np.concatenate(outputs)
        if batch[number].shape != alone.shape:
            return (
                f"a batch of {size} gives an output of shape {list(batch[number].shape)} "
                f"where its frames one by one give {list(alone.shape)}"
            )
        difference = np.abs(batch[number] - alone)
        if not np.all(difference <= TOLERANCE * (1.0 + np.abs(alone))):  # NaN is a mismatch too
            return f"a batch of {size} differs from its frames one by one by up to {np.nanmax(difference):.3g}"
    return None


def _free_constants(model: ModelProto, image_name: str) -> None:
    shapes = _static_shapes(model)
    constants = _constants(model)
    downstream = {image_name}
    for node in model.graph.node:
        if downstream.isdisjoint(node.input):
            continue  # computed from constants alone: an anchor grid keeps its leading 1 and is broadcast
        downstream.update(node.output)
        if node.op_type in _FREE:
            _FREE[node.op_type](model, node, constants, shapes)


def _free_reshape(model: ModelProto, node: NodeProto, constants: Mapping[str, TensorProto], shapes: Shapes) -> None:
    wanted = _ints(constants, node.input[1])
    if wanted is None or len(wanted) == 0 or wanted[0] != 1:
        return
    if shapes.get(node.input[0], ())[:1] == (1,) and not _attribute(node, "allowzero", 0):
        _replace_input(model, node, 1, np.array([0, *wanted[1:]], dtype=np.int64))
    elif -1 not in wanted:
        _replace_input(model, node, 1, np.array([-1, *wanted[1:]], dtype=np.int64))


def _free_resize(model: ModelProto, node: NodeProto, constants: Mapping[str, TensorProto], shapes: Shapes) -> None:
    before = shapes.get(node.input[0])
    sizes = _ints(constants, node.input[3]) if len(node.input) > 3 else None
    if before is None or sizes is None or len(sizes) != len(before) or sizes[0] != 1:
        return
    scales = np.array([size / length for size, length in zip(sizes, before, strict=True)], dtype=np.float32)
    del node.input[3]
    _replace_input(model, node, 2, scales)


def _free_slice(model: ModelProto, node: NodeProto, constants: Mapping[str, TensorProto], shapes: Shapes) -> None:
    """A slice that keeps the whole batch axis of one: its end becomes "to the end"."""
    starts, ends = (_ints(constants, name) for name in node.input[1:3])
    if starts is None or ends is None:
        return
    axes = _ints(constants, node.input[3]) if len(node.input) > 3 and node.input[3] else list(range(len(starts)))
    if axes is None or 0 not in axes:
        return
    position = axes.index(0)
    if starts[position] == 0 and ends[position] == 1 and shapes.get(node.input[0], ())[:1] == (1,):
        ends[position] = np.iinfo(np.int64).max
        _replace_input(model, node, 2, np.array(ends, dtype=np.int64))


_FREE: Mapping[str, Callable[[ModelProto, NodeProto, Mapping[str, TensorProto], Shapes], None]] = {
    "Reshape": _free_reshape,
    "Resize": _free_resize,
    "Slice": _free_slice,
}


def _replace_input(model: ModelProto, node: NodeProto, position: int, value: NDArray[np.generic]) -> None:
    # A constant of its own: the old one may serve other nodes as well.
    name = f"{node.output[0]}_any_batch"
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    node.input[position] = name


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _ints(constants: Mapping[str, TensorProto], name: str) -> list[int] | None:
    tensor = constants.get(name)
    return None if tensor is None else [int(value) for value in numpy_helper.to_array(tensor).reshape(-1)]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == name), default)


def _static_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes at batch 1, of all tensors whose shape is fully known."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except shape_inference.InferenceError:
        graph = model.graph
    return dict(_known_shapes((*graph.input, *graph.value_info, *graph.output)))


def _known_shapes(tensors: Iterable[object]) -> Iterable[tuple[str, tuple[int, ...]]]:
    for tensor in tensors:
        sizes = tuple(axis.dim_value for axis in tensor.type.tensor_type.shape.dim)  # type: ignore[attr-defined]
        if all(size > 0 for size in sizes):
            yield tensor.name, sizes  # type: ignore[attr-defined]
