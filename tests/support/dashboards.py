"""The committed dashboards, and what their panels ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
# A metric's or a recording rule's name, wherever an expression has one. What a label's value says is no name.
_NAMES = re.compile(r"\b(?:vidette|process|python)_[a-z0-9_]+|\b[a-z_]+:vidette_[a-z0-9_:]+")
_STRINGS = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelQuery:
    dashboard: str
    panel: str
    expr: str

    def with_values(self, values: Mapping[str, str]) -> str:
        """The expression with Grafana's variables replaced."""
        expr = self.expr
        for name, value in values.items():
            expr = expr.replace(f"${name}", value)
        assert "$" not in expr, f"{self.dashboard}/{self.panel}: a variable is left in {expr}"
        return expr


def load_dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels without the rows' headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[PanelQuery]:
    """Every query of every panel and of every annotation."""
    for name, dashboard in load_dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield PanelQuery(dashboard=name, panel=panel["title"], expr=target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield PanelQuery(dashboard=name, panel=annotation["name"], expr=annotation["expr"])


def names_in(expr: str) -> set[str]:
    """The metrics and recording rules that an expression reads, as their families are called."""
    found = set(_NAMES.findall(_STRINGS.sub('""', expr)))
    return {re.sub(r"(?<!_total)_(bucket|count|sum)$", "", name) if ":" not in name else name for name in found}
