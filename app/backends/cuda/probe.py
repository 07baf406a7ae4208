"""Which parts of the CUDA backend are here, and why each other one is not. Imports no NVIDIA package.

Importing one can take seconds, or end the process; so packages are found and their versions read, and only
`vidette doctor` imports them, in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from app.backends.cuda.libcuda import DriverAnswer, Gpu, LoadLibrary, ask_driver
from app.types import Availability

Engine: TypeAlias = Literal["auto", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"]
INSTALL = "pip install 'vidette[cuda]'"
INSTALL_RTX = "pip install 'vidette[rtx]'"
FATBIN = Path(__file__).with_name("kernels") / "vidette.fatbin"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
# What the kernels are compiled for starts here, and TensorRT from 10 on does too.
LEAST_CAPABILITY = (7, 5)
LEAST_CUDA = (12, 0)
TENSORRT_VERSIONS = ((8, 6), (11, 999))
# PyNvVideoCodec loads both when it is imported, even where nothing is ever encoded.
NVDEC_LIBRARIES = ("libnvcuvid.so.1", "libnvidia-encode.so.1")
# What people call a part, where that is not its name here.
TITLES: Mapping[str, str] = {"nvdec": "NVDEC", "tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# Part: (import name, distributions that may have brought it).
PACKAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "tensorrt": (
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    ),
    "tensorrt_rtx": ("tensorrt_rtx", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")),
    "pycuda": ("pycuda", ("pycuda",)),
    "PyNvVideoCodec": ("PyNvVideoCodec", ("PyNvVideoCodec",)),
    "cuda-bindings": ("cuda.bindings", ("cuda-bindings",)),
    "nvidia-ml-py": ("pynvml", ("nvidia-ml-py",)),
}


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or something broken goes by its name
        return False


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _kernel_module() -> str | None:
    try:
        return KERNEL_MODULE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where the probes look. A test puts a scripted machine here."""

    load: LoadLibrary = ctypes.CDLL
    found: Callable[[str], bool] = _found  # can this name be imported?
    version: Callable[[str], str | None] = _version  # of a distribution; None: not installed
    kernel_module: Callable[[], str | None] = _kernel_module
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    fatbin: Path = FATBIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every part, in the order in which to mend them."""

    driver: DriverAnswer
    parts: tuple[Availability, ...]
    installed: frozenset[str]  # parts that are packages and there, whether they can be used or not

    def part(self, name: str) -> Availability:
        return next(part for part in self.parts if part.name == name)

    @property
    def nvdec(self) -> Availability:
        """Whether NVDEC can decode: its libraries and the package that calls them."""
        for name in ("driver", "nvdec"):
            if not self.part(name).available:
                return Availability(name="nvdec", available=False, reason=self.part(name).reason)
        package = self.part("PyNvVideoCodec")
        if not package.available:
            return Availability(name="nvdec", available=False, reason=f"PyNvVideoCodec {package.reason}")
        return Availability(name="nvdec", available=True, reason=self.part("nvdec").reason)


def probe_parts(*, gpu: int = 0) -> tuple[Availability, ...]:
    """Every part of the CUDA backend on this machine, in the order in which to mend them. As `examine`."""
    return examine(gpu=gpu).parts


def examine(host: Host | None = None, *, gpu: int = 0) -> Report:
    """Look at everything that the CUDA backend needs, for the GPU of this index. Blocking, under a second; any thread.

    Nothing is imported but empty parent packages, no context is made and no GPU memory taken. Never raises.
    """
    host = host or Host()
    driver = ask_driver(host.load, environ=host.environ, kernel_module=host.kernel_module())
    parts = (
        _driver(driver, gpu),
        _nvdec(host, driver),
        _tensorrt(host, driver),
        _tensorrt_rtx(host, driver, gpu),
        _package(host, "pycuda"),
        _package(host, "PyNvVideoCodec"),
        _cuda_bindings(host, driver),
        _package(host, "nvidia-ml-py"),
        _kernels(host),
    )
    installed = frozenset(name for name, (module, _) in PACKAGES.items() if host.found(module))
    return Report(driver=driver, parts=parts, installed=installed)


def cuda_availability(report: Report, *, gpu: int = 0, engine: Engine = "auto") -> Availability:
    """Whether the CUDA backend can run, and in one reason all that is missing for it. Decoding may be in software."""
    driver, runtime = report.part("driver"), runtime_for(report, engine=engine)
    problems = [] if driver.available else [driver.reason]
    rtx = engine == "tensorrt_rtx"
    absent = [name for name in ("pycuda", "cuda-bindings") if name not in report.installed]
    if not report.installed & {"tensorrt", "tensorrt_rtx"}:
        absent.insert(0, TITLES["tensorrt_rtx" if rtx else "tensorrt"])
    elif not runtime.available:
        problems.append(runtime.reason)
    if absent:
        are = "is" if len(absent) == 1 else "are"
        problems.append(f"{', '.join(absent)} {are} not installed; {INSTALL_RTX if rtx else INSTALL}")
    bindings, kernels = report.part("cuda-bindings"), report.part("kernels")
    if "cuda-bindings" not in absent and not bindings.available:
        problems.append(f"cuda-bindings {bindings.reason}")
    if not kernels.available:
        problems.append(kernels.reason)
    if problems:
        return Availability(name="cuda", available=False, reason="; ".join(problems))
    reason = f"{report.driver.gpus[gpu]}, {runtime.reason}"
    if not report.nvdec.available:
        reason += f"; video is decoded in software: {report.nvdec.reason}"
    return Availability(name="cuda", available=True, reason=reason)


def runtime_for(report: Report, *, engine: Engine) -> Availability:
    """The engine that `backend.engine` means here, by its name there: tensorrt before tensorrt_rtx when it is auto."""
    names = (engine,) if engine in ("tensorrt", "tensorrt_rtx") else ("tensorrt", "tensorrt_rtx")
    parts = [report.part(name) for name in names]
    usable = next((part for part in parts if part.available), None)
    # Of two that cannot be used, one that is installed has the more useful reason.
    told = usable or next((part for part in parts if part.name in report.installed), parts[0])
    return Availability(name=told.name, available=usable is not None, reason=f"{TITLES[told.name]} {told.reason}")


def runs_rtx(gpu: Gpu) -> bool:
    """Whether TensorRT-RTX has code for a GPU: Turing, Ampere's and Ada's GeForce and RTX cards, Blackwell's too."""
    return gpu.compute_capability in ((7, 5), (8, 6), (8, 9)) or gpu.compute_capability[0] == 12


