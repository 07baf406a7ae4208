"""Which faults there are to inject, and when a plan injects them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from app.measure.chaos.cases import CASES, chosen, roles
from app.measure.chaos.fleet import make_lanes
from app.measure.chaos.plan import Lane, Plan, make_plan
from app.simulator.faults import FaultKind

LANES = make_lanes(roles(CASES), victims=3)


def plan_of(seed: int, *, seconds: float = 200.0) -> Plan:
    return make_plan(CASES, LANES, seconds=seconds, seed=seed)


def test_every_fault_of_the_simulator_is_injected_by_some_case() -> None:
    assert set(FaultKind) - {case.kind for case in CASES} <= {FaultKind.OK}


def test_names_are_unique_and_say_what_they_are_about() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.about for case in CASES)
    assert len(set(CASES)) == len(CASES)


def test_a_fault_that_stops_pictures_has_a_code() -> None:
    assert not [case.name for case in CASES if case.outage and not case.codes]


def test_faults_are_chosen_by_name_in_their_own_order() -> None:
    assert chosen("all") == CASES
    assert [case.name for case in chosen("close, stall")] == ["stall", "close"]
    with pytest.raises(ConfigError, match=r"--faults: there is no fault 'explode'; there are all, stall, vanish"):
        chosen("stall,explode")


@given(st.integers(0, 2**32))
def test_a_plan_has_every_case_singly_and_fills_the_rest_by_chance(seed: int) -> None:
    plan = plan_of(seed)
    singly = [each.case.name for each in plan.injections if each.phase == "single"]
    assert sorted(singly) == sorted(case.name for case in CASES)
    assert [each for each in plan.injections if each.phase == "mixed"]
    assert plan.seconds <= 200.0
    assert all(each.settled_at_s <= plan.seconds for each in plan.injections)


@given(st.integers(0, 2**32))
def test_a_camera_has_one_fault_at_a_time_and_time_to_recover(seed: int) -> None:
    by_camera: dict[str, list[tuple[float, float]]] = {}
    for each in plan_of(seed).injections:
        by_camera.setdefault(each.camera, []).append((each.at_s, each.settled_at_s))
    assert all(first[1] <= then[0] for spans in by_camera.values() for first, then in pairwise(sorted(spans)))


def test_a_seed_gives_the_same_plan_and_another_one_another() -> None:
    assert plan_of(1) == plan_of(1) != plan_of(2)


def test_every_guest_is_another_camera() -> None:
    guests = [each.camera for each in plan_of(1).injections if each.case.role == "guest"]
    assert len(set(guests)) == len(guests) > 4


def test_a_plan_takes_as_long_as_its_cases_do() -> None:
    stall = chosen("stall")
    plan = make_plan(stall, [Lane(camera="victim-0", role="victim")], seconds=0.0, seed=0)
    assert [each.at_s for each in plan.injections] == [0.0]
    assert plan.seconds == plan.injections[0].settled_at_s


def test_a_case_without_a_camera_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no camera for the fault udp-stall"):
        make_plan(chosen("udp-stall"), [Lane(camera="victim-0", role="victim")], seconds=0.0, seed=0)
