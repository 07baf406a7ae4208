"""Figures of repeated measurements, and their tables."""

from __future__ import annotations

from app.measure.observation import STAGES
from app.measure.samples import Sample, figures, median
from app.measure.table import cases_table, stages_table


def fps(value: float) -> dict[str, Sample]:
    return {"inferred_fps": Sample(value=value, unit="fps", better="higher")}


def latencies(value: float) -> dict[str, Sample]:
    stages = ("total", *STAGES, "rest")
    names = [f"latency_ms.{stage}.{which}" for stage in stages for which in ("p50", "p95", "p99")]
    return {name: Sample(value=value, unit="ms", better="lower") for name in names}


def test_figures_have_a_sample_of_every_repetition_in_their_order() -> None:
    found = figures([fps(90.0), fps(110.0), fps(100.0)], "batch_4")
    assert list(found) == ["batch_4.inferred_fps"]
    assert found["batch_4.inferred_fps"].samples == (90.0, 110.0, 100.0)
    assert (found["batch_4.inferred_fps"].unit, found["batch_4.inferred_fps"].better) == ("fps", "higher")


def test_figures_that_a_repetition_lacks_are_left_out() -> None:
    batch = {"batch_ms.p50": Sample(value=3.0, unit="ms", better="lower")}
    assert list(figures([{**fps(1.0), **batch}, fps(2.0)])) == ["inferred_fps"]
    assert list(figures([fps(1.0), {**fps(2.0), **batch}])) == ["inferred_fps"]


def test_median_is_of_one_figure() -> None:
    assert median([fps(90.0), fps(120.0), fps(100.0)], "inferred_fps") == 100.0


def test_table_shows_medians_of_the_figures_that_all_cases_have() -> None:
    ratio = {"ratio": Sample(value=0.9, unit="1", better="higher")}
    text = cases_table({"sequential": [fps(50.0)], "batch_4": [{**fps(90.0), **ratio}, {**fps(92.0), **ratio}]})
    assert [line.split() for line in text.splitlines()] == [["fps"], ["sequential", "50.0"], ["batch", "4", "91.0"]]


def test_stages_table_shows_three_percentiles_of_each_stage() -> None:
    head, line = stages_table({"cameras_2": [latencies(1.25)]}).splitlines()
    assert head.split() == ["ms", "total", *STAGES, "rest"]
    assert line.startswith("cameras 2  1.2 / 1.2 / 1.2")
