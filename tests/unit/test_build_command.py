"""`vidette build`: what it refuses, and a quantised copy of the demo model from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.inference.int8_file import find_int8
from app.inference.model import resolve_model
from tests.support.command import run_command
from tests.support.onnx_models import bright_cells, saved, white_cell_image

ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "models" / "vidette-demo")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--calibrate must name a folder of images or a video like the cameras'"),
        (("--calibrate", "gone"), "--calibrate: gone does not exist"),
        (
            ("--precision", "fp16"),
            "--precision: a CPU needs nothing built for fp32 and bf16; int8 is what can be built",
        ),
        (("--calibrate", ".", "--out", "x.engine"), "--out must name a file that ends in .onnx, not x.engine"),
        (("--device", "cuda", "--images", "."), "--images is for --device cpu; "),
    ],
)
def test_an_option_that_cannot_be_is_named(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("build", DEMO, *arguments) == 2
    assert capsys.readouterr().err.startswith(f"vidette: {sentence}")


def write_cells(folder: Path) -> Path:
    folder.mkdir()
    for number in range(9):
        picture = white_cell_image((number % 8, 2), (7 - number % 8, 5))
        assert cv2.imwrite(str(folder / f"{number}.png"), np.asarray(picture))
    return folder


def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = saved(bright_cells(quantised=True), tmp_path / "cells.onnx")
    assert run_command("build", str(model), "--calibrate", str(write_cells(tmp_path / "photos"))) == 2
    assert "model cells is quantised already; name the FP32 model" in capsys.readouterr().err


def test_labels_are_judged_by_and_the_copy_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(9):
        picture = cv2.resize(random.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
        assert cv2.imwrite(str(photos / f"{number}.png"), picture)
    spec = resolve_model(DEMO, ROOT)
    labels = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "categories": [{"id": 1, "name": spec.classes[0]}],
        "annotations": [{"image_id": 1, "bbox": [10, 10, 50, 50], "category_id": 1}],
    }
    (photos / "instances.json").write_text(json.dumps(labels))
    options = ("--calibrate", str(photos), "--images", str(photos), "--data-dir", str(tmp_path), "--json")
    assert run_command("build", DEMO, *options) == 0
    told = json.loads(capsys.readouterr().out)
    found = find_int8(spec, tmp_path / "engines")
    assert found is not None
    assert str(found.path) == told["path"]
    assert found.ap_cost == pytest.approx(told["ap"]["fp32"] - told["ap"]["int8"])
    assert set(told["fps"]) >= {"fp32", "int8"}
    assert found.notes == ("1 of the labelled images were also calibrated with, so the AP of INT8 flatters",)
