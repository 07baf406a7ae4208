"""Choosing precision, streams and batch size by measuring them briefly at start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MAX_BATCH_DURATION_S = 0.05
_BATCHES = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model is compiled. A stream runs one batch at a time, on `threads` threads of its own."""

    precision: str  # fp32, bf16
    streams: int
    threads: int

    def __str__(self) -> str:
        return f"{self.precision} {self.streams} x {self.threads} threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How long a batch took in a stream while all streams of the plan were busy."""

    plan: Plan
    batch: int
    duration_s: float

    @property
    def fps(self) -> float:
        return self.plan.streams * self.batch / self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What to run, and the measurements that say so; none when nothing was measured."""

    plan: Plan
    batch: int = 1
    fps: float | None = None  # inference alone
    rows: tuple[Measurement, ...] = ()
    complete: bool = True  # False: time ran out, and what was not measured was not considered

    def note(self) -> str:
        """One sentence for people."""
        if not self.rows:
            return f"{self.plan}, not measured"
        rows = ", ".join(f"{row.plan} batch {row.batch}: {row.fps:.0f}/s" for row in self.rows)
        hurry = "" if self.complete else "; time ran out before everything was measured"
        return f"{self.plan}, batch {self.batch} chosen by measuring ({rows}{hurry})"


# Seconds that one batch of this size takes under this plan, all streams busy; None when it must not be used.
Measure: TypeAlias = Callable[[Plan, int], float | None]


def plan_for(precision: str, streams: int, cores: int) -> Plan:
    """A plan that shares the cores evenly among its streams."""
    return Plan(precision=precision, streams=streams, threads=max(1, cores // streams))


def stream_counts(cores: int) -> tuple[int, ...]:
    """Stream counts worth measuring, likeliest first: one per core (16 at most), two, one."""
    return tuple(dict.fromkeys((min(cores, 16), min(cores, 2), 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What to choose from, likeliest first; at least one of each."""

    cores: int
    precisions: Sequence[str]
    streams: Sequence[int]
    max_batch: int
    budget_s: float

    @property
    def first(self) -> Plan:
        """The likeliest plan, to run when nothing is measured."""
        return plan_for(self.precisions[0], self.streams[0], self.cores)


def tune(measure: Measure, space: Space, *, clock: Callable[[], float]) -> Tuning:
    """Measure precision first, then streams, then batch, each with the best of what came before.

    `measure` must know every plan at batch 1. Stops after the budget, one measurement late at worst.
    """
    ends_at = clock() + space.budget_s
    rows: list[Measurement] = []

    def measured(plan: Plan, batch: int) -> bool:
        if rows and clock() >= ends_at:
            return False
        duration_s = measure(plan, batch)
        if duration_s is not None:
            rows.append(Measurement(plan=plan, batch=batch, duration_s=duration_s))
        return True

    complete = all(measured(plan_for(precision, space.streams[0], space.cores), 1) for precision in space.precisions)
    precision = best_plan(rows).precision
    complete &= all(measured(plan_for(precision, count, space.cores), 1) for count in space.streams[1:])
    plan = best_plan(rows)
    single_s = next(row.duration_s for row in rows if row.plan == plan)
    for batch in _BATCHES:
        # A batch saves a fifth at the very best, so what is far over the limit need not be tried.
        if batch > space.max_batch or 0.8 * batch * single_s > MAX_BATCH_DURATION_S:
            break
        before = len(rows)
        complete &= measured(plan, batch)
        if len(rows) == before:
            break
    best = best_batch([row for row in rows if row.plan == plan])
    return Tuning(plan=plan, batch=best.batch, fps=best.fps, rows=tuple(rows), complete=complete)


def best_plan(rows: Sequence[Measurement]) -> Plan:
    """The plan with the most frames a second. One that comes later must win by 5 %, which is more than noise."""
    best = rows[0]
    for row in rows[1:]:
        if row.fps > 1.05 * best.fps:
            best = row
    return best.plan


def best_batch(rows: Sequence[Measurement]) -> Measurement:
    """The largest batch that is within 3 % of the best throughput and takes at most 50 ms.

    Large batches cost the batcher least; longer ones would add their length to every result's latency.
    """
    most = max(row.fps for row in rows)
    good = [row for row in rows if row.fps >= 0.97 * most and row.duration_s <= MAX_BATCH_DURATION_S]
    return max(good, key=lambda row: row.batch) if good else min(rows, key=lambda row: row.batch)
