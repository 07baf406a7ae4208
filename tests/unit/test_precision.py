"""FP16 and INT8 models: what is converted, what is left alone, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, shape_inference

from app.backends.cuda.fp16 import to_fp16
from app.backends.cuda.int8 import OPSET_OF_TENSORRT_8, quantise
from app.backends.cuda.trial import openvino_infer
from app.backends.int8.calibration import MAX_IMAGES, MIN_IMAGES, calibration_set
from app.backends.int8.quantise import QuantiserMissing, is_quantised, model_input
from app.errors import ModelError
from app.inference.model import ModelSpec, read_onnx, resolve_model
from app.inference.onnx_batch import make_batchable
from app.inference.onnx_file import load_onnx
from tests.support.onnx_models import bright_cells, saved, white_cell_image

ROOT = Path(__file__).resolve().parents[2]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor, as ONNX itself sees them; raises when they contradict each other."""
    checker.check_model(model)
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    return {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}


def computed(model: ModelProto, op_type: str) -> set[int]:
    """The types in which the nodes of a kind compute."""
    of_tensor = types(model)
    return {of_tensor[node.output[0]] for node in model.graph.node if node.op_type == op_type}


def layered(weight: float = 0.1, *, last_op: str = "Sigmoid") -> ModelProto:
    """Two convolutions with a Relu between, and behind them arithmetic: a sum over 16 bins, a product, `last_op`."""
    values = np.full((16, 3, 3, 3), weight, dtype=np.float32)
    weights = {
        "first": values,
        "second": np.full((16, 16, 1, 1), 0.1, dtype=np.float32),
        "bins": np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1),
        "stride": np.array([8.0], dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], kernel_shape=[3, 3], name="first_layer"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second_layer"),
        helper.make_node("Conv", ["c", "bins"], ["d"], name="sum_of_bins"),
        helper.make_node("Mul", ["d", "stride"], ["e"]),
        helper.make_node(last_op, ["e"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layered",
        [helper.make_tensor_value_info("images", FLOAT, ["batch", 3, 10, 10])],
        [helper.make_tensor_value_info("output", FLOAT, ["batch", 1, 8, 8])],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_layers_compute_in_fp16_and_what_follows_them_in_fp32() -> None:
    model = to_fp16(layered())
    of_tensor = types(model)
    producers = {node.name: of_tensor[node.output[0]] for node in model.graph.node if node.op_type == "Conv"}
    assert producers == {"first_layer": HALF, "second_layer": HALF, "sum_of_bins": FLOAT}
    assert computed(model, "Relu") == {HALF}
    assert computed(model, "Mul") == computed(model, "Sigmoid") == {FLOAT}
    assert (of_tensor["images"], of_tensor["output"]) == (FLOAT, FLOAT)


def test_weights_of_fp16_layers_are_stored_in_fp16_only() -> None:
    stored = {tensor.name: tensor.data_type for tensor in to_fp16(layered()).graph.initializer}
    assert stored == {"first_f16": HALF, "second_f16": HALF, "bins": FLOAT, "stride": FLOAT}


def test_the_given_model_stays_as_it_is() -> None:
    model = layered()
    before = model.SerializeToString(deterministic=True)
    to_fp16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_layer_with_a_weight_beyond_fp16_stays_in_fp32() -> None:
    model = to_fp16(layered(weight=70_000.0))
    of_tensor = types(model)
    producers = {node.name: of_tensor[node.output[0]] for node in model.graph.node if node.op_type == "Conv"}
    assert producers["first_layer"] == FLOAT
    assert producers["second_layer"] == HALF


def test_a_model_that_is_fp16_already_is_not_converted_again(tmp_path: Path) -> None:
    model = bright_cells(input_type=TensorProto.FLOAT16)
    assert to_fp16(model) == model


def test_a_model_whose_types_contradict_each_other_is_refused() -> None:
    model = layered()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="has a graph whose types cannot be followed"):
        to_fp16(model)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_fp16_finds_what_fp32_finds(tmp_path: Path, batch: int | str) -> None:
    spec = read_onnx(saved(bright_cells(batch=batch), tmp_path / "cells.onnx"))
    model = make_batchable(load_onnx(spec.path)).model
    images = np.stack([white_cell_image((1, 2), (5, 5)), white_cell_image((7, 0), colour=(0, 0, 255))])
    (wanted,) = openvino_infer(spec, model)(images)
    (given,) = openvino_infer(spec, to_fp16(model))(images)
    assert given == pytest.approx(wanted, abs=2e-3)
    assert wanted.max() > 0.9


# INT8


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures that can be read."""
    folder = tmp_path / "photos"
    write_photos(folder, MIN_IMAGES)
    return folder


def write_photos(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(count)
    for number in range(count):
        picture = cv2.resize(random.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
        assert cv2.imwrite(str(folder / f"{number:04}.png"), picture)


@pytest.fixture(scope="module")
def demo() -> ModelSpec:
    return resolve_model(str(ROOT / "models" / "vidette-demo"), ROOT)


def test_calibration_images_are_counted_and_hashed(photos: Path) -> None:
    first = calibration_set(photos)
    assert len(first.images) == MIN_IMAGES
    assert first.notes == (f"INT8 scales come from {MIN_IMAGES} images",)
    assert calibration_set(photos).sha256 == first.sha256
    (photos / "0000.png").write_bytes((photos / "0001.png").read_bytes())
    assert calibration_set(photos).sha256 != first.sha256


def test_unreadable_calibration_images_are_counted_and_named(photos: Path) -> None:
    for name in ("a.jpg", "b.JPEG", "c.png", "d.png"):
        (photos / name).write_bytes(b"no picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("not asked for")
    found = calibration_set(photos)
    assert len(found.images) == MIN_IMAGES
    assert found.notes[1] == "5 could not be read: a.jpg, b.JPEG, c.png and 2 more"


def test_a_calibration_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.jpg or \.png images"):
        calibration_set(tmp_path)
    with pytest.raises(ModelError, match=r"calibration folder .*/gone cannot be read: No such file or directory"):
        calibration_set(tmp_path / "gone")


def test_too_few_calibration_images_are_refused(photos: Path) -> None:
    (photos / "0003.png").write_bytes(b"broken")
    with pytest.raises(ModelError) as refused:
        calibration_set(photos)
    assert "has 7 images that can be read, at least 8 are needed; 1 could not be read: 0003.png" in str(refused.value)


def test_a_large_calibration_folder_is_thinned_evenly(tmp_path: Path) -> None:
    write_photos(tmp_path / "many", 1)
    content = (tmp_path / "many" / "0000.png").read_bytes()
    for number in range(2 * MAX_IMAGES):
        (tmp_path / "many" / f"{number:04}.png").write_bytes(content)
    names = [path.stem for path in calibration_set(tmp_path / "many").images]
    assert names == [f"{number:04}" for number in range(0, 2 * MAX_IMAGES, 2)]


def test_a_missing_quantiser_is_a_sentence_with_its_command(
    demo: ModelSpec, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(QuantiserMissing, match=r"INT8 needs the package onnxruntime .*pip install 'vidette\[int8\]'"):
        quantise(demo, load_onnx(demo.path), calibration_set(photos), on_progress=no_news)


def test_model_input_is_normalised_and_in_planes(demo: ModelSpec) -> None:
    image = np.zeros((1, 4, 5, 3), dtype=np.uint8)
    image[0, 1, 2] = (10, 20, 30)
    given = model_input(demo, image)
    assert given.shape == (1, 3, 4, 5)
    assert given.dtype == np.float32
    wanted = (np.array([10, 20, 30]) - np.array(demo.mean)) / np.array(demo.std)
    assert given[0, :, 1, 2] == pytest.approx(wanted)


def test_dequantised_integers_with_a_scale_below_fp16_stay_in_fp32() -> None:
    assert computed(to_fp16(quantised_weight(1e-7)), "DequantizeLinear") == {FLOAT}
    assert computed(to_fp16(quantised_weight(1e-2)), "DequantizeLinear") == {HALF}


def test_a_scale_below_fp16_is_raised_where_the_weight_is_still_a_float() -> None:
    model = to_fp16(quantised_weight(1e-9, with_pair=True))
    (scale,) = (each for each in model.graph.initializer if each.name == "scale_f16")
    assert numpy_helper.to_array(scale).min() > 0
    types(model)


def quantised_weight(scale: float, *, with_pair: bool = False) -> ModelProto:
    """A convolution whose weight is dequantised: from integers, or from a float through a Q/DQ pair."""
    weights: dict[str, NDArray[np.generic]] = {
        "scale": np.full(16, scale, dtype=np.float32),
        "zero": np.zeros(16, dtype=np.int8),
        "second": np.full((16, 16, 1, 1), 0.1, dtype=np.float32),
    }
    nodes = []
    if with_pair:
        weights["weight"] = np.full((16, 3, 3, 3), scale, dtype=np.float32)
        nodes.append(helper.make_node("QuantizeLinear", ["weight", "scale", "zero"], ["integers"], axis=0))
    else:
        weights["integers"] = np.full((16, 3, 3, 3), 100, dtype=np.int8)
    nodes += [
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["floats"], axis=0),
        helper.make_node("Conv", ["images", "floats"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["a", "second"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("images", FLOAT, ["batch", 3, 10, 10])],
        [helper.make_tensor_value_info("output", FLOAT, ["batch", 16, 8, 8])],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_quantised_models_keep_their_last_and_their_narrow_layers(demo: ModelSpec, photos: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    news: list[str] = []
    model = make_batchable(load_onnx(demo.path)).model
    quantised = quantise(demo, model, calibration_set(photos), on_progress=news.append)
    assert is_quantised(quantised)
    assert not is_quantised(model)
    assert news[0] == f"calibrating INT8: image 1 of {MIN_IMAGES}"
    stored = {tensor.name for tensor in quantised.graph.initializer}
    kept = {
        node.name.rpartition("#")[0] for node in quantised.graph.node if node.input[1:2] and node.input[1] in stored
    }
    widths = {tensor.name: tensor.dims[1] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    narrow = {node.name for node in layers if widths[node.input[1]] < 32}
    assert narrow and {*narrow, *last_layers(model)} == kept & {node.name for node in layers}
    assert len(kept) < len(layers)
    types(to_fp16(quantised))


def test_tensorrt_8_gets_an_opset_that_it_reads(demo: ModelSpec, photos: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = make_batchable(load_onnx(demo.path)).model
    quantised = quantise(demo, model, calibration_set(photos), opset=OPSET_OF_TENSORRT_8, on_progress=no_news)
    assert all(each.version <= 17 for each in quantised.opset_import if each.domain == "")
    types(quantised)


def last_layers(model: ModelProto) -> Iterable[str]:
    """Convolutions that no other follows."""
    followed: set[str] = set()
    for node in reversed(model.graph.node):
        if not followed.isdisjoint(node.output) or node.op_type == "Conv":
            if node.op_type == "Conv" and followed.isdisjoint(node.output):
                yield node.name
            followed.update(node.input)


def no_news(sentence: str) -> None:
    """For work whose progress the test does not follow."""
