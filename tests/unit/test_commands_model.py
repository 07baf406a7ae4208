"""`vidette model`: listing, adding, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.commands.model import models_in
from tests.support.command import run_command

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "vidette-demo"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def run(models_dir: Path, *arguments: str) -> int:
    return run_command("model", *arguments, "--models-dir", str(models_dir))


def test_list_of_an_empty_folder_is_a_sentence(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models_dir, "list") == 0
    assert capsys.readouterr().out == f"there is no model in {models_dir}\n"
    assert run(models_dir, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_added_model_is_listed_under_its_name(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DEMO / "model.onnx", models_dir.parent / "street.onnx")

    assert run(models_dir, "add", str(models_dir.parent / "street.onnx")) == 0
    added = capsys.readouterr().out
    assert run(models_dir, "list") == 0
    listed = capsys.readouterr().out

    assert added.startswith(f"street is in {models_dir}: ")
    assert "vidette serve --model street" in added
    assert [line.split()[0] for line in listed.splitlines()] == ["name", "street"]
    assert (models_dir / "street" / "model.toml").is_file()


def test_add_and_list_agree_in_json(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models_dir, "add", str(DEMO), "--json") == 0
    added = json.loads(capsys.readouterr().out)
    assert run(models_dir, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)

    assert listed == [added]
    assert added["name"] == "vidette-demo"
    assert added["family"] == "yolox"
    assert added["error"] is None
    assert len(added["sha256"]) == 64


def test_list_names_a_model_that_cannot_be_used_with_its_reason(
    models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models_dir / "broken").mkdir(parents=True)
    (models_dir / "broken" / "model.toml").write_text('file = "gone.onnx"\n')
    (models_dir / "text.onnx").write_text("not a model")

    found = {model.name: model.error or "" for model in models_in(models_dir)}

    assert "gone.onnx cannot be read" in found["broken"]
    assert "text.onnx" in found["text"]
    assert run(models_dir, "list") == 0
    assert "gone.onnx cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["text.onnx", "yolox_giant"])
def test_what_is_no_model_is_refused_with_a_sentence_and_leaves_nothing(
    source: str, models_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models_dir.parent)
    Path("text.onnx").write_text("not a model")

    assert run(models_dir, "add", source) == 2

    shown = capsys.readouterr()
    assert shown.err.startswith("vidette: ")
    assert source in shown.err
    assert "Traceback" not in shown.err
    assert list(models_dir.iterdir()) == []
