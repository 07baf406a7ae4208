"""What gives way under overload, step by step, and back again. Pure: no clock, no threads.

The ladder has a rung and, from the second on, goes up one priority after the other: the cameras of the lowest priority
first. Up after seconds of strain, down after a longer calm; a calm that turned out to be too short has to last twice as
long the next time. So load that stays what it is leads to a rung and not to a swing between two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

LevelName: TypeAlias = Literal["full", "thinned", "light_decode", "references_only", "keyframes_only"]
LEVELS: tuple[LevelName, ...] = get_args(LevelName)
THINNED, LIGHT, REFERENCES, KEYFRAMES = range(1, 5)
HIGHEST_PRIORITY = 10

CLIMB_AFTER_S = 2.0
RELAX_AFTER_S = 10.0
LONGEST_RELAX_S = 320.0
# Strain that comes back so soon after a step down was brought back by it.
RELAPSE_S = 30.0

# Share of the wanted frames that got no result. Between the two nothing changes.
STRAINED_SHED, CALM_SHED = 0.10, 0.02
# Share of the cores that decoding takes. Less than the first, and doing less of it would help nobody else.
WORTHWHILE_DECODE, CALM_DECODE = 0.25, 0.12
# Above this, decoders are what is short, whatever is inferred.
FULL_DECODE = 0.85
# How far a reader is behind its camera, in seconds.
STRAINED_LAG_S, CALM_LAG_S = 0.3, 0.1
# A reader that is behind while cores are idle has a slow network, and less decoding would not help it.
STRAINED_CPU, CALM_CPU = 0.7, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What was measured over the last second."""

    shed: float  # share of the wanted frames that got no result
    decode_load: float  # share of the cores that decoding takes
    cpu_load: float  # share of the cores that the whole process takes
    lag_s: float  # of the reader that is farthest behind its camera


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """What a camera has to do without. `level` is an index into `LEVELS`, above 0."""

    level: int
    since_utc: float
    reason: str

    @property
    def name(self) -> LevelName:
        return LEVELS[self.level]


class Ladder:
    """Where the service stands. One thread."""

    def __init__(self) -> None:
        self.rung = 0
        self.reason = ""  # why it went where it is, as a sentence
        self._upto = HIGHEST_PRIORITY  # cameras up to this priority are on the rung, the others one below
        self._strained_since: float | None = None
        self._calm_since: float | None = None
        self._relax_s = RELAX_AFTER_S
        self._lowered_at: float | None = None  # the last step down, while it may still prove too early

    def __repr__(self) -> str:
        return f"Ladder({LEVELS[self.rung]} up to priority {self._upto}, down after {self._relax_s:g} s)"

    def level(self, priority: int) -> int:
        """The level of cameras of a priority."""
        return self.rung if priority <= self._upto else max(0, self.rung - 1)

    def observe(self, pressure: Pressure, priorities: Collection[int], now: float) -> bool:
        """Take note of a measurement, about once a second; True when something changed. `priorities`: all there are."""
        if not priorities:
            changed, self.rung = self.rung > 0, 0
            self._strained_since = self._calm_since = None
            return changed
        up = self._next_rung(priorities)
        why = None if up is None else _strain(pressure, up)
        calm = self.rung > 0 and _is_calm(pressure, self.rung)
        self._strained_since = None if why is None else _first(self._strained_since, now)
        self._calm_since = None if not calm else _first(self._calm_since, now)
        if self._lowered_at is not None and now - self._lowered_at > RELAPSE_S:
            self._lowered_at, self._relax_s = None, max(RELAX_AFTER_S, self._relax_s / 2)
        if why is not None and self._strained_since is not None and now - self._strained_since >= CLIMB_AFTER_S:
            self._climb(priorities, why)
            self._strained_since = now
            return True
        if self._calm_since is not None and now - self._calm_since >= self._relax_s:
            self._descend(priorities, now)
            self._calm_since = now
            return True
        return False

    def _next_rung(self, priorities: Collection[int]) -> int | None:
        """The rung that the next step up leads to; None from the highest."""
        if self._upto < max(priorities):
            return self.rung
        return self.rung + 1 if self.rung < KEYFRAMES else None

    def _climb(self, priorities: Collection[int], why: str) -> None:
        if self._lowered_at is not None:
            self._lowered_at, self._relax_s = None, min(LONGEST_RELAX_S, 2 * self._relax_s)
        higher = [priority for priority in priorities if priority > self._upto]
        if higher:
            self._upto = min(higher)
        else:
            self.rung += 1
            # To thin out costs nobody anything: it leaves out what would be replaced anyway.
            self._upto = HIGHEST_PRIORITY if self.rung == THINNED else min(priorities)
        if self._upto >= max(priorities):
            self._upto = HIGHEST_PRIORITY
        self.reason = why

    def _descend(self, priorities: Collection[int], now: float) -> None:
        self._lowered_at = now
        on_rung = sorted(priority for priority in priorities if priority <= self._upto)
        if self.rung > THINNED and len(set(on_rung)) > 1:
            self._upto = max(priority for priority in on_rung if priority < on_rung[-1])
        else:
            self.rung -= 1
            self._upto = HIGHEST_PRIORITY
        self.reason = "the load has gone down; going back step by step"


def _first(since: float | None, now: float) -> float:
    return now if since is None else since


def _strain(pressure: Pressure, rung: int) -> str | None:
    """Why the step to `rung` would help, as a sentence; None when there is no need."""
    if rung > THINNED:
        if pressure.lag_s > STRAINED_LAG_S and pressure.cpu_load > STRAINED_CPU:
            return f"decoders are {pressure.lag_s:.1f} s behind their cameras"
        if pressure.decode_load > FULL_DECODE:
            return f"decoding takes {pressure.decode_load:.0%} of the cores"
    if pressure.shed <= STRAINED_SHED or rung == KEYFRAMES:
        return None
    if rung == THINNED:
        return f"{pressure.shed:.0%} of the frames cannot be inferred"
    if pressure.decode_load > WORTHWHILE_DECODE:
        return (
            f"{pressure.shed:.0%} of the frames cannot be inferred, and decoding takes "
            f"{pressure.decode_load:.0%} of the cores"
        )
    return None


def _is_calm(pressure: Pressure, rung: int) -> bool:
    """Whether the step down from `rung` seems safe."""
    if rung == THINNED:
        return pressure.shed < CALM_SHED
    keeps_up = pressure.lag_s < CALM_LAG_S or pressure.cpu_load < CALM_CPU
    return keeps_up and (pressure.shed < CALM_SHED or pressure.decode_load < CALM_DECODE)
