"""Freeing the batch axis of a model, and not trusting the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from app.inference.onnx_batch import TOLERANCE, batch_mismatch, make_batchable
from app.types import FloatArray
from tests.support.onnx_models import SIZE, bright_cells


def _run(model: ModelProto, images: NDArray[np.uint8]) -> list[FloatArray]:
    evaluator = ReferenceEvaluator(model)
    outputs: list[FloatArray] = evaluator.run(None, {"images": images.transpose(0, 3, 1, 2).astype(np.float32)})
    return outputs


def _mismatch(model: ModelProto, size: int = 3) -> str | None:
    return batch_mismatch(lambda images: _run(model, images), size, (SIZE, SIZE))


def _graph(
    nodes: Sequence[NodeProto],
    out: Sequence[int | str],
    constants: Mapping[str, Sequence[int]],
    *,
    batch: int | str = 1,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, list(out))],
        initializer=[numpy_helper.from_array(np.array(v, dtype=np.int64), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_fixed_batch_becomes_free_and_gives_the_same_boxes() -> None:
    fixed = bright_cells()
    freed = make_batchable(fixed)
    assert freed.reason is None
    assert freed.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert freed.model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert _mismatch(freed.model) is None
    image = np.random.default_rng(1).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    assert np.array_equal(_run(freed.model, image)[0], _run(fixed, image)[0])


def test_the_given_model_stays_as_it_is() -> None:
    fixed = bright_cells()
    before = fixed.SerializeToString()
    make_batchable(fixed)
    assert fixed.SerializeToString() == before


def test_a_model_that_is_free_already_is_left_alone() -> None:
    model = bright_cells(batch="N")
    assert make_batchable(model).model is model
    assert _mismatch(model) is None


def test_freeing_the_declared_axis_alone_is_found_out() -> None:
    naive = bright_cells()
    naive.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    naive.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert _mismatch(naive) == (
        "a batch of 3 gives an output of shape [1, 252, 7] where its frames one by one give [3, 84, 7]"
    )


def test_a_model_that_mixes_its_frames_is_found_out() -> None:
    reason = _mismatch(make_batchable(bright_cells(mix_frames=True)).model)
    assert reason is not None and reason.startswith("a batch of 3 differs from its frames one by one by up to 0.")


def test_a_difference_in_the_scores_is_not_hidden_by_large_coordinates() -> None:
    def infer(images: NDArray[np.uint8]) -> list[FloatArray]:
        row = np.array([[640.0, 0.5 if len(images) == 1 else 0.5 + 3 * TOLERANCE]], dtype=np.float32)
        return [np.repeat(row, len(images), axis=0)]

    assert batch_mismatch(infer, 2, (8, 8)) == "a batch of 2 differs from its frames one by one by up to 0.003"


def test_rounding_is_no_difference() -> None:
    def infer(images: NDArray[np.uint8]) -> list[FloatArray]:
        return [np.full((len(images), 2), 640.0 + len(images) * 1e-3, dtype=np.float32)]

    assert batch_mismatch(infer, 3, (8, 8)) is None


def test_not_a_number_is_a_difference() -> None:
    def infer(images: NDArray[np.uint8]) -> list[FloatArray]:
        values = [0.0, 1.0] if len(images) == 1 else [np.nan, 1.0]
        return [np.full((len(images), 2), values, dtype=np.float32)]

    assert batch_mismatch(infer, 3, (8, 8)) is not None


def test_a_dynamically_quantised_model_runs_at_batch_1() -> None:
    model = bright_cells(quantised=True)
    batchable = make_batchable(model)
    assert batchable.model is model
    assert batchable.reason is not None and "one scale over the whole batch" in batchable.reason


def test_a_reshape_that_folds_channels_into_the_batch_is_freed_by_minus_one() -> None:
    model = _graph(
        [
            helper.make_node("Reshape", ["images", "fold"], ["folded"]),
            helper.make_node("Reshape", ["folded", "unfold"], ["out"]),
        ],
        [1, 3, SIZE * SIZE],
        {"fold": [-1, SIZE * SIZE], "unfold": [1, 3, SIZE * SIZE]},
    )
    assert _mismatch(make_batchable(model).model) is None


def test_a_shape_constant_that_two_nodes_share_is_not_changed_for_the_other() -> None:
    model = _graph(
        [
            helper.make_node("Reshape", ["images", "shape"], ["flat"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceMean", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["flat", "zero"], ["out"]),
        ],
        [1, 3 * SIZE * SIZE],
        {"shape": [1, 3 * SIZE * SIZE]},
    )
    freed = make_batchable(model).model
    assert _mismatch(freed) is None
    shape = next(tensor for tensor in freed.graph.initializer if tensor.name == "shape")
    assert numpy_helper.to_array(shape).tolist() == [1, 3 * SIZE * SIZE]


def test_a_constant_in_a_node_is_freed_too() -> None:
    value = numpy_helper.from_array(np.array([1, -1], dtype=np.int64))
    model = _graph(
        [
            helper.make_node("Constant", [], ["shape"], value=value),
            helper.make_node("Reshape", ["images", "shape"], ["out"]),
        ],
        [1, 3 * SIZE * SIZE],
        {},
    )
    assert _mismatch(make_batchable(model).model) is None


def test_a_reshape_where_zero_means_zero_keeps_its_meaning() -> None:
    model = _graph(
        [helper.make_node("Reshape", ["images", "shape"], ["out"], allowzero=1)],
        [1, 3, SIZE * SIZE],
        {"shape": [1, 3, SIZE * SIZE]},
    )
    assert _mismatch(make_batchable(model).model) is None


def test_a_resize_to_a_fixed_size_becomes_one_by_scale() -> None:
    model = _graph(
        [helper.make_node("Resize", ["images", "", "", "sizes"], ["out"], mode="nearest")],
        [1, 3, 2 * SIZE, 2 * SIZE],
        {"sizes": [1, 3, 2 * SIZE, 2 * SIZE]},
    )
    assert _mismatch(make_batchable(model).model) is None


def test_a_slice_of_the_whole_batch_of_one_takes_the_whole_batch() -> None:
    model = _graph(
        [helper.make_node("Slice", ["images", "starts", "ends", "axes"], ["out"])],
        [1, 3, SIZE // 2, SIZE],
        {"starts": [0, 0], "ends": [1, SIZE // 2], "axes": [0, 2]},
    )
    assert _mismatch(make_batchable(model).model) is None


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Slice", ["images", "zeros", "ends"], ["out"]),  # a shape known only at run time
        helper.make_node("Slice", ["images", "zeros", "two", "two"], ["out"]),  # another axis
        helper.make_node("Reshape", ["images", "zeros"], ["out"]),
        helper.make_node("Resize", ["images", "", "scales"], ["out"]),
        helper.make_node("Reshape", ["images", "minus"], ["out"]),
    ],
)
def test_what_bakes_no_batch_in_is_left_alone(node: NodeProto) -> None:
    shape = helper.make_node("Shape", ["images"], ["ends"])
    constants = {"zeros": [0], "two": [2], "minus": [-1, 3]}
    model = _graph([shape, node], [1, 3, SIZE, SIZE], constants)
    freed = make_batchable(model).model
    assert list(freed.graph.node[1].input) == list(node.input)


def test_a_grid_that_is_computed_from_constants_keeps_its_leading_one() -> None:
    model = _graph(
        [
            helper.make_node("ConstantOfShape", ["count"], ["flat_grid"]),
            helper.make_node("Reshape", ["flat_grid", "grid_shape"], ["grid"]),
            helper.make_node("Add", ["images", "grid"], ["out"]),
        ],
        [1, 3, SIZE, SIZE],
        {"count": [SIZE * SIZE], "grid_shape": [1, 1, SIZE, SIZE]},
    )
    freed = make_batchable(model).model
    assert freed.graph.node[1].input[1] == "grid_shape"
    assert _mismatch(freed) is None


def test_a_graph_whose_shapes_cannot_be_followed_is_freed_as_far_as_it_goes() -> None:
    model = _graph(
        [
            helper.make_node("Unknown", ["images"], ["magic"], domain="nobody.knows"),
            helper.make_node("Reshape", ["magic", "shape"], ["out"]),
        ],
        [1, 3, SIZE, SIZE],
        {"shape": [1, 3, SIZE, SIZE]},
    )
    freed = make_batchable(model).model
    assert freed.graph.node[1].input[1] == "out_any_batch"
