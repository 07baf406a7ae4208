"""A scripted machine for the CUDA backend's probes: its driver, its libraries, its packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.backends.cuda.probe import NVDEC_LIBRARIES, PACKAGES, Host

NAMES = {34: b"CUDA_ERROR_STUB_LIBRARY", 100: b"CUDA_ERROR_NO_DEVICE", 999: b"CUDA_ERROR_UNKNOWN"}
DRIVER_580 = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n"


@dataclass
class FakeGpu:
    name: str = "NVIDIA L4"
    compute_capability: tuple[int, int] = (8, 9)
    memory_bytes: int = 23 * 2**30
    pci_bus_id: str = "0000:31:00.0"


@dataclass
class FakeLibcuda:
    """libcuda as ctypes shows it: functions that fill what they are given a reference to, and return a CUresult."""

    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu()])
    cuda: int = 13000
    init_error: int = 0

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.init_error

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = NAMES.get(code)
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.cuda
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self.gpus[device.value].name.encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self.gpus[device.value].compute_capability[{75: 0, 76: 1}[attribute]]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        memory._obj.value = self.gpus[device.value].memory_bytes
        return 0

    def cuDeviceGetPCIBusId(self, place: Any, length: int, device: Any) -> int:
        place.value = self.gpus[device.value].pci_bus_id.encode()[: length - 1]
        return 0


# What `pip install 'vidette[cuda]'` brings.
CUDA_EXTRA: Mapping[str, str] = {
    "tensorrt": "10.16.1.11",
    "pycuda": "2026.1",
    "PyNvVideoCodec": "2.2.4",
    "cuda-bindings": "12.9.10",
    "nvidia-ml-py": "13.615.71",
}


def make_host(
    fatbin: Path,
    *,
    libcuda: object | None = None,
    libraries: tuple[str, ...] = NVDEC_LIBRARIES,
    packages: Mapping[str, str] = CUDA_EXTRA,
    kernel_module: str | None = DRIVER_580,
    environ: Mapping[str, str] | None = None,
) -> Host:
    """A machine with these parts; `libcuda` None is a machine without a driver. Part or distribution: version."""
    there = {name: libcuda for name in ("libcuda.so.1",) if libcuda is not None} | dict.fromkeys(libraries)
    modules = {PACKAGES[name][0] for name in packages if name in PACKAGES}
    versions = {PACKAGES[name][1][0] if name in PACKAGES else name: version for name, version in packages.items()}

    def load(name: str) -> Any:
        if name not in there:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return there[name]

    return Host(
        load=load,
        found=modules.__contains__,
        version=versions.get,
        kernel_module=lambda: kernel_module,
        environ=environ or {},
        fatbin=fatbin,
    )
