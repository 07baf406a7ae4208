"""Choosing precision, streams and batch from measurements."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from app.backends.cpu.tuning import (
    ROUNDS,
    Measurement,
    Plan,
    Space,
    Tuning,
    Variant,
    best_batch,
    best_plan,
    plan_for,
    stream_counts,
    tune,
)
from app.inference.timing import time_streams

PLAN = Plan(precision="fp32", streams=1, threads=1)
FP32, BF16 = (Variant(engine="openvino", precision=precision) for precision in ("fp32", "bf16"))
ORT = Variant(engine="onnxruntime", precision="fp32")


def _row(batch: int, duration_ms: float, plan: Plan = PLAN) -> Measurement:
    return Measurement(plan=plan, batch=batch, duration_s=duration_ms / 1000)


def _tune(
    measure: Callable[[Plan, int], float | None],
    *,
    cores: int = 2,
    variants: tuple[Variant, ...] = (FP32, BF16),
    max_batch: int = 16,
    budget_s: float = 1e9,
    second_per_look: float = 1.0,
) -> Tuning:
    ticks = itertools.count(0.0, second_per_look)
    space = Space(cores=cores, variants=variants, streams=stream_counts(cores), max_batch=max_batch, budget_s=budget_s)
    return tune(measure, space, clock=lambda: next(ticks))


def test_fps_counts_all_streams() -> None:
    plan = Plan(precision="fp32", streams=2, threads=1)
    assert Measurement(plan=plan, batch=4, duration_s=0.04).fps == pytest.approx(200)


def test_cores_are_shared_among_streams() -> None:
    assert stream_counts(8) == (8, 2, 1)
    assert stream_counts(2) == (2, 1)
    assert stream_counts(1) == (1,)
    assert stream_counts(64) == (16, 2, 1)
    assert plan_for(BF16, 2, 8) == Plan(precision="bf16", streams=2, threads=4)
    assert plan_for(BF16, 4, 2).threads == 1


def test_the_smallest_batch_near_the_best_throughput_wins() -> None:
    assert best_batch([_row(1, 11), _row(2, 20), _row(4, 38.5), _row(8, 78)]).batch == 2


def test_a_batch_of_more_than_50_ms_is_too_long() -> None:
    assert best_batch([_row(1, 30), _row(2, 51)]).batch == 1


def test_a_larger_batch_that_costs_throughput_is_not_worth_it() -> None:
    assert best_batch([_row(1, 10), _row(2, 21)]).batch == 1


def test_a_slow_model_runs_at_batch_1() -> None:
    assert best_batch([_row(1, 120), _row(2, 200)]).batch == 1


def test_a_plan_must_win_by_more_than_noise() -> None:
    other = Plan(precision="bf16", streams=1, threads=1)
    assert best_plan([_row(1, 10), _row(1, 9.7, other)]) == PLAN
    assert best_plan([_row(1, 10), _row(1, 9.0, other)]) == other


def test_variants_then_streams_then_batch_are_measured() -> None:
    asked: list[tuple[str, int]] = []

    def measure(plan: Plan, batch: int) -> float:
        asked.append((str(plan), batch))
        return (0.005 if plan.precision == "bf16" else 0.01) * (0.1 + 0.9 * batch) * plan.streams

    result = _tune(measure)
    assert list(dict.fromkeys(asked)) == [
        ("openvino fp32 2 x 1 threads", 1),
        ("openvino bf16 2 x 1 threads", 1),
        ("openvino bf16 1 x 2 threads", 1),
        ("openvino bf16 2 x 1 threads", 2),
        ("openvino bf16 2 x 1 threads", 4),
    ]  # 8 would take 80 ms
    assert (str(result.plan), result.batch) == ("openvino bf16 2 x 1 threads", 2)
    assert result.fps == pytest.approx(200 / 0.95)
    assert result.complete
    assert result.note() == (
        "openvino bf16 2 x 1 threads, batch 2 chosen by measuring ("
        "openvino fp32 2 x 1 threads batch 1: 100/s, openvino bf16 2 x 1 threads batch 1: 200/s, "
        "openvino bf16 1 x 2 threads batch 1: 200/s, openvino bf16 2 x 1 threads batch 2: 211/s, "
        "openvino bf16 2 x 1 threads batch 4: 216/s)"
    )


def test_one_stream_of_all_cores_may_win() -> None:
    assert str(_tune(lambda plan, batch: 0.01 * batch).plan) == "openvino fp32 2 x 1 threads"
    assert str(_tune(lambda plan, batch: 0.01 * batch * plan.streams**2).plan) == "openvino fp32 1 x 2 threads"


def test_an_engine_wins_by_the_median_and_not_by_one_good_moment() -> None:
    took = {FP32: iter([0.010] * 9), ORT: iter([0.009, 0.011, 0.011])}
    result = _tune(lambda plan, batch: next(took[plan.variant]), cores=1, variants=(FP32, ORT), max_batch=1)
    assert result.plan.variant == FP32
    assert [row.duration_s for row in result.rows] == [0.010, 0.011]


def test_who_is_far_behind_is_measured_once() -> None:
    asked: list[Variant] = []

    def measure(plan: Plan, batch: int) -> float:
        asked.append(plan.variant)
        return {FP32: 0.010, BF16: 0.0061, ORT: 0.006}[plan.variant]

    assert _tune(measure, cores=1, variants=(FP32, BF16, ORT), max_batch=1).plan.variant == BF16
    assert asked == [FP32, BF16, ORT, *[BF16, ORT] * (ROUNDS - 1)]


def test_an_engine_that_cannot_run_the_model_is_left_out() -> None:
    result = _tune(lambda plan, batch: None if plan.variant == BF16 else 0.01 * batch)
    assert result.plan.variant == FP32 and result.complete


def test_a_model_that_takes_no_batch_is_not_measured_with_one() -> None:
    result = _tune(lambda plan, batch: 0.001, max_batch=1)
    assert result.batch == 1 and {row.batch for row in result.rows} == {1}


def test_a_batch_that_must_not_be_used_ends_the_search() -> None:
    result = _tune(lambda plan, batch: None if batch == 4 else 0.001 * (1 + batch))
    assert result.batch == 2 and {row.batch for row in result.rows} == {1, 2}


def test_measuring_ends_when_its_time_is_over() -> None:
    result = _tune(lambda plan, batch: 0.001, budget_s=1.5)
    assert len(result.rows) == 2
    assert not result.complete and "time ran out" in result.note()


def test_one_measurement_is_made_however_little_time_there_is() -> None:
    result = _tune(lambda plan, batch: 0.001, budget_s=0.0)
    assert [str(row.plan) for row in result.rows] == ["openvino fp32 2 x 1 threads"]


def test_what_was_not_measured_says_so() -> None:
    assert Tuning(plan=PLAN).note() == "openvino fp32 1 x 1 threads, not measured"


def test_streams_run_side_by_side_and_the_lower_quartile_counts() -> None:
    together = threading.Barrier(2, timeout=10)
    ticks = itertools.count(0.0, 0.25)
    took = time_streams([together.wait, together.wait], duration_s=0.0, clock=lambda: next(ticks))
    assert took > 0


def test_a_call_is_made_once_to_warm_up_and_at_least_once_more() -> None:
    calls: list[float] = []
    time_streams([lambda: calls.append(0.0)], duration_s=0.0, clock=time.perf_counter)
    assert len(calls) >= 2


def test_seconds_per_call_are_measured() -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.02

    assert time_streams([call], duration_s=0.1, clock=lambda: now[0]) == pytest.approx(0.02)


def test_what_a_stream_raises_is_raised() -> None:
    def fail() -> None:
        raise LookupError("no such kernel")

    with pytest.raises(LookupError, match="no such kernel"):
        time_streams([lambda: None, fail], duration_s=0.1, clock=time.perf_counter)
