"""config.example.yml is the settings, written out."""

from __future__ import annotations

from pathlib import Path

from app.settings import Settings, load_settings
from scripts.config_example import render

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.yml"


def test_the_example_equals_the_code() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == render(), "run: python scripts/config_example.py > config.example.yml"


def test_the_example_loads_and_changes_nothing(tmp_path: Path) -> None:
    loaded = load_settings(config=EXAMPLE, environ={}, secrets_dir=tmp_path / "none")
    assert loaded.model_dump() == Settings.model_construct().model_dump() | {"data_dir": loaded.data_dir}
    assert not loaded.auth.explicit  # a copy of it opens no port to others without a decision
