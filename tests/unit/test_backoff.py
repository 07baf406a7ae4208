"""How long a camera waits before it is tried again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.backoff import Backoff


def test_delays_double_up_to_the_longest_and_stay_there() -> None:
    backoff = Backoff(max_s=60, rng=random.Random(1))
    nominal = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for expected, delay in zip(nominal, [backoff.after(0) for _ in nominal], strict=True):
        assert 0.75 * expected <= delay <= expected


def test_jitter_separates_cameras_that_fail_together() -> None:
    assert len({round(Backoff(rng=random.Random(seed)).after(0), 6) for seed in range(50)}) > 40


def test_a_long_healthy_run_starts_the_row_over() -> None:
    backoff = Backoff(healthy_s=30)
    for _ in range(6):
        backoff.after(0)
    assert backoff.after(30.0) <= 1
    assert backoff.after(0) > 1


def test_a_flapping_camera_keeps_its_long_delays() -> None:
    backoff = Backoff(healthy_s=30)
    delays = [backoff.after(29.9) for _ in range(7)]
    assert delays[-1] >= 45


def test_reset_starts_the_row_over() -> None:
    backoff = Backoff()
    backoff.after(0)
    backoff.after(0)
    backoff.reset()
    assert backoff.after(0) <= 1


def test_an_error_that_a_retry_cannot_mend_waits_longest() -> None:
    assert 45 <= Backoff(max_s=60).longest() <= 60


def test_a_longest_wait_below_the_first_one_is_lifted_to_it() -> None:
    assert Backoff(base_s=1.0, max_s=0.1).after(0) >= 0.75


@pytest.mark.parametrize("attempts", [2000])
def test_thousands_of_failures_do_not_overflow(attempts: int) -> None:
    backoff = Backoff(max_s=60)
    assert all(backoff.after(0) <= 60 for _ in range(attempts))


@given(
    runs=st.lists(st.floats(0, 100), max_size=40),
    max_s=st.floats(1, 3600),
    seed=st.integers(0, 2**32),
)
def test_every_delay_lies_between_three_quarters_of_a_second_and_the_longest(
    runs: list[float], max_s: float, seed: int
) -> None:
    backoff = Backoff(max_s=max_s, rng=random.Random(seed))
    assert all(0.75 <= backoff.after(run_s) <= max_s for run_s in runs)
