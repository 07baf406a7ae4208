"""Two measurements side by side: what changed, and whether that is more than chance. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from app.errors import ConfigError
from app.measure.results import VERSION, Better, Figure
from app.measure.significance import ALPHA, ENOUGH_PAIRS, chance

Direction: TypeAlias = Literal["better", "worse", "same", "changed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What is compared of a result's JSON."""

    kind: str
    machine: Mapping[str, Any]
    figures: Mapping[str, Figure]  # a sample that was not measured is NaN
    conditions: Mapping[str, Any]  # what was measured: the load and the engine, as far as the result tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one figure. Medians over the pairs; NaN where there is no pair."""

    name: str
    unit: str
    better: Better
    base: float
    new: float
    percent: float  # (new - base) / |base|; infinite from 0 to anything else
    pairs: int
    chance: float | None  # see `significance.chance`; None: too few pairs to tell
    agree: bool  # every pair changed to the same side
    direction: Direction
    regression: bool  # worse by more than the threshold, and not by chance as far as the pairs can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All changes, in the order of the base's figures, and what a reader must know beside them."""

    changes: tuple[Change, ...]
    only_in_base: tuple[str, ...]
    only_in_new: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.regression)


def parse(whole: Any, subject: str) -> Measurement:
    """A result's JSON, checked. Raises `ConfigError` with a sentence that begins with `subject`."""
    if not isinstance(whole, dict) or not {"version", "machine"} <= whole.keys():
        raise ConfigError(f"{subject}: is no result of a measurement")
    version = whole["version"]
    if version != VERSION:
        older = isinstance(version, int) and version < VERSION
        whose = f"{'an older' if older else 'a newer'} Vidette's, in format {version!r}; this one reads {VERSION}"
        raise ConfigError(f"{subject}: is {whose}{': measure again' if older else ''}")
    try:
        return Measurement(
            kind=str(whole["kind"]),
            machine=dict(whole["machine"]),
            figures={str(name): _figure(each) for name, each in whole["figures"].items()},
            conditions=_conditions(whole),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(
            f"{subject}: is no result of a measurement: kind, machine or figures are missing or not as they should be"
        ) from None


def joined(first: Measurement, more: Sequence[Measurement]) -> Measurement:
    """Repetitions of one measurement as one, with all samples of the figures that every one of them has."""
    figures = {
        name: replace(figure, samples=figure.samples + tuple(x for each in more for x in each.figures[name].samples))
        for name, figure in first.figures.items()
        if all(name in each.figures and each.figures[name].unit == figure.unit for each in more)
    }
    return replace(first, figures=figures)


def compare(
    base: Measurement, new: Measurement, *, threshold_percent: float, wanted: Callable[[str], bool] = lambda _: True
) -> Comparison:
    """Compare the figures that both have; sample i of one belongs to sample i of the other, as taken in alternation.

    A figure regresses when it is worse by more than the threshold and, with at least five pairs, chance alone would do
    as much in at most 5 of 100 cases; with fewer pairs, when every pair is worse. Nothing is corrected for the number
    of figures: the threshold keeps small ones out. In another unit a figure counts as another one. Raises `ConfigError`
    when no figure is in both.
    """
    ours = {name: figure for name, figure in base.figures.items() if wanted(name)}
    theirs = {name: figure for name, figure in new.figures.items() if wanted(name)}
    both = [name for name in ours if name in theirs and ours[name].unit == theirs[name].unit]
    if not both:
        raise ConfigError("the two results have no figure in common")
    return Comparison(
        changes=tuple(_change(name, ours[name], theirs[name], threshold_percent) for name in both),
        only_in_base=tuple(name for name in ours if name not in both),
        only_in_new=tuple(name for name in theirs if name not in both),
    )


def differences(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same, as `name: before -> after`."""
    names = list(base) + [name for name in new if name not in base]
    return [
        f"{name}: {_told(base.get(name))} -> {_told(new.get(name))}"
        for name in names
        if base.get(name) != new.get(name)
    ]


def _change(name: str, base: Figure, new: Figure, threshold_percent: float) -> Change:
    pairs = [
        (before, after)
        for before, after in zip(base.samples, new.samples, strict=False)
        if math.isfinite(before) and math.isfinite(after)
    ]
    before, after = _medians(pairs)
    percent = _percent(before, after)
    deltas = [after - before for before, after in pairs]
    agree = bool(deltas) and (all(delta > 0 for delta in deltas) or all(delta < 0 for delta in deltas))
    likely = chance(deltas) if len(deltas) >= ENOUGH_PAIRS else None
    beyond = (agree and abs(percent) > threshold_percent) if likely is None else likely <= ALPHA
    direction = _direction(percent, deltas, base.better, beyond=beyond)
    return Change(
        name=name,
        unit=base.unit,
        better=base.better,
        base=before,
        new=after,
        percent=percent,
        pairs=len(pairs),
        chance=likely,
        agree=agree,
        direction=direction,
        regression=direction == "worse" and abs(percent) > threshold_percent,
    )


def _direction(percent: float, deltas: Sequence[float], better: Better, *, beyond: bool) -> Direction:
    if not deltas:
        return "unknown"
    # The medians and the mean difference may disagree where one pair is far off; then nothing is known.
    if not beyond or percent == 0 or (percent > 0) != (sum(deltas) > 0):
        return "same"
    if better == "neither":
        return "changed"
    return "better" if (percent > 0) == (better == "higher") else "worse"


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    if not pairs:
        return math.nan, math.nan
    return statistics.median(before for before, _ in pairs), statistics.median(after for _, after in pairs)


def _percent(before: float, after: float) -> float:
    if before == 0:
        return 0.0 if after == 0 else math.copysign(math.inf, after)
    return 100 * (after - before) / abs(before)


def _figure(figure: Mapping[str, Any]) -> Figure:
    if figure["better"] not in ("higher", "lower", "neither"):
        raise ValueError(figure["better"])
    samples = tuple(math.nan if value is None else float(value) for value in figure["samples"])
    return Figure(unit=str(figure["unit"]), better=figure["better"], samples=samples)


def _conditions(whole: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, names in (("load", None), ("engine", ("model", "sha256", "precision", "backend", "contexts"))):
        section = whole.get(part)
        if isinstance(section, dict):
            values = {key: section.get(key) for key in names or section}
            plain = {key: value for key, value in values.items() if isinstance(value, (str, int, float))}
            found |= {f"{part}.{key}": value for key, value in plain.items()}
    return found


def _told(value: Any) -> str:
    return "none" if value is None else str(value)
