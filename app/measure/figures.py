"""The arithmetic of a measurement. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of one duration, in milliseconds; interpolated between neighbours."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How evenly something is shared. `jain` is 1.0 when all get the same, 1/n when one of n gets it all."""

    min: float
    mean: float
    max: float
    jain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Cores in use over a stretch of time: CPU seconds a second."""

    process: float  # this process, all its threads
    simulator: float  # the child that plays the cameras
    others: float | None  # everything else on the machine; None when this process may not use the whole of it


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRun:
    """One measurement of the closed loop; see `app.measure.limit`."""

    seconds: float
    inferred_fps: float
    decoded_fps: float
    decode_cpu_ms: float  # CPU time of a decoded frame, reading included
    infer_cpu_ms: float  # CPU time of an inferred frame: preprocess, infer, postprocess
    usage: Usage


def percentiles(durations_ms: Sequence[float]) -> Percentiles:
    """Of at least one duration; NaN of none."""
    if not durations_ms:
        return Percentiles(p50=float("nan"), p95=float("nan"), p99=float("nan"))
    p50, p95, p99 = np.percentile(durations_ms, (50, 95, 99))
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))


def spread(values: Iterable[float]) -> Spread:
    """Jain's fairness index: (sum x)^2 / (n sum x^2). Source: Jain, Chiu and Hawe, 1984."""
    x = np.asarray(tuple(values), dtype=np.float64)
    squares = float(np.sum(x * x))
    jain = float(np.sum(x)) ** 2 / (len(x) * squares) if squares else 1.0
    return Spread(min=float(x.min()), mean=float(x.mean()), max=float(x.max()), jain=jain)


def budget_fps(runs: Sequence[LimitRun], *, cores: int, offered_fps: float) -> float:
    """What the cores would infer if they did nothing but decode `offered_fps` frames a second and infer.

    (cores - offered x CPU seconds of decoding) / CPU seconds of inferring, at least 0.
    """
    decode_s = sum(run.decode_cpu_ms for run in runs) / len(runs) / 1e3
    infer_s = sum(run.infer_cpu_ms for run in runs) / len(runs) / 1e3
    return max(0.0, cores - offered_fps * decode_s) / infer_s


def difference(after: Mapping[K, int], before: Mapping[K, int]) -> dict[K, int]:
    """What was counted in between."""
    return {key: count - before.get(key, 0) for key, count in after.items()}
