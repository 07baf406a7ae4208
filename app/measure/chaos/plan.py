"""When which camera fails in which way. Pure: a seed gives the same plan everywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.measure.chaos.cases import Case

# A camera gets its next fault when it had so long to come back from the last one.
SETTLE_S = 6.0
_SETTLE_CALM_S = 2.5  # of a fault that stops no frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One camera that fails, one fault after the other."""

    camera: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A fault, from `at_s` to `ends_at_s`, and until `settled_at_s` to recover. Seconds since the plan's start."""

    number: int
    camera: str
    case: Case
    at_s: float
    phase: str  # single: in turn; mixed: by chance, beside others

    @property
    def ends_at_s(self) -> float:
        return self.at_s + self.case.lasts_s

    @property
    def settled_at_s(self) -> float:
        return self.ends_at_s + (SETTLE_S if self.case.outage else _SETTLE_CALM_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    injections: tuple[Injection, ...]
    seconds: float


def make_plan(cases: Sequence[Case], lanes: Sequence[Lane], *, seconds: float, seed: int) -> Plan:
    """Every case once, whatever it takes; then cases by chance on every lane until `seconds` have passed.

    The first part spreads the cases over the lanes of their role, so faults of different cameras overlap there as
    well, but a camera has one at a time. Raises ValueError when a case has no lane.
    """
    chance = random.Random(seed)
    free_at = dict.fromkeys(lanes, 0.0)
    drawn = [*_singles(cases, free_at, chance)]
    singles_end = max(free_at.values(), default=0.0)
    drawn += _mix(cases, free_at, chance, starts_at=singles_end, ends_at=seconds)
    ordered = sorted(drawn, key=lambda each: (each[0], each[1].camera))
    injections = tuple(
        Injection(number=number, camera=_target(lane, number, case), case=case, at_s=at_s, phase=phase)
        for number, (at_s, lane, case, phase) in enumerate(ordered)
    )
    return Plan(injections=injections, seconds=max([seconds, *(each.settled_at_s for each in injections)]))


_Drawn = tuple[float, Lane, Case, str]


def _singles(cases: Sequence[Case], free_at: dict[Lane, float], chance: random.Random) -> Iterator[_Drawn]:
    shuffled = list(cases)
    chance.shuffle(shuffled)
    for case in shuffled:
        able = [lane for lane in free_at if lane.role == case.role]
        if not able:
            raise ValueError(f"there is no camera for the fault {case.name}")
        lane = min(able, key=lambda each: free_at[each])
        yield free_at[lane], lane, case, "single"
        free_at[lane] += _takes_s(case)


def _mix(
    cases: Sequence[Case], free_at: dict[Lane, float], chance: random.Random, *, starts_at: float, ends_at: float
) -> Iterator[_Drawn]:
    for lane in free_at:
        able = [case for case in cases if case.role == lane.role]
        at_s = starts_at + chance.random()
        while able:
            case = chance.choice(able)
            if at_s + _takes_s(case) > ends_at:
                break
            yield at_s, lane, case, "mixed"
            at_s += _takes_s(case) + chance.random()


def _takes_s(case: Case) -> float:
    return case.lasts_s + (SETTLE_S if case.outage else _SETTLE_CALM_S)


def _target(lane: Lane, number: int, case: Case) -> str:
    """The camera's id: a guest is another one each time, so that each has its own numbers."""
    return f"guest-{number}-{case.name}" if lane.role == "guest" else lane.camera