# The parts


def _driver(driver: DriverAnswer, gpu: int) -> Availability:
    problem = driver.problem or _unfit(driver, gpu)
    if problem is not None:
        return Availability(name="driver", available=False, reason=problem)
    others = "" if len(driver.gpus) == 1 else f", one of {len(driver.gpus)} GPUs"
    return Availability(name="driver", available=True, reason=f"{_release(driver)}: {driver.gpus[gpu]}{others}")


def _unfit(driver: DriverAnswer, gpu: int) -> str | None:
    if driver.cuda is not None and driver.cuda < LEAST_CUDA:
        return f"{_release(driver)} is too old; CUDA {LEAST_CUDA[0]}.{LEAST_CUDA[1]} or newer is needed"
    if gpu >= len(driver.gpus):
        count, known = len(driver.gpus), ", ".join(f"{each.index}: {each.name}" for each in driver.gpus)
        return f"backend.gpu is {gpu}, but the driver shows {count} {'GPU' if count == 1 else 'GPUs'} ({known})"
    if driver.gpus[gpu].compute_capability < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"{driver.gpus[gpu]} is too old; compute capability {least} or newer is needed"
    return None


def _release(driver: DriverAnswer) -> str:
    cuda = "" if driver.cuda is None else f" for CUDA {driver.cuda[0]}.{driver.cuda[1]}"
    return f"NVIDIA driver{f' {driver.release}' if driver.release else ''}{cuda}"


