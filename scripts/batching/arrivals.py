"""When frames arrive: cameras drawn by chance from a seed, or arrivals that were recorded once."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from app.errors import ConfigError

Phase: TypeAlias = Literal["aligned", "random", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Arrival:
    """A decoded frame comes to its camera's slot."""

    at_s: float
    camera: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cameras:
    """Equal cameras. Aligned ones send at the same instant, spread ones at even distances, random ones anyhow."""

    count: int
    fps: float
    seconds: float
    phase: Phase = "random"
    jitter_ms: float = 2.0  # standard deviation of a frame's delay: network, decoder, threads
    poisson: bool = False  # exponential gaps instead of a fixed rate: the worst that many small causes add up to
    seed: int = 0


def drawn(cameras: Cameras) -> tuple[Arrival, ...]:
    """The arrivals of a plan, in order. The same plan always gives the same ones."""
    chance = random.Random(cameras.seed)
    found: list[Arrival] = []
    for camera in range(cameras.count):
        times = _poisson(cameras, chance) if cameras.poisson else _regular(cameras, camera, chance)
        found += [Arrival(at_s=at_s, camera=camera) for at_s in sorted(times)]
    return tuple(sorted(found))


def recorded(path: Path) -> tuple[Arrival, ...]:
    """The arrivals of a file: JSON with `arrivals_ms`, a list of times for each camera. Raises `ConfigError`."""
    try:
        cameras = json.loads(path.read_text(encoding="utf-8"))["arrivals_ms"]
        found = [Arrival(at_s=float(ms) / 1e3, camera=i) for i, times in enumerate(cameras) for ms in times]
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path}: is no record of arrivals: it has no arrivals_ms, times for each camera") from None
    if len(found) < 2 or not all(math.isfinite(arrival.at_s) for arrival in found):
        raise ConfigError(f"{path}: arrivals_ms must hold at least two times, all of them numbers")
    return tuple(sorted(found))


def rate(arrivals: Sequence[Arrival]) -> float:
    """Frames a second, of all cameras."""
    return (len(arrivals) - 1) / max(arrivals[-1].at_s - arrivals[0].at_s, 1e-9)


def at_rate(arrivals: Sequence[Arrival], fps: float) -> tuple[Arrival, ...]:
    """The same arrivals, played faster or slower so that they come at this rate."""
    stretch = rate(arrivals) / fps
    return tuple(Arrival(at_s=arrival.at_s * stretch, camera=arrival.camera) for arrival in arrivals)


def repeated(arrivals: Sequence[Arrival], times: int) -> tuple[Arrival, ...]:
    """A record played several times over, one mean gap between the rounds."""
    period_s = arrivals[-1].at_s - arrivals[0].at_s + 1.0 / rate(arrivals)
    return tuple(
        Arrival(at_s=arrival.at_s + round_ * period_s, camera=arrival.camera)
        for round_ in range(times)
        for arrival in arrivals
    )


def _regular(cameras: Cameras, camera: int, chance: random.Random) -> list[float]:
    period_s = 1.0 / cameras.fps
    phases = {"aligned": 0.0, "spread": camera / cameras.count, "random": chance.random()}
    first_s = phases[cameras.phase] * period_s
    count = round(cameras.seconds * cameras.fps)
    return [max(0.0, first_s + i * period_s + chance.gauss(0.0, cameras.jitter_ms / 1e3)) for i in range(count)]


def _poisson(cameras: Cameras, chance: random.Random) -> list[float]:
    times: list[float] = []
    at_s = chance.expovariate(cameras.fps)
    while at_s < cameras.seconds:
        times.append(at_s)
        at_s += chance.expovariate(cameras.fps)
    return times
