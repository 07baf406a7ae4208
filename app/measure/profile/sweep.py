"""Batch sizes against each other: what the contexts do when all of them are busy with batches of one size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from app.measure.figures import Percentiles, percentiles
from app.measure.limit import MIN_SCORE, Run
from app.types import Frame

# Larger batches that win by less than this are not worth the latency.
WORTH = 0.02
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One batch size: all contexts at once, each with one batch after the other."""

    batch: int
    contexts: int
    batches: int
    fps: float
    batch_ms: Percentiles
    cores: float  # CPU seconds a second, of the whole process
    gpu_busy: float | None = None  # share of the time, as NVML samples it

    @property
    def frame_ms(self) -> float:
        """Milliseconds a frame, at this rate."""
        return 1e3 / self.fps


def sweep(
    runs: Sequence[Run[Any]],
    frames: Sequence[Frame[Any]],
    sizes: Sequence[int],
    *,
    seconds: float,
    in_thread: Callable[[], AbstractContextManager[Any]] = nullcontext,
    gpu_busy: Callable[[], float | None] = lambda: None,
    on_tick: Callable[[float], None] = lambda done: None,
) -> tuple[SweepRow, ...]:
    """Measure each size for `seconds`. `frames`: as many as the largest size, kept by the caller. Blocking."""
    rows = []
    for number, size in enumerate(sizes, start=1):
        rows.append(_measure(runs, frames[:size], seconds, in_thread, gpu_busy))
        on_tick(number)
    return tuple(rows)


def best_batch(rows: Sequence[SweepRow], budget_ms: float) -> SweepRow | None:
    """The fastest size whose batches keep to the budget at p95; of nearly equal ones the smallest. None: none does."""
    allowed = [row for row in rows if row.batch_ms.p95 <= budget_ms]
    if not allowed:
        return None
    enough = (1 - WORTH) * max(row.fps for row in allowed)
    return min((row for row in allowed if row.fps >= enough), key=lambda row: row.batch)


def _measure(
    runs: Sequence[Run[Any]],
    frames: Sequence[Frame[Any]],
    seconds: float,
    in_thread: Callable[[], AbstractContextManager[Any]],
    gpu_busy: Callable[[], float | None],
) -> SweepRow:
    clocks: list[tuple[float, float]] = []  # wall and CPU time: when all are ready, and when all have ended
    ready = threading.Barrier(len(runs), action=lambda: clocks.append(_clocks()))
    took: list[list[float]] = [[] for _ in runs]
    spent: list[float] = [0.0] * len(runs)
    failed: list[Exception] = []

    def loop(number: int, run: Run[Any]) -> None:
        scores = [MIN_SCORE] * len(frames)
        try:
            with in_thread():
                run(frames, scores)  # the first one is the slowest
                ready.wait()
                began = last = time.perf_counter()
                while last - began < seconds or last == began:
                    run(frames, scores)
                    now = time.perf_counter()
                    took[number].append(now - last)
                    last = now
                spent[number] = last - began
        except threading.BrokenBarrierError:
            pass  # another one failed, and says why
        except Exception as exc:  # raised below, whatever it is
            failed.append(exc)
            ready.abort()

    threads = [
        threading.Thread(target=loop, args=(number, run), name=f"profile:context-{number}", daemon=True)
        for number, run in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    busy: list[float] = []
    for thread in threads:
        while thread.is_alive():
            thread.join(_LOOK_S)
            if clocks and (share := gpu_busy()) is not None:
                busy.append(share)
    clocks.append(_clocks())
    if failed:
        raise failed[0]
    # Each context's own rate: they do not stop at the same moment.
    fps = sum(len(each) * len(frames) / spent_s for each, spent_s in zip(took, spent, strict=True))
    every = [1e3 * each for of in took for each in of]
    (began_s, cpu_before_s), (ended_s, cpu_after_s) = clocks
    return SweepRow(
        batch=len(frames),
        contexts=len(runs),
        batches=len(every),
        fps=fps,
        batch_ms=percentiles(every),
        cores=(cpu_after_s - cpu_before_s) / (ended_s - began_s),
        gpu_busy=sum(busy) / len(busy) if busy else None,
    )


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
