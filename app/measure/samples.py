"""Figures of a measurement that was made more than once: a sample a repetition."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.measure.results import Better, Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One figure of one repetition."""

    value: float
    unit: str
    better: Better


def figures(repetitions: Sequence[Mapping[str, Sample]], prefix: str = "") -> dict[str, Figure]:
    """The figures that every one of the repetitions has; `prefix` comes before each name, with a dot."""
    lead = f"{prefix}." if prefix else ""
    first, *others = repetitions
    return {
        f"{lead}{name}": Figure(
            unit=sample.unit, better=sample.better, samples=tuple(each[name].value for each in repetitions)
        )
        for name, sample in first.items()
        if all(name in other for other in others)
    }


def median(repetitions: Sequence[Mapping[str, Sample]], name: str) -> float:
    return statistics.median(each[name].value for each in repetitions)
