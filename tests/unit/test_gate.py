"""Which frames pass when a camera delivers more than is wanted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.gate import RateGate, StreamTime


def admitted(times: list[float], max_fps: float | None) -> list[float]:
    gate = RateGate()
    return [at for at in times if gate.admits(at, max_fps)]


def stream(fps: float, seconds: float, start_s: float = 0.0) -> list[float]:
    return [start_s + n / fps for n in range(round(fps * seconds))]


@pytest.mark.parametrize(
    ("fps", "max_fps"), [(15, 10), (25, 10), (30, 29), (25, 24.9), (30, 1), (25, 0.5), (60, 59.94), (25, 12.5)]
)
def test_the_rate_is_exact_on_average_whatever_the_ratio(fps: float, max_fps: float) -> None:
    seconds = 40
    assert len(admitted(stream(fps, seconds), max_fps)) == pytest.approx(max_fps * seconds, abs=1.01)


@pytest.mark.parametrize("max_fps", [25, 25.0001, 30, 240, None])
def test_everything_passes_when_the_limit_is_not_below_the_rate(max_fps: float | None) -> None:
    assert len(admitted(stream(25, 10), max_fps)) == 250


def test_admitted_frames_are_spread_evenly() -> None:
    kept = admitted(stream(30, 10), 10)
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps) - min(gaps) < 1 / 30 + 1e-9


def test_ticks_of_a_rounded_clock_do_not_lose_every_other_frame() -> None:
    ticks = [round(n * 90000 / 29.97) / 90000 for n in range(300)]
    assert len(admitted(ticks, 29.97)) >= 299


def test_a_burst_after_a_pause_is_not_owed_the_pause() -> None:
    gate = RateGate()
    assert gate.admits(0.0, 10)
    burst = [4.0 + n / 1000 for n in range(50)]
    assert sum(gate.admits(at, 10) for at in burst) <= 2


@pytest.mark.parametrize("jump_s", [-3600.0, -0.5, 3600.0, 95443.7])
def test_a_jump_of_the_stream_clock_neither_stops_nor_floods(jump_s: float) -> None:
    gate = RateGate()
    for at in stream(25, 4):
        gate.admits(at, 5)
    kept = sum(gate.admits(at, 5) for at in stream(25, 4, start_s=4 + jump_s))
    assert kept == pytest.approx(20, abs=2)


def test_a_new_limit_counts_from_the_next_frame() -> None:
    gate = RateGate()
    first = sum(gate.admits(at, 5) for at in stream(25, 2))
    second = sum(gate.admits(at, 25) for at in stream(25, 2, start_s=2))
    third = sum(gate.admits(at, 1) for at in stream(25, 4, start_s=4))
    assert first == 10
    assert third == pytest.approx(4, abs=1)
    assert second >= 44


def test_lifting_the_limit_admits_everything_at_once() -> None:
    gate = RateGate()
    for at in stream(25, 1):
        gate.admits(at, 0.1)
    assert all(gate.admits(at, None) for at in stream(25, 1, start_s=1))


@given(
    deltas=st.lists(st.one_of(st.floats(0, 0.2), st.floats(-1e6, 1e6)), min_size=1, max_size=200),
    max_fps=st.floats(0.01, 240),
)
def test_whatever_the_clock_does_the_gate_opens_again(deltas: list[float], max_fps: float) -> None:
    gate, at = RateGate(), 0.0
    for delta in deltas:
        at += delta
        gate.admits(at, max_fps)
    interval_s = 1 / max_fps
    later = [at + n * interval_s / 2 for n in range(1, 7)]
    assert any(gate.admits(each, max_fps) for each in later)


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.1])
def test_a_stream_s_own_clock_counts_while_it_goes_about_as_ours(rate: float) -> None:
    time = StreamTime()
    assert all(time.of(rate * at, 100 + at) == rate * at for at in stream(25, 10))


@pytest.mark.parametrize("rate", [0.0, 1 / 90, 0.4, 10.0, -1.0])
def test_a_stream_whose_clock_is_of_no_use_is_thinned_by_arrival(rate: float) -> None:
    time, gate = StreamTime(), RateGate()
    passed = [gate.admits(time.of(rate * at, 100 + at), 5) for at in stream(25, 22)]
    assert sum(passed[50:]) == pytest.approx(100, abs=2)
