"""What NVML says while something else is measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from app.backends.cuda.nvml import open_nvml
from app.types import GpuSnapshot

_EVERY_S = 0.2
_READINGS = tuple(field.name for field in fields(GpuSnapshot) if field.type in ("float | None", "int | None"))


class Sampler:
    """Reads one GPU's sensors in a thread of its own, until it is stopped."""

    def __init__(self, gpu: int) -> None:
        self._gpu = gpu
        self._seen: list[GpuSnapshot] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate:sampler")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def means(self) -> dict[str, float]:
        """The mean of every reading that the GPU gave."""
        means = {}
        for name in _READINGS:
            values = [value for snapshot in self._seen if (value := getattr(snapshot, name)) is not None]
            if values:
                means[name] = sum(values) / len(values)
        return means

    def _run(self) -> None:
        with open_nvml(self._gpu) as nvml:
            while not self._stop.wait(_EVERY_S):
                self._seen += nvml.sample()


@contextmanager
def sampled(gpu: int) -> Iterator[Sampler]:
    sampler = Sampler(gpu)
    try:
        yield sampler
    finally:
        sampler.stop()


def gpu_memory_bytes(gpu: int) -> int:
    """Memory in use on a GPU, by whoever. Blocking. Raises `RuntimeError` when nobody tells."""
    with open_nvml(gpu) as nvml:
        used = [snapshot.memory_used_bytes for snapshot in nvml.sample()]
    if not used or used[0] is None:
        raise RuntimeError(f"NVML does not tell the memory of GPU {gpu}")
    return used[0]
