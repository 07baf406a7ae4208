"""A dashboard of rows: the grid, the variables at its top and the annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.grafana.panels import DATASOURCE, Json, Panel, Row, panel_json, row_json

COLUMNS = 24
# What deploy/grafana/provisioning/datasources gives its datasource.
DATASOURCE_UID = "vidette-prometheus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A list at the dashboard's top, filled by a query for the values of a label."""

    name: str
    title: str
    query: str
    multiple: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Marks on every panel: wherever the expression is 1, for as long as it is."""

    name: str
    expr: str
    title: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    annotations: Sequence[Annotation]
    rows: Sequence[Row]
    links: Sequence[Json] = ()


def dashboard_json(dashboard: Dashboard) -> Json:
    """What Grafana loads. The same dashboard gives the same JSON, and a panel keeps its number while its row does."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["vidette"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # the crosshair shows on every panel
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "links": list(dashboard.links),
        "templating": {"list": [_datasource(), *(_variable(each) for each in dashboard.variables)]},
        "annotations": {"list": [_annotation(each) for each in dashboard.annotations]},
        "panels": list(_panels(dashboard.rows)),
    }


def _panels(rows: Sequence[Row]) -> Iterator[Json]:
    y = 0
    for index, row in enumerate(rows):
        number = 100 * (index + 1)
        panels, height = _flow(row.panels, number=number + 1, y=y + 1)
        yield row_json(row, number=number, y=y)
        yield from panels
        y += 1 + height


def _flow(panels: Sequence[Panel], *, number: int, y: int) -> tuple[list[Json], int]:
    """The panels from left to right, a new line where one does not fit; and how high they are together."""
    placed, x, line_y, line_height = [], 0, y, 0
    for index, panel in enumerate(panels):
        if x + panel.width > COLUMNS:
            x, line_y, line_height = 0, line_y + line_height, 0
        placed.append(panel_json(panel, number=number + index, x=x, y=line_y))
        x, line_height = x + panel.width, max(line_height, panel.height)
    return placed, line_y + line_height - y


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": DATASOURCE_UID},
        "hide": 0,
    }


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": "variable"},
        "definition": variable.query,
        "refresh": 2,  # whenever the time range changes: cameras come and go
        "sort": 1,
        "multi": variable.multiple,
        "includeAll": variable.multiple,
        "current": {"text": ["All"], "value": ["$__all"]} if variable.multiple else {},
        "hide": 0,
    }


def _annotation(annotation: Annotation) -> Json:
    return {
        "name": annotation.name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": annotation.color,
        "expr": annotation.expr,
        "titleFormat": annotation.title,
        "textFormat": "",
        "step": "5s",
    }
