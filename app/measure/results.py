"""What every measurement's JSON has in common: where it was made, and its figures, ready to be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from app.measure.machine import Machine

VERSION = 2
Better: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity, by its samples: one a repetition, in the order in which they were taken."""

    unit: str  # "fps", "ms", "MiB", "1" for ratios ...
    better: Better  # which direction is an improvement
    samples: tuple[float, ...]


def result(kind: str, machine: Machine, figures: Mapping[str, Figure], **details: Any) -> dict[str, Any]:
    """The JSON of a measurement: `kind` (bench, sweep, profile ...), figures by dotted name, then the details.

    Numbers are rounded to four places; what was not measured (NaN, infinity) is null.
    """
    whole = {
        "version": VERSION,
        "kind": kind,
        "machine": asdict(machine),
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        **details,
    }
    rounded: dict[str, Any] = _rounded(whole)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
