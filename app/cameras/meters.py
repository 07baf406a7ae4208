"""Rates and latency histograms, counted in memory and read by snapshots."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class RateMeter:
    """Events a second over the last `window_s` seconds. One writer thread; any thread may read."""

    def __init__(self, *, window_s: float = 5.0, capacity: int = 1024) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque(maxlen=capacity)

    def mark(self, now: float) -> None:
        self._times.append(now)

    def rate(self, now: float) -> float:
        """Events a second; 0.0 when fewer than two lie in the window."""
        recent = [t for t in tuple(self._times) if now - t <= self._window_s]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        # From the first event to now, but at least one mean interval past the last: a rate must fall when events stop.
        mean_s = (recent[-1] - recent[0]) / (len(recent) - 1)
        return len(recent) / max(recent[-1] - recent[0] + mean_s, now - recent[0])

    def reset(self) -> None:
        self._times.clear()


class Histogram:
    """Counts of observations in fixed buckets, as Prometheus wants them. One writer thread; any thread may read."""

    def __init__(self, bounds: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """([(upper bound as text, cumulative count)], sum), the last bound being +Inf."""
        rows, running = [], 0
        for bound, count in zip((*(str(b) for b in self.bounds), "+Inf"), self._counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows, self._sum
