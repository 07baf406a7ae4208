"""Results leave in the order of their frames, whatever order contexts finish in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.results.order import InOrder


def test_a_result_waits_for_the_frame_before_it() -> None:
    order: InOrder[str] = InOrder()
    for seq in (1, 2, 5):
        order.started(seq)
    assert order.ended(2, "two") == []
    assert order.ended(5, "five") == []
    assert order.ended(1, "one") == ["one", "two", "five"]
    assert len(order) == 0


def test_a_failed_frame_holds_nobody_up() -> None:
    order: InOrder[str] = InOrder()
    order.started(1)
    order.started(2)
    assert order.ended(2, "two") == []
    assert order.ended(1, None) == ["two"]


def test_a_failed_frame_in_the_middle_is_passed_over() -> None:
    order: InOrder[str] = InOrder()
    for seq in (1, 2, 3):
        order.started(seq)
    assert order.ended(2, None) == []
    assert order.ended(1, "one") == ["one"]
    assert order.ended(3, "three") == ["three"]


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_any_order_of_ends_gives_the_order_of_starts(ends: list[int], failed: set[int]) -> None:
    order: InOrder[int] = InOrder()
    for seq in range(1, 9):
        order.started(seq)
    out = [result for seq in ends for result in order.ended(seq, None if seq in failed else seq)]
    assert out == [seq for seq in range(1, 9) if seq not in failed]
    assert len(order) == 0
