"""Rates and histograms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.meters import Histogram, RateMeter


def test_a_steady_stream_is_measured_at_its_rate() -> None:
    meter = RateMeter()
    for n in range(200):
        meter.mark(n / 25)
    assert meter.rate(199 / 25) == pytest.approx(25)


def test_a_rate_is_right_before_the_window_is_full() -> None:
    meter = RateMeter()
    for n in range(5):
        meter.mark(n / 10)
    assert meter.rate(0.4) == pytest.approx(10)


@pytest.mark.parametrize("marks", [[], [1.0], [1.0, 1.0]])
def test_too_few_events_have_no_rate(marks: list[float]) -> None:
    meter = RateMeter()
    for at in marks:
        meter.mark(at)
    assert meter.rate(1.0) == 0.0


def test_a_rate_falls_when_events_stop_and_ends_at_zero() -> None:
    meter = RateMeter(window_s=5)
    for n in range(50):
        meter.mark(n / 25)
    rates = [meter.rate(2 + wait) for wait in (0, 1, 2, 3, 6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0


def test_a_rate_beyond_the_capacity_is_still_right() -> None:
    meter = RateMeter(window_s=5, capacity=100)
    for n in range(5000):
        meter.mark(n / 1000)
    assert meter.rate(4.999) == pytest.approx(1000)


def test_reset_forgets() -> None:
    meter = RateMeter()
    meter.mark(1)
    meter.mark(2)
    meter.reset()
    assert meter.rate(2) == 0.0


def test_a_histogram_counts_up_to_and_with_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(value)
    rows, total = histogram.cumulative()
    assert rows == [("0.1", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert total == pytest.approx(8.65)


def test_one_observation_may_count_for_many() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(0.5, times=4)
    assert histogram.cumulative() == ([("1.0", 4.0), ("+Inf", 4.0)], 2.0)


@given(st.lists(st.floats(0, 10), max_size=60))
def test_cumulative_counts_never_fall_and_end_with_all(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    rows, total = histogram.cumulative()
    counts = [count for _, count in rows]
    assert counts == sorted(counts)
    assert counts[-1] == len(values)
    assert total == pytest.approx(sum(values))
