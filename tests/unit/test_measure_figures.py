"""The arithmetic of the benchmark."""

from __future__ import annotations

import math

import pytest

from app.measure.figures import LimitRun, Usage, budget_fps, difference, percentiles, spread


def limit_run(*, decode_cpu_ms: float = 2.0, infer_cpu_ms: float = 10.0) -> LimitRun:
    return LimitRun(
        seconds=5.0,
        inferred_fps=160.0,
        decoded_fps=200.0,
        decode_cpu_ms=decode_cpu_ms,
        infer_cpu_ms=infer_cpu_ms,
        usage=Usage(process=2.0, simulator=0.0, others=0.1),
    )


def test_percentiles_are_interpolated_between_neighbours() -> None:
    found = percentiles([float(n) for n in range(101)])
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)
    assert percentiles([1.0, 2.0]).p50 == 1.5


def test_percentiles_of_nothing_are_not_a_number() -> None:
    assert math.isnan(percentiles([]).p50)


def test_equal_shares_are_perfectly_fair() -> None:
    assert spread([12.0] * 8).jain == pytest.approx(1.0)


def test_one_camera_that_gets_everything_has_the_least_fairness() -> None:
    found = spread([10.0, 0.0, 0.0, 0.0])
    assert found.jain == pytest.approx(0.25)
    assert (found.min, found.mean, found.max) == (0.0, 2.5, 10.0)


def test_fairness_of_cameras_that_all_get_nothing_is_defined() -> None:
    assert spread([0.0, 0.0]).jain == 1.0


def test_budget_spends_on_inference_what_decoding_leaves() -> None:
    # 200 frames a second at 2 ms take 0.4 of 2 cores; 1.6 cores infer 160 frames of 10 ms.
    assert budget_fps([limit_run()], cores=2, offered_fps=200.0) == pytest.approx(160.0)


def test_budget_takes_the_mean_of_what_was_measured_before_and_after() -> None:
    runs = [limit_run(infer_cpu_ms=8.0), limit_run(infer_cpu_ms=12.0)]
    assert budget_fps(runs, cores=2, offered_fps=200.0) == pytest.approx(160.0)


def test_budget_is_never_negative() -> None:
    assert budget_fps([limit_run()], cores=1, offered_fps=1000.0) == 0.0


def test_difference_counts_what_is_new() -> None:
    assert difference({1: 5, 4: 2}, {1: 3}) == {1: 2, 4: 2}
