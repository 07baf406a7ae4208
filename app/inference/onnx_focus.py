"""The Focus layer that YOLOX and YOLOv5 begin with, as the one convolution that it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

_CORNERS = frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})
Weights = Mapping[str, "NDArray[np.generic]"]


def fuse_focus(model: ModelProto) -> ModelProto:
    """The same model with its Focus layers folded into the convolutions after them; the given one when it has none.

    Focus takes every second row and column into four pictures (eight Slices and a Concat) and convolves those with a
    k x k kernel. That is a convolution of the picture itself with a 2k x 2k kernel and stride 2, of as many
    multiplications: equal but for rounding, without five copies of the picture. What is put together in another way
    stays as it is. The given model is not changed.
    """
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(output.name for output in model.graph.output)
    made_by = {name: node for node in model.graph.node for name in node.output}
    weights = _weights(model)
    fused: dict[str, NodeProto] = {}
    gone: set[str] = set()
    kernels = []
    for conv in model.graph.node:
        concat = made_by.get(conv.input[0]) if conv.op_type == "Conv" else None
        if concat is None or not _is_plain(conv, weights) or uses[conv.input[0]] != 1:
            continue
        corners = _corners(concat, made_by, weights)
        if corners is None:
            continue
        picture, order = corners
        name = f"{conv.output[0]}_focus_weight"
        kernels.append(numpy_helper.from_array(_interleaved(weights[conv.input[1]], order), name))
        fused[conv.output[0]] = _strided(conv, picture, name)
        gone.add(concat.output[0])
    if not fused:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(
        fused.get(node.output[0], node) for node in model.graph.node if gone.isdisjoint(node.output)
    )
    result.graph.initializer.extend(kernels)
    _drop_unused(result)
    return result


def _corners(
    concat: NodeProto, made_by: Mapping[str, NodeProto], weights: Weights
) -> tuple[str, list[tuple[int, int]]] | None:
    """The picture that a Concat puts together again from its four corners, and their (row, column) in its order."""
    if concat.op_type != "Concat" or len(concat.input) != 4 or _attributes(concat).get("axis") not in (1, -3):
        return None
    order, pictures = [], set()
    for name in concat.input:
        starts: dict[int, int] = {}
        while (node := made_by.get(name)) is not None and node.op_type == "Slice":
            taken = _every_second(node, weights)
            if taken is None or not starts.keys().isdisjoint(taken):
                break
            starts.update(taken)
            name = node.input[0]
        if set(starts) != {2, 3}:
            return None
        order.append((starts[2], starts[3]))
        pictures.add(name)
    return (pictures.pop(), order) if len(pictures) == 1 and set(order) == _CORNERS else None


def _every_second(node: NodeProto, weights: Weights) -> dict[int, int] | None:
    """{axis: first} of a Slice that takes every second row or column to the end, else None."""
    if len(node.input) != 5 or any(name not in weights for name in node.input[1:]):
        return None
    starts, ends, axes, steps = ([int(n) for n in weights[name].reshape(-1)] for name in node.input[1:])
    to_the_end = all(end >= np.iinfo(np.int32).max for end in ends)
    if not to_the_end or any(step != 2 for step in steps) or any(start not in (0, 1) for start in starts):
        return None
    return {axis % 4: start for axis, start in zip(axes, starts, strict=True)}


def _is_plain(conv: NodeProto, weights: Weights) -> bool:
    attributes = _attributes(conv)
    return (
        conv.input[1] in weights
        and weights[conv.input[1]].ndim == 4
        and weights[conv.input[1]].shape[1] % 4 == 0
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and set(attributes.get("dilations", [1])) == {1}
    )


def _interleaved(kernel: NDArray[np.generic], order: list[tuple[int, int]]) -> NDArray[np.generic]:
    outputs, inputs, height, width = kernel.shape
    channels = inputs // 4
    wide = np.zeros((outputs, channels, 2 * height, 2 * width), dtype=kernel.dtype)
    for number, (row, column) in enumerate(order):
        wide[:, :, row::2, column::2] = kernel[:, number * channels : (number + 1) * channels]
    return wide


def _strided(conv: NodeProto, picture: str, kernel: str) -> NodeProto:
    attributes = _attributes(conv)
    attributes.pop("kernel_shape", None)  # the weights say it
    attributes["strides"] = [2 * stride for stride in attributes.get("strides", [1, 1])]
    attributes["pads"] = [2 * pad for pad in attributes.get("pads", [0, 0, 0, 0])]
    return helper.make_node("Conv", [picture, kernel, *conv.input[2:]], list(conv.output), conv.name, **attributes)


def _drop_unused(model: ModelProto) -> None:
    """Take out the Slices that nobody reads any more, and the constants that only they read."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if node.op_type in ("Slice", "Constant") and read.isdisjoint(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _weights(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
