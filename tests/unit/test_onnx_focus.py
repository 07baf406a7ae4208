"""Folding a Focus layer into the convolution after it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from app.inference.onnx_focus import fuse_focus

YOLOX = ((0, 0), (1, 0), (0, 1), (1, 1))  # (row, column) of the corners, in its own order
ROWS_FIRST = ((0, 0), (0, 1), (1, 0), (1, 1))
FAR = np.iinfo(np.int64).max


def _constant(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def _focus(
    corners: tuple[tuple[int, int], ...] = YOLOX, *, kernel: int = 3, step: int = 2, end: int = FAR, group: int = 1
) -> ModelProto:
    """Focus and a convolution of 12 to 4 channels, over f32[batch, 3, 8, 12]."""
    random = np.random.default_rng(3)
    weight = random.normal(size=(4, 12 // group, kernel, kernel)).astype(np.float32)
    nodes = []
    for row, column in corners:
        name = f"{row}{column}"
        nodes.append(helper.make_node("Slice", ["images", f"at_{row}", "end", "rows", "step"], [f"rows_{name}"]))
        nodes.append(
            helper.make_node("Slice", [f"rows_{name}", f"at_{column}", "end", "columns", "step"], [f"corner_{name}"])
        )
    nodes.append(helper.make_node("Concat", [f"corner_{r}{c}" for r, c in corners], ["focus"], axis=1))
    nodes.append(helper.make_node("Conv", ["focus", "weight", "bias"], ["output"], pads=[kernel // 2] * 4, group=group))
    graph = helper.make_graph(
        nodes,
        "focus",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 12])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        initializer=[
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(random.normal(size=4).astype(np.float32), "bias"),
            *(_constant(f"at_{n}", n) for n in (0, 1)),
            _constant("end", end),
            _constant("rows", 2),
            _constant("columns", 3),
            _constant("step", step),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model: ModelProto) -> NDArray[np.float32]:
    images = np.random.default_rng(5).normal(size=(2, 3, 8, 12)).astype(np.float32)
    return np.asarray(ReferenceEvaluator(model).run(None, {"images": images})[0], dtype=np.float32)


@pytest.mark.parametrize("corners", [YOLOX, ROWS_FIRST])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_fused_model_gives_what_the_model_gave(corners: tuple[tuple[int, int], ...], kernel: int) -> None:
    model = _focus(corners, kernel=kernel)
    before = model.SerializeToString()
    fused = fuse_focus(model)
    checker.check_model(fused)
    assert [node.op_type for node in fused.graph.node] == ["Conv"]
    assert {tensor.name for tensor in fused.graph.initializer} == {"bias", "output_focus_weight"}
    assert _run(fused) == pytest.approx(_run(model), abs=1e-4)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    "model",
    [
        _focus(((0, 0), (1, 0), (0, 1), (0, 1))),  # a corner twice
        _focus(step=1),
        _focus(end=8),  # ends within the picture, for all that the graph tells
        _focus(group=4),
    ],
)
def test_what_is_no_focus_stays_as_it_is(model: ModelProto) -> None:
    assert fuse_focus(model) is model


def test_a_focus_that_is_read_elsewhere_too_stays_as_it_is() -> None:
    model = _focus()
    model.graph.output.append(helper.make_tensor_value_info("focus", TensorProto.FLOAT, ["batch", 12, 4, 6]))
    assert fuse_focus(model) is model
