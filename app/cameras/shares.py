"""What each camera is due of what can be inferred. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a camera asks for."""

    fps: float
    priority: int  # its weight


def dues(demands: Mapping[str, Demand], fps: float) -> dict[str, float]:
    """Share `fps` frames a second by priority; nobody gets more than it asks for, and others get what it leaves.

    Weighted max-min fairness: Bertsekas and Gallager, Data Networks, 1992, section 6.5.2.
    """
    due: dict[str, float] = {}
    left_fps, weights = fps, sum(demand.priority for demand in demands.values())
    # Who asks for least a weight is content first.
    for name, demand in sorted(demands.items(), key=lambda item: item[1].fps / item[1].priority):
        due[name] = min(demand.fps, left_fps * demand.priority / weights)
        left_fps -= due[name]
        weights -= demand.priority
    return due
