"""What each camera is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.shares import Demand, dues


def test_who_wants_more_than_its_share_gets_its_share() -> None:
    demands = {str(weight): Demand(fps=100.0, priority=weight) for weight in (1, 2, 5, 10)}
    assert dues(demands, 36.0) == pytest.approx({"1": 2.0, "2": 4.0, "5": 10.0, "10": 20.0})


def test_what_one_does_not_want_the_others_get() -> None:
    demands = {
        "modest": Demand(fps=3.0, priority=10),
        "a": Demand(fps=100.0, priority=1),
        "b": Demand(fps=9, priority=2),
    }
    assert dues(demands, 15.0) == pytest.approx({"modest": 3.0, "a": 4.0, "b": 8.0})


@given(
    st.dictionaries(
        st.text(max_size=3), st.builds(Demand, fps=st.floats(0, 240), priority=st.integers(1, 10)), max_size=12
    ),
    st.floats(0, 2000),
)
def test_all_is_shared_out_and_nobody_gets_more_than_it_asks_for(demands: dict[str, Demand], fps: float) -> None:
    due = dues(demands, fps)
    assert set(due) == set(demands)
    assert all(-1e-6 <= due[name] <= demand.fps for name, demand in demands.items())
    assert sum(due.values()) == pytest.approx(min(fps, sum(demand.fps for demand in demands.values())), abs=1e-6)
    hungry = {name: due[name] / demands[name].priority for name in due if due[name] < demands[name].fps - 1e-6}
    if hungry:
        assert max(hungry.values()) == pytest.approx(min(hungry.values()), abs=1e-6)
