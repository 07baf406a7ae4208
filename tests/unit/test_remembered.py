"""What an earlier start measured, kept in a file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from app.backends.cpu.remembered import Conditions, Remembered, conditions, path_for, recall, remember
from app.backends.cpu.tuning import Measurement, Plan, Space, Tuning, Variant
from app.inference.model import ModelSpec, read_onnx
from tests.support.onnx_models import bright_cells, saved

VARIANT = Variant(engine="openvino", precision="fp32")
PLAN = Plan(engine="openvino", precision="fp32", streams=2, threads=1)
SPACE = Space(cores=2, variants=(VARIANT,), streams=(2, 1), max_batch=16, budget_s=2.5)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_onnx(saved(bright_cells(), tmp_path / "cells.onnx"))


@pytest.fixture
def here(spec: ModelSpec) -> Conditions:
    return conditions(spec, None, "a processor", SPACE)


def _measured(here: Conditions) -> Remembered:
    rows = (Measurement(plan=PLAN, batch=1, duration_s=0.01),)
    tuning = Tuning(plan=PLAN, batch=1, fps=200.0, rows=rows)
    return Remembered(conditions=here, measured_on="2026-11-20", tuning=tuning, batch_reason="it mixes its frames")


def test_what_was_measured_is_found_again(tmp_path: Path, spec: ModelSpec, here: Conditions) -> None:
    path = path_for(tmp_path / "engines", spec, here)
    assert recall(path, here) is None
    remember(path, _measured(here))
    assert recall(path, here) == _measured(here)
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


def test_another_machine_model_or_setting_has_a_file_of_its_own(
    tmp_path: Path, spec: ModelSpec, here: Conditions
) -> None:
    quantised = tmp_path / "int8.onnx"
    quantised.write_bytes(b"weights")
    others = [
        conditions(spec, None, "another processor", SPACE),
        conditions(replace(spec, sha256="other"), None, "a processor", SPACE),
        conditions(spec, quantised, "a processor", SPACE),
        conditions(spec, None, "a processor", replace(SPACE, cores=4)),
        conditions(spec, None, "a processor", replace(SPACE, max_batch=1)),
        conditions(spec, None, "a processor", replace(SPACE, variants=(VARIANT, replace(VARIANT, precision="bf16")))),
        replace(here, versions={"openvino": "1.0"}),
    ]
    paths = {path_for(tmp_path, spec, each) for each in (here, *others)}
    assert len(paths) == 1 + len(others)
    assert path_for(tmp_path, spec, conditions(spec, None, "a processor", replace(SPACE, budget_s=9.0))) in paths


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b"\xff\xfe", b"[]"])
def test_a_broken_file_is_told_and_measured_anew(
    tmp_path: Path, here: Conditions, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cpu-cells.json"
    path.write_bytes(content)
    assert recall(path, here) is None
    assert f"measurement {path} cannot be used and is made anew" in caplog.text


def test_a_file_of_other_conditions_is_told_and_measured_anew(
    tmp_path: Path, here: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cpu-cells.json"
    remember(path, _measured(replace(here, processor="another")))
    assert recall(path, here) is None
    assert f"measurement {path} is for something else and is made anew" in caplog.text


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, here: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "engines"
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        remember(blocked / "cpu-cells.json", _measured(here))
    assert "cannot be kept, the next start measures again" in caplog.text
