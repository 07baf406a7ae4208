"""What executes batches: how long each size takes, in how many contexts, and whether these share one device."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ConfigError

MOST = 64
NEARLY = 0.03
_SWEPT = re.compile(r"(?:.*\.)?batch_(\d+)\.(?:batch_ms|wall_ms)\.p50")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A latency curve and its contexts.

    `ms` is what a batch of each size takes in a context while all contexts are busy, with size 1 among them; between
    two sizes it is interpolated. `launch_ms` is the host's work before the device starts on a batch; a context is idle
    for so long between two batches unless it took the next one early. Contexts that share a device (a GPU) execute in
    turn, others (each with a core of its own) at the same time.
    """

    ms: Mapping[int, float]
    contexts: int = 1
    launch_ms: float = 0.0
    shared: bool = False

    @property
    def lines(self) -> int:
        """How many batches execute at the same time."""
        return 1 if self.shared else self.contexts

    @property
    def largest(self) -> int:
        return max(self.ms)

    def execution_s(self, size: int) -> float:
        """Seconds that a batch of this size takes, 1..`largest`."""
        if size in self.ms:
            return self.ms[size] / 1e3
        below = max(known for known in self.ms if known < size)
        above = min(known for known in self.ms if known > size)
        share = (size - below) / (above - below)
        return (self.ms[below] * (1 - share) + self.ms[above] * share) / 1e3

    def rate(self, size: int) -> float:
        """Frames a second in batches of this size, launches included."""
        return self.lines * size / (self.launch_ms / 1e3 + self.execution_s(size))

    def capacity_fps(self, max_size: int) -> float:
        """The most frames a second, in batches of up to `max_size`."""
        return max(self.rate(size) for size in range(1, min(max_size, self.largest) + 1))

    def best_size(self, max_size: int) -> int:
        """The smallest of the curve's sizes that is nearly as fast as the fastest: more would only delay results."""
        sizes = [size for size in self.ms if size <= max_size]
        enough = (1 - NEARLY) * max(self.rate(size) for size in sizes)
        return min(size for size in sizes if self.rate(size) >= enough)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a measurement's JSON says of a device."""

    ms: dict[int, float]
    contexts: int | None  # None: it does not say


def from_text(text: str) -> dict[int, float]:
    """A curve as `1:3.0,4:6.1,8:9.5`: milliseconds by batch size. Raises `ConfigError`."""
    try:
        pairs = [point.split(":") for point in text.split(",")]
        curve = {int(size): float(ms) for size, ms in pairs}
    except ValueError:
        raise ConfigError(f"--curve must be like 1:3.0,4:6.1 (milliseconds by batch size), not {text!r}") from None
    return _checked(curve, "--curve")


def from_result(path: Path) -> Measured:
    """The curve that a `vidette bench` or `vidette profile` found: of its sweep, else of the sizes that it ran.

    Raises `ConfigError`.
    """
    try:
        whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        curve = _swept(whole.get("figures", {})) or _served(whole)
        contexts = _contexts(whole)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{path}: is no result of a measurement") from None
    if not curve:
        raise ConfigError(f"{path}: tells of no batch how long it took; `vidette bench --sweep --out FILE` does")
    return Measured(ms=_checked(curve, str(path)), contexts=contexts)


def _swept(figures: Mapping[str, Any]) -> dict[int, float]:
    """From figures such as `batch_4.batch_ms.p50`."""
    found: dict[int, float] = {}
    for name, figure in figures.items():
        match = _SWEPT.fullmatch(name)
        samples = [value for value in figure["samples"] if value is not None] if match else []
        if match and samples:
            found[int(match[1])] = statistics.median(samples)
    return found


def _served(whole: Mapping[str, Any]) -> dict[int, float]:
    by_size = whole.get("service", {}).get("batch_ms", {})
    return {int(size): float(of["p50"]) for size, of in by_size.items() if of["p50"] is not None}


def _contexts(whole: Mapping[str, Any]) -> int | None:
    rows = whole.get("rows") or [whole]
    found = (rows[-1].get("engine") or whole.get("engine") or {}).get("contexts")
    return None if found is None else int(found)


def _checked(curve: dict[int, float], subject: str) -> dict[int, float]:
    if 1 not in curve:
        raise ConfigError(f"{subject}: the curve does not say what a batch of 1 takes")
    if not all(1 <= size <= MOST for size in curve):
        raise ConfigError(f"{subject}: batch sizes must be from 1 to {MOST}")
    if not all(0 < ms < math.inf for ms in curve.values()):
        raise ConfigError(f"{subject}: milliseconds must be more than 0")
    return dict(sorted(curve.items()))
