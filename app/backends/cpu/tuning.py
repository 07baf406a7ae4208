"""Choosing engine, precision, streams and batch size by measuring them briefly at start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

MAX_BATCH_DURATION_S = 0.05
ROUNDS = 3
_BATCHES = (2, 4, 8, 16)
_RIVAL = 0.85  # of the best throughput: who is below that after a measurement will not win the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to compute a model."""

    engine: str  # openvino, onnxruntime
    precision: str  # fp32, bf16, int8

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model is run. A stream runs one batch at a time, on `threads` threads of its own."""

    engine: str = "openvino"
    precision: str
    streams: int
    threads: int

    @property
    def variant(self) -> Variant:
        return Variant(engine=self.engine, precision=self.precision)

    def __str__(self) -> str:
        return f"{self.variant} {self.streams} x {self.threads} threads"


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


def plan_for(variant: Variant, streams: int, cores: int) -> Plan:
    """A plan that shares the cores evenly among its streams."""
    return Plan(engine=variant.engine, precision=variant.precision, streams=streams, threads=max(1, cores // streams))


def stream_counts(cores: int) -> tuple[int, ...]:
    """Stream counts worth measuring, likeliest first: one per core (16 at most), two, one."""
    return tuple(dict.fromkeys((min(cores, 16), min(cores, 2), 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What to choose from, likeliest first; at least one of each."""

    cores: int
    variants: tuple[Variant, ...]
    streams: tuple[int, ...]
    max_batch: int
    budget_s: float

    @property
    def first(self) -> Plan:
        """The likeliest plan, to run when nothing is measured."""
        return plan_for(self.variants[0], self.streams[0], self.cores)


def tune(measure: Measure, space: Space, *, clock: Callable[[], float]) -> Tuning:
    """Measure variants first, then streams, then batch sizes, each with the best of what came before.

    `measure` must know the first plan at batch 1. Stops after the budget, one measurement late at worst.
    """
    search = _Search(measure, clock, ends_at=clock() + space.budget_s)
    search.contest([(plan_for(variant, space.streams[0], space.cores), 1) for variant in space.variants])
    best = best_plan(search.rows())
    search.contest([(best, 1), *((plan_for(best.variant, count, space.cores), 1) for count in space.streams[1:])])
    plan = best_plan(search.rows())
    single_s = next(row.duration_s for row in search.rows() if (row.plan, row.batch) == (plan, 1))
    # A batch saves a fifth at the very best, so what is far over the limit need not be tried.
    batches = [n for n in _BATCHES if n <= space.max_batch and 0.8 * n * single_s <= MAX_BATCH_DURATION_S]
    search.contest([(plan, 1), *((plan, batch) for batch in batches)], in_order=True)
    chosen = best_batch([row for row in search.rows() if row.plan == plan])
    return Tuning(plan=plan, batch=chosen.batch, fps=chosen.fps, rows=search.rows(), complete=search.complete)


class _Search:
    """Measures what it is told to, as long as there is time."""

    def __init__(self, measure: Measure, clock: Callable[[], float], *, ends_at: float) -> None:
        self._measure, self._clock, self._ends_at = measure, clock, ends_at
        self._took: dict[tuple[Plan, int], list[float]] = {}
        self.complete = True

    def rows(self) -> tuple[Measurement, ...]:
        """The median of each. The machine is never still, and one bad moment must not decide."""
        return tuple(
            Measurement(plan=plan, batch=batch, duration_s=median(took)) for (plan, batch), took in self._took.items()
        )

    def contest(self, entries: Sequence[tuple[Plan, int]], *, in_order: bool = False) -> None:
        """Measure every entry, and in turns again those that may still win. `in_order`: one that fails is the last."""
        for entry in entries:
            if entry not in self._took and self._take(entry) is False and in_order:
                break
        for _ in range(1, ROUNDS):
            rows = [row for row in self.rows() if (row.plan, row.batch) in entries]
            most = max(row.fps for row in rows)
            rivals = [(row.plan, row.batch) for row in rows if row.fps >= _RIVAL * most]
            if len(rivals) < 2:
                return
            for entry in rivals:
                self._take(entry, needed=False)

    def _take(self, entry: tuple[Plan, int], *, needed: bool = True) -> bool:
        """Measure once. False when there was no time for it, or it must not be used."""
        if self._took and self._clock() >= self._ends_at:
            self.complete &= not needed
            return False
        duration_s = self._measure(*entry)
        if duration_s is None:
            return False
        self._took.setdefault(entry, []).append(duration_s)
        return True


def best_plan(rows: Sequence[Measurement]) -> Plan:
    """The plan with the most frames a second. One that comes later must win by 5 %, which is more than noise."""
    best = rows[0]
    for row in rows[1:]:
        if row.fps > 1.05 * best.fps:
            best = row
    return best.plan


def best_batch(rows: Sequence[Measurement]) -> Measurement:
    """The smallest batch that is within 5 % of the best throughput and takes at most 50 ms.

    Where a batch gains nothing, its length is added to every result's latency for nothing: in simulation
    (`scripts/simulate_batching.py --like cpu`) greedy batches of up to 8 double p99 at 70 % load.
    """
    most = max(row.fps for row in rows)
    good = [row for row in rows if row.fps >= 0.95 * most and row.duration_s <= MAX_BATCH_DURATION_S]
    return min(good or rows, key=lambda row: row.batch)
