"""Reads the GPU's load, memory, power and temperature through NVML (package `nvidia-ml-py`)."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from app.backends.cuda.probe import examine
from app.types import GpuSnapshot

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    from nvidia_modules import Nvml

T = TypeVar("T")
log = logging.getLogger(__name__)

# Bits of nvmlDeviceGetCurrentClocksEventReasons; idleness (bit 0) slows nothing down that was asked for.
_THROTTLE_REASONS = {
    0x002: "application_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


def _load() -> Nvml:
    module: Any = importlib.import_module("pynvml")
    return module


class GpuSampler:
    """The one user of NVML in this process. Opened by its first reading, closed once; any thread, one at a time."""

    def __init__(self, pci_bus_ids: tuple[str, ...], *, load: Callable[[], Nvml] = _load) -> None:
        """Will read the GPUs at these places of the PCI bus, as CUDA names them (0000:01:00.0)."""
        self._pci_bus_ids = pci_bus_ids
        self._load = load
        self._lock = threading.Lock()
        self._nvml: Nvml | None = None
        self._gpus: list[tuple[int, Any]] = []  # NVML's index and handle
        self._over = not pci_bus_ids

    def sample(self) -> tuple[GpuSnapshot, ...]:
        """One reading of each GPU, some milliseconds. Empty, with one line in the log, when there is no NVML.

        Never raises; after `close` it is always empty.
        """
        with self._lock:
            if self._over or (self._nvml is None and not self._open()):
                return ()
            return tuple(_snapshot(self._nvml, index, handle) for index, handle in self._gpus)

    def __enter__(self) -> GpuSampler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML. Idempotent."""
        with self._lock:
            self._over = True
            self._shut_down()

    def _open(self) -> bool:
        try:
            nvml = self._load()
        except ImportError as exc:
            return self._give_up(f"{exc}; pip install nvidia-ml-py")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            return self._give_up(str(exc))
        self._nvml = nvml
        try:
            handles = [nvml.nvmlDeviceGetHandleByPciBusId(place) for place in self._pci_bus_ids]
            self._gpus = [(nvml.nvmlDeviceGetIndex(handle), handle) for handle in handles]
        except nvml.NVMLError as exc:
            self._shut_down()
            return self._give_up(str(exc))
        return True

    def _give_up(self, reason: str) -> bool:
        log.warning("the GPU's load is not measured: %s", reason)
        self._over = True
        return False

    def _shut_down(self) -> None:
        nvml, self._nvml, self._gpus = self._nvml, None, []
        if nvml is not None:
            _told(nvml, nvml.nvmlShutdown)


def open_nvml(gpu: int | None = None) -> GpuSampler:
    """A sampler for the GPU that CUDA gives this index, or for all that CUDA shows; for none where there is none.

    Blocking: asks the driver.
    """
    gpus = examine().driver.gpus
    return GpuSampler(tuple(each.pci_bus_id for each in gpus if gpu in (None, each.index)))


def _told(nvml: Nvml, *questions: Callable[[], T]) -> T | None:
    """The first answer; None when this GPU, its driver, its container or this version of the package gives none."""
    for ask in questions:
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            return ask()
    return None


def _snapshot(nvml: Nvml, index: int, handle: Any) -> GpuSnapshot:
    rates = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    decoder = _told(nvml, lambda: nvml.nvmlDeviceGetDecoderUtilization(handle))
    memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    clock_mhz = _told(nvml, lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    # Each has a new name, which older drivers do not know, and an old one, which CUDA 14 will not know.
    celsius = _told(
        nvml,
        lambda: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU),
        lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    )
    throttle = _told(
        nvml,
        lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    )
    return GpuSnapshot(
        index=index,
        name=_told(nvml, lambda: str(nvml.nvmlDeviceGetName(handle))),
        uuid=_told(nvml, lambda: str(nvml.nvmlDeviceGetUUID(handle))),
        utilization_ratio=None if rates is None else rates.gpu / 100,
        decoder_utilization_ratio=None if decoder is None else decoder[0] / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        power_watts=None if milliwatts is None else milliwatts / 1000,
        temperature_celsius=None if celsius is None else float(celsius),
        sm_clock_mhz=None if clock_mhz is None else float(clock_mhz),
        throttle_reasons=None
        if throttle is None
        else tuple(name for bit, name in _THROTTLE_REASONS.items() if throttle & bit),
    )
