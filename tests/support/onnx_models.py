"""Tiny ONNX models with known answers, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save_model

SIZE = 64  # input of the bright-cell detector: 64 + 16 + 4 cells
CELLS = 84
Dim: TypeAlias = "int | str"
_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("vidette.test", 1)]


def declared(
    outputs: Mapping[str, Sequence[Dim]],
    *,
    image: Sequence[Dim] = (1, 3, SIZE, SIZE),
    inputs: Mapping[str, Sequence[Dim]] | None = None,
    metadata: Mapping[str, str] | None = None,
    input_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model that declares inputs and outputs and computes nothing sensible: enough to be identified."""
    named = inputs or {"images": image}
    graph = helper.make_graph(
        # An operator that nobody knows, so that nothing can be inferred beyond what is declared.
        [helper.make_node("Unknown", [next(iter(named))], [name], domain="vidette.test") for name in outputs],
        "declared",
        [helper.make_tensor_value_info(name, input_type, list(shape)) for name, shape in named.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
    )
    return _model(graph, metadata or {})


def bright_cells(
    *, batch: Dim = 1, mix_frames: bool = False, quantised: bool = False, input_type: int = TensorProto.FLOAT
) -> ModelProto:
    """A YOLOX of two classes that finds white-hot 8 x 8 cells: blue ones are class 0, red ones class 1.

    Takes BGR 0..255, f32[batch, 3, 64, 64]; gives [batch, 84, 7]. A cell whose mean of blue or red is 255 gives a
    box of exactly that cell, with a score above 0.99; half as bright gives 0.02. `batch` 1 bakes 1 into the Reshapes
    as exporters do. `mix_frames` subtracts the batch's mean of all scores, as a bad model would.
    """
    nodes: list[NodeProto] = []
    weights = [_constant("leading_1", np.array([1 if batch == 1 else 0, 7, -1], dtype=np.int64))]
    image = "images"
    if input_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [image], ["float_images"], to=TensorProto.FLOAT))
        image = "float_images"
    if quantised:
        nodes.append(helper.make_node("DynamicQuantizeLinear", [image], ["q", "q_scale", "q_zero"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "q_scale", "q_zero"], ["dequantised"]))
        image = "dequantised"
    weights += [_constant("weight", _WEIGHT), _constant("bias", _BIAS)]
    for stride in (8, 16, 32):
        s = str(stride)
        pool = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes += [
            helper.make_node("AveragePool", [image], [f"mean_{s}"], **pool),
            helper.make_node("Conv", [f"mean_{s}", "weight", "bias"], [f"raw_{s}"]),
            helper.make_node("Reshape", [f"raw_{s}", "leading_1"], [f"flat_{s}"]),
        ]
    nodes += [
        helper.make_node("Concat", ["flat_8", "flat_16", "flat_32"], ["all"], axis=2),
        helper.make_node("Transpose", ["all"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["rows", "at_0", "at_4", "axis_2"], ["boxes"]),
        helper.make_node("Slice", ["rows", "at_4", "at_7", "axis_2"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    scores = "probabilities"
    if mix_frames:
        nodes.append(helper.make_node("ReduceMean", ["probabilities"], ["shared"], keepdims=1))
        nodes.append(helper.make_node("Sub", ["probabilities", "shared"], ["mixed"]))
        scores = "mixed"
    nodes.append(helper.make_node("Concat", ["boxes", scores], ["output"], axis=2))
    weights += [_constant(f"at_{n}", np.array([n], dtype=np.int64)) for n in (0, 4, 7)]
    weights.append(_constant("axis_2", np.array([2], dtype=np.int64)))
    graph = helper.make_graph(
        nodes,
        "bright_cells",
        [helper.make_tensor_value_info("images", input_type, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, CELLS, 7])],
        initializer=weights,
    )
    return _model(graph, {})


def saved(model: ModelProto, path: Path) -> Path:
    """Write a model, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    return path


def white_cell_image(
    *cells: tuple[int, int], colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (SIZE, SIZE)
) -> NDArray[np.uint8]:
    """A black BGR image of `size` (width, height) with 8 x 8 cells (column, row) in a colour, blue by default."""
    image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for column, row in cells:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = colour
    return image


# Rows: x, y, w, h, objectness, class 0, class 1; columns: mean of blue, green, red.
_WEIGHT = np.zeros((7, 3, 1, 1), dtype=np.float32)
_WEIGHT[4, 0] = _WEIGHT[4, 2] = 20.0 / 255.0
_WEIGHT[5, 0] = _WEIGHT[6, 2] = 20.0 / 255.0
_BIAS = np.array([0.5, 0.5, 0.0, 0.0, -14.0, -14.0, -14.0], dtype=np.float32)


def _constant(name: str, value: NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(value, name)


def _model(graph: object, metadata: Mapping[str, str]) -> ModelProto:
    model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=8)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model
