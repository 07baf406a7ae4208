"""A model's quantised copy: found, told from others, and never half written."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import ModelError
from app.inference.int8_file import Int8Model, find_int8, int8_path, write_int8
from app.inference.model import ModelSpec, read_onnx
from app.inference.onnx_file import load_onnx
from tests.support.onnx_models import bright_cells, saved


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_onnx(saved(bright_cells(), tmp_path / "cells.onnx"))


def published(spec: ModelSpec, folder: Path, *, cost: float | None = 0.002) -> Int8Model:
    path, model = int8_path(spec, folder), load_onnx(spec.path)
    return write_int8(path, model, spec, ap_cost=cost, agreement=None, calibration="9 images", notes=("one",))


def test_what_was_written_is_found_as_it_was(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    assert find_int8(spec, folder) is None
    written = published(spec, folder)
    assert find_int8(spec, folder) == written
    assert [path.name for path in folder.iterdir()] == [f"cells-{spec.sha256[:8]}-int8.onnx"]


def test_a_copy_of_other_weights_or_another_normalisation_is_not_used(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published(spec, tmp_path)
    other = replace(spec, sha256=spec.sha256[:8] + "0" * 56)
    with caplog.at_level(logging.WARNING):
        assert find_int8(other, tmp_path) is None
        assert find_int8(replace(spec, mean=(1.0, 2.0, 3.0)), tmp_path) is None
    first, second = (record.getMessage() for record in caplog.records)
    assert "was made from another file" in first
    assert "was made for another size or normalisation" in second


@pytest.mark.parametrize("content", [b"", b"no ONNX"])
def test_a_damaged_copy_is_told_and_not_used(
    content: bytes, spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published(spec, tmp_path).path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert find_int8(spec, tmp_path) is None
    assert "is not an ONNX model; it is not used" in caplog.text


def test_an_onnx_file_that_says_nothing_of_its_source_is_not_used(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    int8_path(spec, tmp_path).write_bytes(spec.path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert find_int8(spec, tmp_path) is None
    assert "does not say what it was made from" in caplog.text


@pytest.mark.parametrize(("cost", "affordable"), [(-0.01, True), (0.01, True), (0.0101, False), (None, False)])
def test_only_a_measured_small_cost_is_affordable(
    cost: float | None, affordable: bool, spec: ModelSpec, tmp_path: Path
) -> None:
    assert replace(published(spec, tmp_path, cost=cost), agreement=1.0).affordable is affordable


def test_a_folder_that_cannot_be_written_is_a_sentence(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be written"):
        published(spec, tmp_path / "file")
