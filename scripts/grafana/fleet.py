"""The dashboard "Fleet": all cameras of the chosen services, and what the machines below them do."""

from __future__ import annotations

from scripts.grafana.expressions import overload_share, quantile, state_mapping, state_number
from scripts.grafana.layout import Dashboard, Variable
from scripts.grafana.machine import BATCHES, CAPACITY, CLIENTS, GPU, PROCESS
from scripts.grafana.panels import GREEN, RED, YELLOW, Json, Panel, Query
from scripts.grafana.shared import (
    SERVICE,
    STAGES,
    drops,
    frames_by_end,
    latency_panels,
    marks,
    objects,
    row,
    slowest,
    stage_means,
    stat,
)

BY = "by (instance, camera)"
MEASURED, INFERRED = (f'vidette_camera_fps{{{SERVICE}, kind="{kind}"}}' for kind in ("measured", "inferred"))
DISABLED = f'vidette_camera_state{{{SERVICE}, state="disabled"}} == 1'
FAILING = f"vidette_camera_up{{{SERVICE}}} == 0 unless on (instance, camera) {DISABLED}"

NOW = row(
    "Now",
    stat(
        "Cameras running",
        "Cameras that give frames, of all that are registered.",
        "short",
        Query(expr=f"sum(vidette_camera_up{{{SERVICE}}})", legend="running"),
        Query(expr=f"count(vidette_camera_up{{{SERVICE}}})", legend="registered"),
    ),
    stat(
        "Cameras failing",
        "Cameras that are enabled and give no frame. Should be 0; the alert CameraDown names them after a minute.",
        "short",
        Query(expr=f"count({FAILING}) or vector(0)", legend="failing"),
        steps=((None, GREEN), (1, RED)),
    ),
    stat(
        "Results",
        "Frames a second that were inferred, of all cameras together.",
        "suffix: fps",
        Query(expr=f"sum({INFERRED})", legend="inferred"),
        decimals=1,
    ),
    slowest(SERVICE),
    stat(
        "Capacity left",
        "The share that is still free of the scarcest part (inference, decoding), on the fullest service.",
        "percentunit",
        Query(expr=f"min(instance:vidette_capacity_left:ratio{{{SERVICE}}})", legend="left"),
        steps=((None, RED), (0.1, YELLOW), (0.25, GREEN)),
    ),
    stat(
        "Alerts firing",
        "Alerts of Prometheus that fire now; docs/runbook.md has a section for each.",
        "short",
        Query(expr=f'count(ALERTS{{{SERVICE}, alertstate="firing"}}) or vector(0)', legend="firing"),
        steps=((None, GREEN), (1, RED)),
    ),
)


def _column(name: str, unit: str, *more: Json) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "unit", "value": unit}, *more],
    }


def _table() -> Panel:
    """A line a camera: one instant query a column, merged by their labels."""
    columns = {
        "State": state_number(SERVICE),
        "Delivered": f"sum {BY} ({MEASURED})",
        "Inferred": f"sum {BY} ({INFERRED})",
        "Expected": f"sum {BY} (vidette_camera_expected_fps{{{SERVICE}}})",
        "Overload": overload_share(SERVICE),
        "Restarts": f"sum {BY} (vidette_camera_restarts_total{{{SERVICE}}})",
        "Newest frame": f"max {BY} (vidette_camera_last_frame_timestamp_seconds{{{SERVICE}}}) * 1000",
    }
    # Grafana calls the values of the queries A, B, ... so.
    names = {f"Value #{chr(ord('A') + index)}": name for index, name in enumerate(columns)}
    link = "/d/vidette-camera?var-instance=${__data.fields.instance}&var-camera=${__value.raw}&${__url_time_range}"
    one_decimal = {"id": "decimals", "value": 1}
    return Panel(
        title="All cameras",
        description="A line a camera, as it is now; its name leads to its own dashboard. Expected: what the stream"
        " declares, max_fps at most. Overload: share of the wanted frames that were dropped because inference did not"
        " keep up. Restarts: connections that ended since the service started.",
        unit="short",
        kind="table",
        width=12,
        low=None,
        queries=[Query(expr=expr, format="table", instant=True) for expr in columns.values()],
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ],
        overrides=[
            _column("camera", "string", {"id": "links", "value": [{"title": "This camera", "url": link}]}),
            _column("State", "short", {"id": "mappings", "value": [state_mapping()]}),
            *(_column(name, "suffix: fps", one_decimal) for name in ("Delivered", "Inferred", "Expected")),
            _column("Overload", "percentunit"),
            _column("Newest frame", "dateTimeFromNow"),
        ],
    )


CAMERAS = row(
    "Cameras",
    Panel(
        title="Camera states",
        description="connecting, running, retrying or disabled, by camera. A red stripe is a camera that was away.",
        unit="short",
        kind="state-timeline",
        width=12,
        queries=[Query(expr=state_number(SERVICE), legend="{{camera}}")],
        mappings=[state_mapping()],
    ),
    _table(),
    Panel(
        title="Frames delivered",
        description="Frames a second that came out of each camera's decoder, over 5 s.",
        unit="suffix: fps",
        queries=[Query(expr=MEASURED, legend="{{camera}}")],
    ),
    Panel(
        title="Frames inferred",
        description="Frames a second of each camera whose result went out, over 5 s. Less than delivered where max_fps"
        " or overload drops some.",
        unit="suffix: fps",
        queries=[Query(expr=INFERRED, legend="{{camera}}")],
    ),
    Panel(
        title="Connections that ended",
        description="By camera and reason, in the last 5 minutes. The reasons are the API's error codes.",
        unit="short",
        queries=[
            Query(
                expr=f"sum by (camera, code) (increase(vidette_camera_restarts_total{{{SERVICE}}}[5m]))",
                legend="{{camera}} {{code}}",
            )
        ],
    ),
)

FRAMES = row("Frames", frames_by_end(SERVICE), drops(SERVICE), objects(SERVICE))

RESULTS = row(
    "Latency",
    *latency_panels(
        SERVICE,
        more_windows=[
            Query(expr=f"1 - max(instance:vidette_latency_slo_errors:ratio_rate{window}{{{SERVICE}}})", legend=window)
            for window in ("1h", "6h")
        ],
    ),
    stage_means("Time in each stage, mean"),
    Panel(
        title="Time in each stage, 99 of 100",
        description="99 of 100 frames spend less time than this in the stage.",
        unit="s",
        width=12,
        queries=[Query(expr=quantile(0.99, STAGES, SERVICE, by="stage"), legend="{{stage}}")],
    ),
)

FLEET = Dashboard(
    uid="vidette-fleet",
    title="Vidette: Fleet",
    description="All cameras, and what the machines below them do. Made by scripts/dashboards.py.",
    variables=[
        Variable(name="instance", title="Service", query="label_values(vidette_contexts, instance)", multiple=True),
    ],
    annotations=marks(SERVICE),
    rows=[NOW, CAMERAS, FRAMES, RESULTS, BATCHES, CAPACITY, GPU, CLIENTS, PROCESS],
)
