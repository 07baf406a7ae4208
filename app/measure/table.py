"""Many cases of a benchmark in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.commands.columns import in_columns
from app.measure.observation import STAGES
from app.measure.samples import Sample, median

Repetitions = Sequence[Mapping[str, Sample]]
_COLUMNS = (
    # title, figure, format
    ("fps", "inferred_fps", "{:.1f}"),
    ("each", "camera_fps.mean", "{:.2f}"),
    ("fairness", "fairness", "{:.4f}"),
    ("p50 ms", "latency_ms.total.p50", "{:.1f}"),
    ("p95", "latency_ms.total.p95", "{:.1f}"),
    ("p99", "latency_ms.total.p99", "{:.1f}"),
    ("dropped", "dropped_share", "{:.1%}"),
    ("CPU ms", "cpu_ms_per_frame", "{:.2f}"),
    ("cores", "cores", "{:.2f}"),
    ("used", "utilisation", "{:.0%}"),
    ("others", "others_cores", "{:.2f}"),
    ("batch", "mean_batch", "{:.1f}"),
    ("limit", "limit_fps", "{:.1f}"),
    ("ratio", "ratio", "{:.3f}"),
    ("speed-up", "speed_up", "{:.2f}"),
)


def cases_table(cases: Mapping[str, Repetitions]) -> str:
    """A line a case; medians where a case was measured more than once."""
    columns = [column for column in _COLUMNS if all(column[1] in each[0] for each in cases.values())]
    lines: list[tuple[str, ...]] = [("", *(title for title, _, _ in columns))]
    for name, repetitions in cases.items():
        cells = (form.format(median(repetitions, figure)) for _, figure, form in columns)
        lines.append((name.replace("_", " "), *cells))
    return in_columns(lines, right=range(1, len(lines[0])))


def stages_table(cases: Mapping[str, Repetitions]) -> str:
    """p50 / p95 / p99 of every stage, a line a case."""
    stages = ("total", *STAGES, "rest")
    lines: list[tuple[str, ...]] = [("ms", *stages)]
    for name, repetitions in cases.items():
        cells = (
            " / ".join(f"{median(repetitions, f'latency_ms.{stage}.{which}'):.1f}" for which in ("p50", "p95", "p99"))
            for stage in stages
        )
        lines.append((name.replace("_", " "), *cells))
    return in_columns(lines)
