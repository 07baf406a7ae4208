"""The dashboard "Camera": one camera in depth."""

from __future__ import annotations

from scripts.grafana.expressions import in_flight, overload_share, state_mapping, state_number
from scripts.grafana.layout import Dashboard, Variable
from scripts.grafana.panels import GREEN, RED, YELLOW, Panel, Query
from scripts.grafana.shared import (
    SERVICE,
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

WHERE = f'{SERVICE}, camera="$camera"'
MEASURED, INFERRED = (f'vidette_camera_fps{{{WHERE}, kind="{kind}"}}' for kind in ("measured", "inferred"))
EXPECTED = f"vidette_camera_expected_fps{{{WHERE}}}"
RESTARTS = f"vidette_camera_restarts_total{{{WHERE}}}"

NOW = row(
    "Now",
    stat(
        "State",
        "connecting, running, retrying or disabled. GET /api/v1/cameras/{id} says why, under status.error.",
        "short",
        Query(expr=state_number(WHERE), legend="state"),
        mappings=[state_mapping()],
    ),
    stat(
        "Newest frame",
        "How long ago the newest frame was taken, by the camera's own clock where it tells one. Negative: that clock is"
        " ahead.",
        "s",
        Query(expr=f"time() - max(vidette_camera_last_frame_timestamp_seconds{{{WHERE}}})", legend="age"),
        steps=((None, GREEN), (10, YELLOW), (60, RED)),
        low=None,
    ),
    stat(
        "Delivered",
        "Frames a second, as a share of what the stream declares (of max_fps, where that is less).",
        "percentunit",
        Query(expr=f"sum({MEASURED}) / sum({EXPECTED})", legend="delivered"),
        steps=((None, RED), (0.8, YELLOW), (0.95, GREEN)),
    ),
    stat(
        "Dropped for overload",
        "Share of the frames that are wanted of this camera and that inference did not keep up with.",
        "percentunit",
        Query(expr=overload_share(WHERE), legend="dropped"),
        steps=((None, GREEN), (0.02, YELLOW), (0.1, RED)),
    ),
    slowest(WHERE),
    stat(
        "Connections that ended",
        "Since the service started, whatever the reason.",
        "short",
        Query(expr=f"sum({RESTARTS}) or vector(0)", legend="ended"),
    ),
)

STREAM = row(
    "Stream",
    Panel(
        title="State over time",
        description="connecting, running, retrying or disabled.",
        unit="short",
        kind="state-timeline",
        width=24,
        height=4,
        queries=[Query(expr=state_number(WHERE), legend="{{camera}}")],
        mappings=[state_mapping()],
    ),
    Panel(
        title="Degradation",
        description="What gives way under overload: 0 nothing, 1 thinned out before inference, 2 no loop filter but in"
        " keyframes, 3 references only, 4 keyframes only.",
        unit="short",
        kind="state-timeline",
        width=24,
        height=4,
        queries=[Query(expr=f"vidette_camera_degradation_level{{{WHERE}}}", legend="level")],
    ),
    Panel(
        title="Frames a second",
        description="Expected: what the stream declares, max_fps at most. Delivered: out of the decoder. Inferred: its"
        " results that went out.",
        unit="suffix: fps",
        width=12,
        queries=[
            Query(expr=f"sum({EXPECTED})", legend="expected"),
            Query(expr=f"sum({MEASURED})", legend="delivered"),
            Query(expr=f"sum({INFERRED})", legend="inferred"),
        ],
    ),
    Panel(
        title="Connections that ended, by reason",
        description="In the last 5 minutes. The reasons are the API's error codes.",
        unit="short",
        width=12,
        queries=[Query(expr=f"sum by (code) (increase({RESTARTS}[5m]))", legend="{{code}}")],
    ),
)

FRAMES = row(
    "Frames",
    frames_by_end(WHERE),
    drops(WHERE),
    Panel(
        title="Frames in flight",
        description="Decoded and not yet ended: some now and then. Never negative, and none while the camera is down;"
        " the alert DropLedgerMismatch watches it.",
        unit="suffix: frames",
        low=None,
        queries=[Query(expr=in_flight(WHERE), legend="in flight")],
    ),
)

RESULTS = row(
    "Results",
    *latency_panels(WHERE),
    objects(WHERE, width=12),
    stage_means("Time in each stage, mean, all cameras of the service"),
)

CAMERA = Dashboard(
    uid="vidette-camera",
    title="Vidette: Camera",
    description="One camera in depth. Made by scripts/dashboards.py.",
    variables=[
        Variable(name="instance", title="Service", query="label_values(vidette_camera_up, instance)"),
        Variable(name="camera", title="Camera", query=f"label_values(vidette_camera_up{{{SERVICE}}}, camera)"),
    ],
    annotations=marks(WHERE),
    rows=[NOW, STREAM, FRAMES, RESULTS],
    links=[
        {
            "title": "Fleet",
            "type": "link",
            "url": "/d/vidette-fleet",
            "tooltip": "All cameras",
            "icon": "dashboard",
            "tags": [],
            "asDropdown": False,
            "includeVars": False,
            "keepTime": True,
            "targetBlank": False,
        }
    ],
)
