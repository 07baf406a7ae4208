"""SECURITY.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_defence_has_its_test() -> None:
    table = PAGE.partition("## What is defended")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| defence", "|---"))]
    assert len(rows) > 10
    assert [row for row in rows if "`tests/" not in row] == []
    named = re.findall(r"`(tests/[\w/]+\.py)`", table)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_page_that_it_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
