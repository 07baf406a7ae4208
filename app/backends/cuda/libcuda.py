"""Asks the NVIDIA driver what GPUs there are, through libcuda alone. Makes no context and takes no GPU memory."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

LIBCUDA = "libcuda.so.1"
# Opens a shared library by its name. Raises OSError.
LoadLibrary: TypeAlias = Callable[[str], Any]

# CUresult and CUdevice_attribute, as cuda.h numbers them; they never change.
_NO_DEVICE = 100
_CC_MAJOR, _CC_MINOR = 75, 76
_NAME_BYTES, _PCI_BYTES = 256, 32
_ADVICE = {
    34: "that library is the CUDA toolkit's stub; put the driver's own before it in the library path",
    802: "the system is not ready: on a machine with NVSwitch, start nvidia-fabricmanager",
    803: "libcuda and the kernel's driver have different versions; restart the machine, or the container",
    804: "the CUDA compatibility package does not fit this GPU; remove it from the library path",
    999: "/dev/nvidia-uvm may be missing: run nvidia-smi or nvidia-modprobe -u once, as root",
}
_KERNEL_MODULE = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, as CUDA numbers it: CUDA_VISIBLE_DEVICES hides and sorts, and the fastest comes first."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    pci_bus_id: str  # what NVML knows it by

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor}, {self.memory_bytes / 2**30:.0f} GiB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverAnswer:
    """What the driver said; `gpus` is empty unless `problem` is None."""

    gpus: tuple[Gpu, ...] = ()
    cuda: tuple[int, int] | None = None  # the newest CUDA that this driver runs
    release: str | None = None  # the driver's own version, such as 580.65.06
    problem: str | None = None  # a sentence


class _Refused(Exception):
    """A call of libcuda failed; the message is its error's name."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code = code


def ask_driver(load: LoadLibrary, *, environ: Mapping[str, str], kernel_module: str | None) -> DriverAnswer:
    """Count and describe the GPUs. Blocking: the first call of a process takes some hundred milliseconds. Any thread.

    `kernel_module` is the text of /proc/driver/nvidia/version, None where there is none. Never raises.
    """
    match = _KERNEL_MODULE.search(kernel_module or "")
    release = match[1] if match else None
    try:
        libcuda = load(LIBCUDA)
    except OSError:
        return DriverAnswer(release=release, problem=_absent(release))
    try:
        return _answer(libcuda, release)
    except _Refused as exc:
        return DriverAnswer(release=release, problem=_refusal(exc, environ))
    except AttributeError as exc:  # what ctypes says of a function that is not there
        return DriverAnswer(release=release, problem=f"{LIBCUDA} is no NVIDIA driver, or a broken one: {exc}")


def _absent(release: str | None) -> str:
    if release is None:
        return f"no NVIDIA driver is installed: there is no {LIBCUDA}"
    return (
        f"the kernel has NVIDIA driver {release}, but there is no {LIBCUDA}: "
        "install the rest of the driver, or start the container with --gpus all"
    )


def _refusal(exc: _Refused, environ: Mapping[str, str]) -> str:
    if exc.code != _NO_DEVICE:
        advice = _ADVICE.get(exc.code)
        return f"the NVIDIA driver does not start: {exc}" + (f"; {advice}" if advice else "")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return f"the NVIDIA driver finds no GPU ({exc})"
    hidden = "is empty, which hides every GPU" if not visible.strip() else f"is {visible}, which no GPU answers to"
    return f"the NVIDIA driver shows no GPU ({exc}): CUDA_VISIBLE_DEVICES {hidden}"


def _answer(libcuda: Any, release: str | None) -> DriverAnswer:
    _call(libcuda, "cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(libcuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(libcuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise _Refused(_NO_DEVICE, "CUDA_ERROR_NO_DEVICE")
    cuda = (version.value // 1000, version.value % 1000 // 10)
    return DriverAnswer(
        gpus=tuple(_gpu(libcuda, index) for index in range(count.value)), cuda=cuda, release=release, problem=None
    )


def _gpu(libcuda: Any, index: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, pci = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_PCI_BYTES)
    _call(libcuda, "cuDeviceGet", ctypes.byref(device), index)
    _call(libcuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(libcuda, "cuDeviceGetAttribute", ctypes.byref(major), _CC_MAJOR, device)
    _call(libcuda, "cuDeviceGetAttribute", ctypes.byref(minor), _CC_MINOR, device)
    _call(libcuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    _call(libcuda, "cuDeviceGetPCIBusId", pci, _PCI_BYTES, device)
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=(major.value, minor.value),
        memory_bytes=memory.value,
        pci_bus_id=pci.value.decode(errors="replace"),
    )


def _call(libcuda: Any, function: str, *arguments: Any) -> None:
    code = int(getattr(libcuda, function)(*arguments))
    if code != 0:
        name = ctypes.c_char_p()
        libcuda.cuGetErrorName(code, ctypes.byref(name))
        raise _Refused(code, name.value.decode() if name.value else f"error {code}")
