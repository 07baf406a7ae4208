"""Finding and describing a model, and every reason to refuse one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from app.errors import ModelError
from app.inference.labels import COCO, default_labels
from app.inference.model import ModelSpec, parse_toml, read_onnx, read_toml, resolve_model
from tests.support.onnx_models import bright_cells, declared, saved

V8_NAMES = {"names": "{0: 'cat', 1: 'dog'}", "task": "detect"}


def _write_toml(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    toml = directory / "model.toml"
    toml.write_text(text, encoding="utf-8")
    return toml


def test_an_onnx_describes_itself(tmp_path: Path) -> None:
    path = saved(bright_cells(), tmp_path / "cells.onnx")
    spec = read_onnx(path)
    assert spec == ModelSpec(
        name="cells",
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        family="yolox",
        input_width=64,
        input_height=64,
        colour="bgr",
        letterbox="top_left",
        pad=114,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        classes=("class_0", "class_1"),
        licence=None,
        input_name="images",
        output_names=("output",),
        dynamic_batch=False,
    )


def test_metadata_names_classes_size_and_licence(tmp_path: Path) -> None:
    metadata = {**V8_NAMES, "imgsz": "[320, 256]", "license": "AGPL-3.0"}
    model = declared({"out": ("batch", 6, "anchors")}, image=("batch", 3, "h", "w"), metadata=metadata)
    spec = read_onnx(saved(model, tmp_path / "v8.onnx"))
    assert (spec.family, spec.classes, spec.licence) == ("yolov8", ("cat", "dog"), "AGPL-3.0")
    assert (spec.input_width, spec.input_height, spec.dynamic_batch) == (256, 320, True)
    assert (spec.colour, spec.letterbox, spec.std) == ("rgb", "centre", (255.0, 255.0, 255.0))


@pytest.mark.parametrize(("imgsz", "size"), [("512", 512), ("nonsense(", 640), ("[1, 2, 3]", 640)])
def test_a_free_input_takes_the_size_of_the_metadata_or_640(tmp_path: Path, imgsz: str, size: int) -> None:
    model = declared({"out": (1, 6, "a")}, image=(1, 3, "h", "w"), metadata={**V8_NAMES, "imgsz": imgsz})
    assert read_onnx(saved(model, tmp_path / "m.onnx")).input_width == size


def test_free_output_axes_are_inferred_from_the_input_size(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["images"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Conv", ["small", "w"], ["heads"]),
            helper.make_node("Reshape", ["heads", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["out"], perm=[0, 2, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "anchors", 7])],
        initializer=[
            helper.make_tensor("w", TensorProto.FLOAT, [7 * 21, 3, 1, 1], [0.0] * (7 * 21 * 3)),
            helper.make_tensor("shape", TensorProto.INT64, [3], [0, 7, -1]),
        ],
    )
    # 21 values for each cell of stride 8: at 64 x 64 that is 3 anchors for each of 64 + 16 + 4 cells and more.
    path = saved(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx"
    )
    with pytest.raises(ModelError, match=r"model m has outputs out \[1, 134400, 7\]; supported are"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("['a', 'b']", ("a", "b")),
        ("{1: 'b', 0: 'a'}", ("a", "b")),
        ("{1: 'b', 2: 'a'}", ("class_0", "class_1")),
        ("7", ("class_0", "class_1")),
    ],
)
def test_class_names_in_metadata(tmp_path: Path, names: str, expected: tuple[str, ...]) -> None:
    model = declared({"out": (1, 6, 84)}, metadata={"names": names})
    assert read_onnx(saved(model, tmp_path / "m.onnx")).classes == expected


@pytest.mark.parametrize(
    ("metadata", "family"),
    [({"end2end": "True"}, "end2end"), ({"end2end": "False", "args": "{'nms': True}"}, "end2end"), ({}, "yolox")],
)
def test_metadata_says_that_a_model_is_end_to_end(tmp_path: Path, metadata: dict[str, str], family: str) -> None:
    model = declared({"out": (1, 84, 6)}, metadata=metadata)
    assert read_onnx(saved(model, tmp_path / "m.onnx")).family == family


def test_a_model_that_is_not_end_to_end_is_not_taken_for_one(tmp_path: Path) -> None:
    path = saved(declared({"out": (1, 300, 6)}, metadata={"end2end": "False"}), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"out \[1, 300, 6\]; supported are"):
        read_onnx(path)


def test_default_class_names() -> None:
    assert default_labels(80) == COCO and COCO[0] == "person" and COCO[79] == "toothbrush"
    assert default_labels(1) == ("person",)
    assert default_labels(2) == ("class_0", "class_1")


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = bright_cells()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert read_onnx(saved(model, tmp_path / "m.onnx")).input_name == "images"


# Refusals: one sentence each


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be read: No such file"):
        read_onnx(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"just a text file\n", bytes(range(256)) * 20])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"fake\.onnx is not an ONNX model"):
        read_onnx(path)


def test_an_engine_is_sent_to_the_backend_that_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "demo.engine"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"demo\.engine is a TensorRT engine, which only the cuda backend runs"):
        resolve_model(str(path), tmp_path)


def test_weights_in_a_second_file_are_refused(tmp_path: Path) -> None:
    model = bright_cells()
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match="keeps its weights in a second file"):
        read_onnx(saved_raw(model.SerializeToString(), tmp_path / "m.onnx"))


def saved_raw(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def test_a_model_with_two_inputs_is_refused_with_their_names(tmp_path: Path) -> None:
    model = declared({"out": (1, 84, 7)}, inputs={"left": (1, 3, 64, 64), "right": (1, 3, 64, 64)})
    with pytest.raises(ModelError, match=r"model two has 2 inputs \(left \[1, 3, 64, 64\] FLOAT, right .*has one"):
        read_onnx(saved(model, tmp_path / "two.onnx"))


@pytest.mark.parametrize("image", [(1, 64, 64, 3), (1, 3, 64), (1, 1, 64, 64)])
def test_an_input_of_another_shape_is_refused(tmp_path: Path, image: tuple[int, ...]) -> None:
    model = declared({"out": (1, 84, 7)}, image=image)
    with pytest.raises(ModelError, match=r"has input images .*supported is float32 or float16 \[N, 3, height, width\]"):
        read_onnx(saved(model, tmp_path / "m.onnx"))


def test_an_input_of_bytes_is_refused(tmp_path: Path) -> None:
    model = declared({"out": (1, 84, 7)}, input_type=TensorProto.UINT8)
    with pytest.raises(ModelError, match="UINT8; supported is float32"):
        read_onnx(saved(model, tmp_path / "m.onnx"))


def test_another_task_is_refused(tmp_path: Path) -> None:
    model = declared({"out": (1, 56, 84)}, metadata={"task": "pose"})
    with pytest.raises(ModelError, match="model m is made for the task pose; supported is detect"):
        read_onnx(saved(model, tmp_path / "m.onnx"))


def test_a_graph_whose_shapes_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    model = declared({"out": (1, "anchors", 7)})
    model.graph.node[0].domain = "nobody.imported.this"
    with pytest.raises(ModelError, match="model m has a graph whose shapes cannot be followed: "):
        read_onnx(saved(model, tmp_path / "m.onnx"))


# model.toml


def test_a_toml_overrules_the_file(tmp_path: Path) -> None:
    saved(bright_cells(), tmp_path / "cells" / "net.onnx")
    toml = _write_toml(
        tmp_path / "cells",
        """
        name = "Bright cells"
        file = "net.onnx"
        family = "yolov5"
        classes = ["blue", "red"]
        licence = "CC0-1.0"
        [input]
        width = 64
        height = 64
        colour = "rgb"
        letterbox = "centre"
        pad = 0
        mean = [1, 2.5, 3]
        std = [4.0, 5.0, 6.0]
        """,
    )
    spec = read_toml(toml)
    assert (spec.name, spec.family, spec.classes, spec.licence) == (
        "Bright cells",
        "yolov5",
        ("blue", "red"),
        "CC0-1.0",
    )
    assert (spec.colour, spec.letterbox, spec.pad) == ("rgb", "centre", 0)
    assert (spec.mean, spec.std) == ((1.0, 2.5, 3.0), (4.0, 5.0, 6.0))


def test_a_toml_may_say_as_little_as_the_file(tmp_path: Path) -> None:
    saved(bright_cells(), tmp_path / "cells" / "net.onnx")
    spec = read_toml(_write_toml(tmp_path / "cells", 'file = "net.onnx"'))
    assert (spec.name, spec.family, spec.pad) == ("cells", "yolox", 114)


def test_a_toml_sets_the_size_of_a_free_input(tmp_path: Path) -> None:
    saved(declared({"out": (1, 6, "a")}, image=(1, 3, "h", "w")), tmp_path / "m" / "net.onnx")
    spec = read_toml(_write_toml(tmp_path / "m", 'file = "net.onnx"\n[input]\nwidth = 320\nheight = 192'))
    assert (spec.input_width, spec.input_height) == (320, 192)


def test_a_toml_cannot_change_a_fixed_input(tmp_path: Path) -> None:
    saved(bright_cells(), tmp_path / "m" / "net.onnx")
    toml = _write_toml(tmp_path / "m", 'file = "net.onnx"\n[input]\nwidth = 96')
    with pytest.raises(ModelError, match=r"model m has an input width of 64, but model\.toml says 96"):
        read_toml(toml)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('file = "a.onnx"\nclases = ["x"]', r"clases is not a known key; known are name, file, family"),
        ('file = "a.onnx"\n[input]\nwith = 3', r"input\.with is not a known key; known are input\.width"),
        ('file = "a.onnx"\ninput = 3', "input must be a table"),
        ('name = "x"', "file must name the ONNX file"),
        ("file = ", "is not valid TOML"),
        ('file = "a.onnx"\nfamily = "ssd"', "family must be one of yolox, .*not 'ssd'"),
        ('file = "a.onnx"\n[input]\ncolour = "grey"', "colour must be one of bgr, rgb"),
        ('file = "a.onnx"\n[input]\nletterbox = "stretch"', "letterbox must be one of top_left, centre"),
        ('file = "a.onnx"\n[input]\nwidth = 0', "width must be a whole number from 32 to 8192"),
        ('file = "a.onnx"\n[input]\npad = -1', "pad must be a whole number from 0 to 255"),
        ('file = "a.onnx"\n[input]\npad = true', "pad must be a whole number from 0 to 255"),
        ('file = "a.onnx"\n[input]\nmean = [1, 2]', "mean must be a list of three numbers"),
        ('file = "a.onnx"\n[input]\nstd = [1, 0, 1]', "std must not contain 0"),
        ('file = "a.onnx"\nclasses = []', "classes must be a list of names"),
        ('file = "a.onnx"\nclasses = "person"', "classes must be a list of names"),
        ('file = ""', "file must be a text"),
        ('file = "a.onnx"\nlicence = 3', "licence must be a text"),
    ],
)
def test_a_typo_in_a_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_toml(_write_toml(tmp_path / "m", text))


def test_a_missing_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.toml cannot be read"):
        parse_toml(tmp_path / "model.toml")


def test_a_toml_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not valid TOML"):
        parse_toml(path)


# Finding


def test_a_model_is_found_by_name_directory_file_and_path(tmp_path: Path) -> None:
    models = tmp_path / "models"
    onnx = saved(bright_cells(), models / "cells" / "net.onnx")
    _write_toml(models / "cells", 'file = "net.onnx"\nclasses = ["blue", "red"]')
    bare = saved(bright_cells(), models / "bare.onnx")
    for name in ("cells", str(models / "cells"), str(onnx)):
        assert resolve_model(name, models).classes == ("blue", "red"), name
    for name in ("bare", "bare.onnx", str(bare)):
        assert resolve_model(name, models).name == "bare", name


def test_a_toml_of_another_file_is_not_used(tmp_path: Path) -> None:
    saved(bright_cells(), tmp_path / "cells" / "net.onnx")
    other = saved(bright_cells(), tmp_path / "cells" / "other.onnx")
    _write_toml(tmp_path / "cells", 'file = "net.onnx"\nclasses = ["blue", "red"]')
    assert resolve_model(str(other), tmp_path).classes == ("class_0", "class_1")


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    saved(bright_cells(), tmp_path / "cells" / "net.onnx")
    _write_toml(tmp_path / "cells", 'file = "net.onnx"')
    with pytest.raises(ModelError, match=r"model yolo is neither a file nor one of the models in .* \(cells\)"):
        resolve_model("yolo", tmp_path)
    with pytest.raises(ModelError, match=r"\(none\)"):
        resolve_model("yolo", tmp_path / "nowhere")