def _nvdec(host: Host, driver: DriverAnswer) -> Availability:
    missing = [library for library in NVDEC_LIBRARIES if not _loads(host, library)]
    if not missing:
        return Availability(name="nvdec", available=True, reason=f"{' and '.join(NVDEC_LIBRARIES)} are there")
    advice = (
        "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        if driver.gpus
        else "they come with the NVIDIA driver"
    )
    reason = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; {advice}"
    return Availability(name="nvdec", available=False, reason=reason)


def _loads(host: Host, library: str) -> bool:
    try:
        host.load(library)
    except OSError:
        return False
    return True


def _package(host: Host, name: str, *, install: str = INSTALL) -> Availability:
    module, distributions = PACKAGES[name]
    if not host.found(module):
        return Availability(name=name, available=False, reason=f"is not installed; {install}")
    version = next(filter(None, map(host.version, distributions)), None)
    return Availability(name=name, available=True, reason=version or "of an unknown version")


def _tensorrt(host: Host, driver: DriverAnswer) -> Availability:
    part = _package(host, "tensorrt")
    version = _numbers(part.reason)
    if not part.available or version is None:
        return part
    low, high = TENSORRT_VERSIONS
    if not low <= version <= high:
        reason = f"{part.reason} is not supported; 8.6 to 11 are"
        return Availability(name=part.name, available=False, reason=reason)
    for_cuda = [major for major in (12, 13) if host.version(f"tensorrt-cu{major}-bindings")]
    return _fitting(part, driver, min(for_cuda, default=None), "tensorrt-cu12")


def _tensorrt_rtx(host: Host, driver: DriverAnswer, gpu: int) -> Availability:
    part = _package(host, "tensorrt_rtx", install=INSTALL_RTX)
    if not part.available:
        return part
    if gpu < len(driver.gpus) and not runs_rtx(driver.gpus[gpu]):
        reason = (
            f"does not run on {driver.gpus[gpu]}, only on GeForce and RTX GPUs "
            "(compute capability 7.5, 8.6, 8.9 or 12); "
            f"there, use TensorRT ({INSTALL}, backend.engine auto or tensorrt)"
        )
        return Availability(name=part.name, available=False, reason=reason)
    for_cuda = [major for major in (12, 13) if host.version(f"tensorrt-rtx-cu{major}-bindings")]
    return _fitting(part, driver, min(for_cuda, default=None), "tensorrt-rtx-cu12")


def _cuda_bindings(host: Host, driver: DriverAnswer) -> Availability:
    part = _package(host, "cuda-bindings")
    version = _numbers(part.reason)
    if not part.available or version is None:
        return part
    return _fitting(part, driver, version[0], "cuda-bindings<13")


def _fitting(part: Availability, driver: DriverAnswer, cuda: int | None, instead: str) -> Availability:
    """The part, unless it is made for a newer CUDA than this driver runs."""
    if cuda is None or driver.cuda is None or cuda <= driver.cuda[0]:
        return part
    reason = f"{part.reason} is for CUDA {cuda}, but this is {_release(driver)}; pip install '{instead}'"
    return Availability(name=part.name, available=False, reason=reason)


def _kernels(host: Host) -> Availability:
    if host.fatbin.is_file():
        return Availability(name="kernels", available=True, reason=f"{host.fatbin.name} is there")
    reason = f"{host.fatbin.name} is not in this installation; python scripts/build_kernels.py makes it, with nvcc"
    return Availability(name="kernels", available=False, reason=reason)


def _numbers(version: str) -> tuple[int, int] | None:
    """(major, minor) of a version, or None when it does not start with them."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
