"""Timing work on a device: the wall clock around work that a stream was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.backends.cuda.driver import Stream

_WARM_UP = 5


def seconds_per_run(work: Callable[[], None], *, stream: Stream, duration_s: float) -> float:
    """Mean seconds of `work`, which queues on `stream`, over at least `duration_s` of runs queued in groups."""
    for _ in range(_WARM_UP):
        work()
    stream.synchronize()
    group, runs, began = 8, 0, time.perf_counter()
    while (spent_s := time.perf_counter() - began) < duration_s:
        for _ in range(group):
            work()
        stream.synchronize()
        runs += group
        if spent_s < 0.05 * duration_s:
            group = min(256, group * 2)
    return (time.perf_counter() - began) / runs
