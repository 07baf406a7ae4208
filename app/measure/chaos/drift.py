"""Whether a long run's figures stay where they were: its first third against its last. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from app.measure.chaos.run import ChaosRun, Sample

_T = TypeVar("_T")
# Pools, caches and allocators fill in the beginning: that is left out.
WARM_UP_SHARE, WARM_UP_S = 0.2, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One figure, early and late; `allowed` is how much more it may be late than early."""

    name: str
    unit: str
    early: float
    late: float
    allowed: float
    an_hour: float | None = None  # by a straight line through all samples

    @property
    def growth(self) -> float:
        return self.late - self.early

    @property
    def holds(self) -> bool:
        return self.growth <= self.allowed


def drifts(run: ChaosRun) -> tuple[Drift, ...]:
    """The drifts of a run that is long enough: at least three samples behind the warm-up, else none."""
    samples = settled(run)
    if len(samples) < 3:
        return ()
    ages = sorted(pair for log in run.observer.logs.values() for pair in log.ages if pair[0] >= samples[0].at_s)
    early, late = _thirds([age_s for _at_s, age_s in ages])
    first, last = _thirds(samples)
    return (
        _held("memory", "MiB", samples, lambda each: each.held.rss_bytes / 2**20, 32.0),
        _held("anonymous memory", "MiB", samples, lambda each: each.held.anonymous_bytes / 2**20, 32.0),
        _held("threads", "threads", samples, lambda each: each.held.threads, 2.0),
        _held("descriptors", "descriptors", samples, lambda each: each.held.fds, 2.0),
        _compared("result age p50", early, late, 50, share=0.5, more_ms=5.0),
        _compared("result age p99", early, late, 99, share=1.0, more_ms=50.0),
        _compared("API p50", [s.answer_s for s in first], [s.answer_s for s in last], 50, share=0.5, more_ms=10.0),
    )


def settled(run: ChaosRun) -> list[Sample]:
    """The samples of the faults' time, without the warm-up."""
    began_s, ended_s = run.faults_s
    from_s = began_s + min(WARM_UP_S, WARM_UP_SHARE * (ended_s - began_s))
    return [sample for sample in run.samples if from_s <= sample.at_s <= ended_s]


def _thirds(values: Sequence[_T]) -> tuple[Sequence[_T], Sequence[_T]]:
    third = max(1, len(values) // 3)
    return values[:third], values[-third:]


def _held(name: str, unit: str, samples: Sequence[Sample], of: Callable[[Sample], float], allowed: float) -> Drift:
    early, late = (statistics.median(map(of, third)) for third in _thirds(samples))
    slope = np.polyfit([each.at_s / 3600 for each in samples], [of(each) for each in samples], 1)[0]
    return Drift(name=name, unit=unit, early=early, late=late, allowed=allowed, an_hour=float(slope))


def _compared(
    name: str, early_s: Sequence[float], late_s: Sequence[float], percent: int, *, share: float, more_ms: float
) -> Drift:
    early, late = (1e3 * float(np.percentile(each or [0.0], percent)) for each in (early_s, late_s))
    return Drift(name=name, unit="ms", early=early, late=late, allowed=share * early + more_ms)
