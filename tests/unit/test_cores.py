"""Cores are those that this process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cores import available_cores


@pytest.mark.parametrize(
    ("content", "at_most"), [("100000 100000\n", 1), ("50000 100000", 1), ("max 100000", 1024), ("garbage", 1024)]
)
def test_a_container_limit_counts(tmp_path: Path, content: str, at_most: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert 1 <= available_cores(tmp_path / "cpu.max") <= at_most


def test_without_a_container_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none") >= 1
