"""The PromQL that both dashboards share."""

from __future__ import annotations

from scripts.grafana.panels import GREEN, GREY, RED, YELLOW, Json

RATE = "[$__rate_interval]"
SLO_S = "0.5"  # a bucket's bound; deploy/prometheus/rules uses the same
# Grafana colours numbers, so each state has one.
STATES = {"connecting": (1, YELLOW), "running": (2, GREEN), "retrying": (3, RED), "disabled": (4, GREY)}


def state_number(where: str) -> str:
    """One number for each camera's state, by `STATES`. `where` is the inside of a selector's braces."""
    terms = (f'vidette_camera_state{{{where}, state="{state}"}} * {n}' for state, (n, _) in STATES.items())
    return f"sum by (instance, camera) ({' or '.join(terms)})"


def state_mapping() -> Json:
    """Shows the numbers of `state_number` as words."""
    options = {
        str(number): {"text": state, "color": color, "index": index}
        for index, (state, (number, color)) in enumerate(STATES.items())
    }
    return {"type": "value", "options": options}


def rate(metric: str, where: str) -> str:
    return f"rate({metric}{{{where}}}{RATE})"


def quantile(q: float, metric: str, where: str, *, by: str = "") -> str:
    """A quantile of a histogram over the rate interval, for each value of the labels in `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(f'{metric}_bucket', where)}))"


def mean(metric: str, where: str, *, by: str = "") -> str:
    """The mean of a histogram's observations over the rate interval. No value where nothing was observed."""
    total, count = (f"sum by ({by}) ({rate(f'{metric}_{part}', where)})" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def within_slo(where: str) -> str:
    """Share of results that left in time."""
    latency = "vidette_end_to_end_latency_seconds"
    in_time = rate(f"{latency}_bucket", f'{where}, le="{SLO_S}"')
    return f"sum({in_time}) / (sum({rate(f'{latency}_count', where)}) > 0)"


def in_flight(where: str) -> str:
    """Decoded frames that have not ended."""
    return (
        f"sum by (instance, camera) (vidette_frames_decoded_total{{{where}}})"
        f" - sum by (instance, camera) (vidette_frames_published_total{{{where}}})"
        f" - sum by (instance, camera) (vidette_frames_dropped_total{{{where}}})"
    )


def overload_share(where: str) -> str:
    """Share of a camera's wanted frames that were dropped because inference did not keep up."""
    lost = rate("vidette_frames_dropped_total", f'{where}, reason=~"degraded|replaced|stale"')
    limited = rate("vidette_frames_dropped_total", f'{where}, reason=~"rate_limit|still"')
    decoded = rate("vidette_frames_decoded_total", where)
    by = "sum by (instance, camera)"
    return f"{by} ({lost}) / ({by} ({decoded}) - {by} ({limited}) > 0)"
