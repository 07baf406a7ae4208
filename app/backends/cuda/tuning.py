"""How many contexts, and which batch: chosen by measuring briefly at start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MAX_BATCH_DURATION_S = 0.05
USUAL_CONTEXTS = 2  # one computes while the other's results are read and its next table is written
_OTHER_CONTEXTS = (1, 3, 4)
_NOISE = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How long a batch took in a context while all of them were busy."""

    contexts: int
    batch: int
    duration_s: float

    @property
    def fps(self) -> float:
        return self.contexts * self.batch / self.duration_s

    def __str__(self) -> str:
        return f"{self.contexts} x batch {self.batch}: {self.fps:.0f}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to run, and the measurements that say so; none when nothing was measured."""

    contexts: int
    batch: int
    fps: float | None = None
    rows: tuple[Measurement, ...] = ()
    complete: bool = True  # False: time ran out, and what was not measured was not considered

    def note(self) -> str:
        """One sentence for people."""
        what = f"{self.contexts} contexts" if self.contexts > 1 else "1 context"
        if not self.rows:
            return f"{what}, batch {self.batch}, not measured"
        hurry = "" if self.complete else "; time ran out before everything was measured"
        return f"{what}, batch {self.batch} chosen by measuring ({', '.join(map(str, self.rows))}{hurry})"


# Seconds that a batch takes with this many contexts busy (contexts, batch); None when there is no room for so many.
Measure: TypeAlias = Callable[[int, int], "float | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What to choose from; None leaves a count open."""

    contexts: int | None
    batch: int | None
    sizes: Sequence[int]  # rising
    budget_s: float

    @property
    def unmeasured(self) -> Choice:
        """What to run when nothing is measured."""
        return Choice(contexts=self.contexts or USUAL_CONTEXTS, batch=self.batch or self.sizes[-1])


def choose(measure: Measure, space: Space, *, clock: Callable[[], float]) -> Choice:
    """Measure the batch sizes with the usual contexts, then other counts of contexts with the best batch.

    A count of contexts that somebody did not write down is the usual one unless another is faster by more than 3 %.
    Stops after the budget, one measurement late at worst; the first measurement is always made.
    """
    ends_at = clock() + space.budget_s
    rows: list[Measurement] = []
    complete = True

    def measured(contexts: int, batch: int) -> Measurement | None:
        nonlocal complete
        if rows and clock() >= ends_at:
            complete = False
            return None
        duration_s = measure(contexts, batch)
        if duration_s is None:
            return None
        rows.append(Measurement(contexts=contexts, batch=batch, duration_s=duration_s))
        return rows[-1]

    contexts = space.contexts or USUAL_CONTEXTS
    # The largest first: it is the likeliest, should there be time for no more.
    sizes = (space.batch,) if space.batch else tuple(reversed(space.sizes))
    found = [row for size in sizes if (row := measured(contexts, size)) is not None]
    if not found:
        return space.unmeasured
    best = best_batch(found)
    for count in () if space.contexts else _OTHER_CONTEXTS:
        row = measured(count, best.batch)
        if row is not None and row.fps > _NOISE * best.fps and row.duration_s <= MAX_BATCH_DURATION_S:
            best = row
    return Choice(contexts=best.contexts, batch=best.batch, fps=best.fps, rows=tuple(rows), complete=complete)


def best_batch(rows: Sequence[Measurement]) -> Measurement:
    """Of the batches that take at most 50 ms, the largest that is within 3 % of the best throughput.

    Large batches cost the batcher least; longer ones would add their length to every result's latency.
    """
    quick = [row for row in rows if row.duration_s <= MAX_BATCH_DURATION_S]
    if not quick:
        return min(rows, key=lambda row: row.batch)
    most = max(row.fps for row in quick)
    return max((row for row in quick if _NOISE * row.fps >= most), key=lambda row: row.batch)
