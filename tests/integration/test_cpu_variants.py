"""Engines and precisions side by side: which there are, what they give, and what a start remembers of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from app.backends.cpu.detector import open_runners
from app.backends.cpu.engine import load_graphs, random_images
from app.backends.cpu.onnxruntime_engine import OnnxRuntimeEngine, with_image_input
from app.backends.cpu.tuning import Variant, plan_for
from app.backends.cpu.variants import Variants
from app.errors import ConfigError, ModelError
from app.inference.int8_file import int8_path, write_int8
from app.inference.model import ModelSpec, read_onnx
from app.inference.onnx_file import load_onnx
from app.types import EngineInfo
from tests.support.onnx_models import SIZE, bright_cells, saved


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_onnx(saved(bright_cells(), tmp_path / "cells.onnx"))


def _info(spec: ModelSpec, folder: Path | None, **options: object) -> EngineInfo:
    how = {"max_batch": 2, "iou": 0.45, "engines_dir": folder, "tuning_budget_s": 60.0, **options}
    info, _ = open_runners(str(spec.path), spec.path.parent, **how)  # type: ignore[arg-type]
    return info


def test_every_engine_gives_the_same(spec: ModelSpec) -> None:
    variants = Variants(spec)
    images = random_images(spec, 2)
    results = {}
    for variant in variants.all:
        context = variants.context(plan_for(variant, 1, 1), (2,), images)
        results[variant] = np.array(context.infer(0, 2)[0])
    exact = results[Variant(engine="openvino", precision="fp32")]
    assert exact.shape == (2, 84, 7)
    assert results[Variant(engine="onnxruntime", precision="fp32")] == pytest.approx(exact, abs=1e-4)
    assert all(result == pytest.approx(exact, abs=0.1) for result in results.values())


def test_a_half_precision_output_becomes_f32_under_its_own_name(spec: ModelSpec) -> None:
    model = bright_cells()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    made = with_image_input(model, spec, 3)
    assert [(o.name, o.type.tensor_type.elem_type) for o in made.graph.output] == [("output", TensorProto.FLOAT)]
    assert [axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim] == [3, SIZE, SIZE, 3]


def test_a_model_that_onnxruntime_cannot_use_is_named(tmp_path: Path) -> None:
    model = bright_cells()
    model.graph.node[-1].domain = "vidette.test"
    spec = read_onnx(saved(model, tmp_path / "cells.onnx"))
    engine = OnnxRuntimeEngine(load_graphs(spec))
    with pytest.raises(ModelError, match="model cells cannot be used by ONNX Runtime: "):
        engine.context(plan_for(Variant(engine="onnxruntime", precision="fp32"), 1, 1), (1,))


def test_the_settings_choose_among_engines_and_precisions(spec: ModelSpec) -> None:
    assert {variant.engine for variant in Variants(spec).all} == {"openvino", "onnxruntime"}
    assert {variant.engine for variant in Variants(spec, engine="openvino").all} == {"openvino"}
    assert [str(variant) for variant in Variants(spec, engine="onnxruntime").all] == ["onnxruntime fp32"]
    assert [str(variant) for variant in Variants(spec, precision="fp32").all] == ["openvino fp32", "onnxruntime fp32"]


def test_a_precision_that_an_engine_lacks_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"backend\.precision: bf16 is not one of fp32 on this CPU"):
        Variants(spec, engine="onnxruntime", precision="bf16")


def test_int8_without_a_quantised_copy_says_how_to_make_one(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"vidette build cells --precision int8 --calibrate DIR makes one"):
        Variants(spec, precision="int8")


def test_a_quantised_copy_is_a_variant_of_its_own(spec: ModelSpec, tmp_path: Path) -> None:
    copy = saved(bright_cells(quantised=True), tmp_path / "int8.onnx")
    variants = Variants(spec, copy)
    int8 = Variant(engine="openvino", precision="int8")
    assert int8 in variants.all and variants.quantised(int8)
    assert not variants.quantised(variants.all[0])
    assert Variants(spec, copy, precision="int8").all == (int8,)


def test_a_model_that_is_quantised_itself_needs_no_copy(tmp_path: Path) -> None:
    spec = read_onnx(saved(bright_cells(quantised=True), tmp_path / "cells.onnx"))
    assert all(variants.quantised(each) for variants in [Variants(spec, precision="int8")] for each in variants.all)


def test_the_next_start_takes_what_the_first_one_measured(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "engines"
    first = _info(spec, folder)
    (path,) = folder.iterdir()
    written = path.read_bytes()
    second = _info(spec, folder)
    assert second == first and path.read_bytes() == written
    assert f"to measure anew at the next start, delete {path}" in first.notes[1]
    path.write_bytes(written[:-100])
    with caplog.at_level(logging.WARNING):
        _info(spec, folder)
    assert "cannot be used and is made anew" in caplog.text
    assert len(path.read_bytes()) > len(written) - 100


def test_a_measurement_that_ran_out_of_time_is_not_kept(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    info = _info(spec, folder, tuning_budget_s=0.0)
    assert "time ran out" in info.notes[0] and not folder.exists()


def test_other_settings_are_measured_for_themselves(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    _info(spec, folder)
    assert _info(spec, folder, engine="onnxruntime").backend == "onnxruntime"
    assert len(list(folder.iterdir())) == 2


def _quantised_copy(spec: ModelSpec, folder: Path, ap_cost: float | None) -> None:
    copy = load_onnx(saved(bright_cells(quantised=True), folder / "made.onnx"))
    write_int8(int8_path(spec, folder), copy, spec, ap_cost=ap_cost, agreement=1.0, calibration="two pictures")


@pytest.mark.parametrize(
    ("ap_cost", "means"),
    [
        (0.004, "0.004 less AP"),
        (0.04, "0.040 less AP, and at most 0.01 is given away unless backend.precision is int8"),
        (None, "an unknown cost in AP, and at most 0.01 is given away unless backend.precision is int8"),
    ],
)
def test_a_quantised_copy_is_measured_only_when_it_costs_little(
    spec: ModelSpec, tmp_path: Path, ap_cost: float | None, means: str
) -> None:
    folder = tmp_path / "engines"
    _quantised_copy(spec, folder, ap_cost)
    info = _info(spec, folder, max_batch=1)
    assert ("openvino int8" in info.notes[0]) == (ap_cost == 0.004)
    assert f"its int8 copy (two pictures) means {means}" in info.notes


def test_a_quantised_copy_that_was_asked_for_runs_whatever_it_costs(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    _quantised_copy(spec, folder, 0.04)
    info = _info(spec, folder, precision="int8", max_batch=1)
    assert info.precision == "int8" and info.sha256 == spec.sha256
