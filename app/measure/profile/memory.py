"""Memory over time: the process' own, and the device's where there is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

EVERY_S = 0.1
_MOST = 36_000  # samples: an hour


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Device memory at one moment."""

    allocated_bytes: int  # by Vidette itself: tensors, pictures, tables
    reserved_bytes: int  # taken from the device since it was opened: with engines, decoders and graphs, and by others


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    at_s: float  # perf_counter
    step: str  # what was being measured
    rss_bytes: int
    device: DeviceMemory | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Of one measurement, in bytes."""

    step: str
    rss_start: int
    rss_end: int
    rss_peak: int
    allocated_peak: int | None
    reserved_peak: int | None


class MemoryTimeline:
    """Samples every 100 ms in a thread of its own while its context is open, and at the start of each step."""

    def __init__(self, *, every_s: float = EVERY_S) -> None:
        self.device: Callable[[], DeviceMemory | None] = lambda: None  # replaced while a device is open
        self.samples: list[MemorySample] = []
        self._every_s = every_s
        self._process = psutil.Process()
        self._step = "start"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="profile:memory", daemon=True)

    def __enter__(self) -> MemoryTimeline:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Name what is being measured."""
        self._step = name
        self._sample()
        try:
            yield
        finally:
            self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            if len(self.samples) < _MOST:
                self.samples.append(
                    MemorySample(
                        at_s=time.perf_counter(),
                        step=self._step,
                        rss_bytes=int(self._process.memory_info().rss),
                        device=self.device(),
                    )
                )


def by_step(samples: Sequence[MemorySample]) -> tuple[StepMemory, ...]:
    """Start, end and peak of each step, in their order."""
    steps: dict[str, list[MemorySample]] = {}
    for sample in samples:
        steps.setdefault(sample.step, []).append(sample)
    return tuple(_step(name, of) for name, of in steps.items())


def thinned(samples: Sequence[MemorySample], most: int = 600) -> list[MemorySample]:
    """At most so many samples, evenly chosen, the last among them."""
    every = -(-len(samples) // most) or 1
    return list(samples[::-1][::every][::-1])


def _step(name: str, samples: Sequence[MemorySample]) -> StepMemory:
    rss = [sample.rss_bytes for sample in samples]
    devices = [sample.device for sample in samples if sample.device is not None]
    return StepMemory(
        step=name,
        rss_start=rss[0],
        rss_end=rss[-1],
        rss_peak=max(rss),
        allocated_peak=max((each.allocated_bytes for each in devices), default=None),
        reserved_peak=max((each.reserved_bytes for each in devices), default=None),
    )
