"""Panels: what they ask of Prometheus, and their JSON, which is Grafana's dashboard schema 39."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["timeseries", "stat", "heatmap", "state-timeline", "table"]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, GREY, BLUE = "green", "yellow", "red", "text", "blue"
_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_HEAT = {
    "mode": "scheme",
    "scheme": "Turbo",
    "fill": "dark-orange",
    "reverse": False,
    "steps": 64,
    "scale": "exponential",
    "exponent": 0.5,
}
# Steps of a threshold: from this value on, this colour.
Steps: TypeAlias = Sequence[tuple[float | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression. `format` is how Grafana reads the answer; an instant query asks for now alone."""

    expr: str
    legend: str = ""
    format: Literal["time_series", "heatmap", "table"] = "time_series"
    instant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `unit` is one of Grafana's unit names; width and height are in cells of a grid of 24 columns."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    low: float | None = 0
    high: float | None = None
    decimals: int | None = None
    steps: Steps = ((None, GREEN),)
    mappings: Sequence[Json] = ()
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading and the panels below it, which flow from left to right."""

    title: str
    panels: Sequence[Panel]


def panel_json(panel: Panel, *, number: int, x: int, y: int) -> Json:
    """The panel at a place of the grid."""
    defaults: Json = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind in ("stat", "state-timeline", "table") else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in panel.steps]},
        "mappings": list(panel.mappings),
        "custom": _custom(panel),
    }
    for name, value in (("min", panel.low), ("max", panel.high), ("decimals", panel.decimals)):
        if value is not None:
            defaults[name] = value
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(query, index) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": list(panel.overrides)},
        "options": _options(panel),
        "transformations": list(panel.transformations),
    }


def row_json(row: Row, *, number: int, y: int) -> Json:
    """The row's heading alone; an open row's panels stand beside it."""
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        "panels": [],
    }


def _target(query: Query, index: int) -> Json:
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": query.format,
        "instant": query.instant,
        "range": not query.instant,
        "editorMode": "code",
    }


def _custom(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stack else 8,
            "showPoints": "never",
            # A hole in the data is a hole in the line: a service that was down did not glide through it.
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
        }
    if panel.kind == "state-timeline":
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


def _options(panel: Panel) -> Mapping[str, Any]:
    match panel.kind:
        case "timeseries":
            return {
                "legend": _LEGEND,
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value",
                "graphMode": "area",
                "textMode": "auto",
            }
        case "heatmap":
            return {
                "calculate": False,
                "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
                "color": _HEAT,
                "cellGap": 0,
                "rowsFrame": {"layout": "auto"},
                "tooltip": {"mode": "single", "yHistogram": True},
                "legend": {"show": True},
            }
        case "state-timeline":
            return {
                "mergeValues": True,
                "showValue": "never",
                "rowHeight": 0.85,
                "legend": {**_LEGEND, "showLegend": False},
            }
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}
