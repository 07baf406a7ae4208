"""Panels that both dashboards have, for whatever cameras `where` selects (the inside of a selector's braces)."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.grafana.expressions import SLO_S, mean, quantile, rate, within_slo
from scripts.grafana.layout import Annotation
from scripts.grafana.panels import GREEN, RED, YELLOW, Json, Panel, Query, Row, Steps

SERVICE = 'instance=~"$instance"'
LATENCY = "vidette_end_to_end_latency_seconds"
STAGES = "vidette_stage_duration_seconds"


def marks(where: str) -> list[Annotation]:
    """Every time that a camera was in another state than running, and every start of a service."""
    return [
        Annotation(
            name="Camera not running",
            expr=f'vidette_camera_state{{{where}, state!="running"}}',
            title="{{camera}}: {{state}}",
            color="red",
        ),
        Annotation(
            name="Service started",
            expr=f"changes(process_start_time_seconds{{{SERVICE}}}[1m]) > bool 0",
            title="{{instance}} started",
            color="blue",
        ),
    ]


def stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps = ((None, GREEN),),
    low: float | None = 0,
    decimals: int | None = None,
    mappings: Sequence[Json] = (),
) -> Panel:
    """One number, a sixth of the dashboard wide."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        kind="stat",
        width=4,
        height=4,
        steps=steps,
        low=low,
        decimals=decimals,
        mappings=mappings,
    )


def slowest(where: str) -> Panel:
    return stat(
        "Latency, 99 of 100",
        f"From a packet's arrival to its result's message; 99 of 100 results are faster. The objective is {SLO_S} s.",
        "s",
        Query(expr=quantile(0.99, LATENCY, where), legend="p99"),
        steps=((None, GREEN), (0.25, YELLOW), (0.5, RED)),
    )


def frames_by_end(where: str) -> Panel:
    return Panel(
        title="Where frames end",
        description="Every decoded frame is published or dropped, exactly once: decoded = published + dropped + in"
        " flight.",
        unit="suffix: fps",
        queries=[
            Query(expr=f"sum({rate('vidette_frames_decoded_total', where)})", legend="decoded"),
            Query(expr=f"sum({rate('vidette_frames_published_total', where)})", legend="published"),
            Query(expr=f"sum({rate('vidette_frames_dropped_total', where)})", legend="dropped"),
        ],
    )


def drops(where: str) -> Panel:
    return Panel(
        title="Drops by reason",
        description="rate_limit (max_fps) and still (motion gate) are asked for; degraded, replaced and stale mean"
        " that inference does not keep up; infer_failed and publish_failed are errors; shutdown ends what was under way"
        " when a camera"
        " was removed.",
        unit="suffix: fps",
        stack=True,
        queries=[Query(expr=f"sum by (reason) ({rate('vidette_frames_dropped_total', where)})", legend="{{reason}}")],
    )


def objects(where: str, *, width: int = 8) -> Panel:
    return Panel(
        title="Objects found",
        description="Detections a second, by label. An object that stays in sight is found anew in every frame.",
        unit="suffix: /s",
        width=width,
        stack=True,
        queries=[Query(expr=f"sum by (label) ({rate('vidette_detections_total', where)})", legend="{{label}}")],
    )


def latency_panels(where: str, *, more_windows: Sequence[Query] = ()) -> list[Panel]:
    """A line of three: heatmap, quantiles, and the share in time, now and over `more_windows`."""
    return [
        Panel(
            title="Latency of results",
            description="From a packet's arrival to its result's message: how many results a second took how long.",
            unit="s",
            kind="heatmap",
            width=12,
            low=None,
            queries=[
                Query(expr=f"sum by (le) ({rate(f'{LATENCY}_bucket', where)})", legend="{{le}}", format="heatmap")
            ],
        ),
        Panel(
            title="Latency of all but the slowest",
            description="Half, 95 of 100 and 99 of 100 results are faster than this.",
            unit="s",
            width=6,
            queries=[Query(expr=quantile(q, LATENCY, where), legend=f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)],
        ),
        Panel(
            title="Results in time",
            description=f"Share of results that left within {SLO_S} s. The objective for all cameras of a service is"
            " 99 %; the alert LatencySloBurn watches it.",
            unit="percentunit",
            width=6,
            low=None,
            high=1,
            queries=[Query(expr=within_slo(where), legend="now"), *more_windows],
        ),
    ]


def stage_means(title: str) -> Panel:
    """Stages are measured for all cameras of a service together."""
    return Panel(
        title=title,
        description="decode, queue (waiting for a batch), preprocess, infer, postprocess, publish: one above the other"
        " they make the latency. Measured for all cameras of the service together.",
        unit="s",
        width=12,
        stack=True,
        queries=[Query(expr=mean(STAGES, SERVICE, by="stage"), legend="{{stage}}")],
    )


def row(title: str, *panels: Panel) -> Row:
    return Row(title=title, panels=panels)
