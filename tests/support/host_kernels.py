"""The CUDA kernels compiled for the host, behind the protocols of `app.backends.cuda.driver`."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.backends.cuda.driver import Grid, Stream
from app.errors import EngineError

if TYPE_CHECKING:
    from tests.support.host_driver import HostDriver

SUPPORT = Path(__file__).parent
CHECKOUT = SUPPORT.parents[1]
KERNELS = CHECKOUT / "app" / "backends" / "cuda" / "kernels"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
# No fusing of products and sums, so that the host rounds like numpy.
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", *WARNINGS)
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
SANITIZED = "HOST_KERNELS_SANITIZED"  # set in the environment of a process that runs under the sanitizers
FIBERS = 16  # threads of a block that has barriers; kernels stride by blockDim, so they may be fewer than on a GPU
_OUTCOMES = {
    1: "some threads of a block are past a barrier that others wait at, or at another one",
    2: "it has barriers, but the table in host_kernels.cpp says that it has none",
}
_ARGUMENTS: dict[str, Callable[[Any], Any]] = {"P": ctypes.c_uint64, "i": ctypes.c_int32, "f": ctypes.c_float}


class _Launch(ctypes.Structure):
    """`host::Launch`."""

    _fields_ = (("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("backwards", ctypes.c_int))


class HostKernel:
    """A kernel on the host. Runs when it is launched, or is recorded when its stream is being captured."""

    def __init__(self, module: HostModule, name: str, format: str, driver: HostDriver) -> None:
        self._module = module
        self._name = name
        self._format = format
        self._driver = driver

    def __repr__(self) -> str:
        return f"HostKernel({self._name})"

    def launch(self, grid: Grid, block: Grid, args: Sequence[int | float], *, stream: Stream) -> None:
        assert len(args) == len(self._format), f"{self._name} takes {len(self._format)} arguments, not {len(args)}"
        assert min(*grid, *block) >= 1, f"{self._name} was launched as {grid} blocks of {block} threads"
        assert block[0] * block[1] * block[2] <= 1024, f"{self._name} was launched with {block} threads a block"
        addresses = [int(arg) for arg, letter in zip(args, self._format, strict=True) if letter == "P" and arg]
        self._driver.launched(self._name, addresses, lambda: self._run(grid, block, args), stream=stream)

    def _run(self, grid: Grid, block: Grid, args: Sequence[int | float]) -> None:
        values = [_ARGUMENTS[letter](arg) for letter, arg in zip(self._format, args, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        self._module.run(self._name, grid, block, pointers)


class HostModule:
    """The compiled kernels, bound to a driver by `HostDriver.load_module`."""

    def __init__(self, library: Path, *, fibers: int = FIBERS, backwards: bool = False) -> None:
        """`fibers` and `backwards` change in which order a block's threads run, never what they answer."""
        self._library = ctypes.CDLL(str(library))
        self._library.host_format.restype = ctypes.c_char_p
        self._fibers = fibers
        self._backwards = backwards
        self._driver: HostDriver | None = None

    def bound_to(self, driver: HostDriver) -> HostModule:
        """The same kernels for a driver's streams."""
        module = HostModule.__new__(HostModule)
        module.__dict__.update(self.__dict__)
        module._driver = driver
        return module

    def kernel(self, name: str, format: str) -> HostKernel:
        assert self._driver is not None, "host_module() has no driver yet; use HostDriver.load_module()"
        letters = self._library.host_format(name.encode())
        if letters is None:
            raise EngineError(f"the module has no kernel {name}")
        assert letters.decode() == format, f"kernel {name} takes {letters.decode()}, it was asked for with {format}"
        return HostKernel(self, name, format, self._driver)

    def run(self, name: str, grid: Grid, block: Grid, pointers: Any) -> None:
        """Launch a kernel in the calling thread; lets go of the GIL."""
        if self._library.host_has_barriers(name.encode()):
            block = (min(block[0], self._fibers), 1, 1)
        launch = _Launch((ctypes.c_uint32 * 3)(*grid), (ctypes.c_uint32 * 3)(*block), int(self._backwards))
        outcome = self._library.host_launch(name.encode(), ctypes.byref(launch), pointers)
        assert outcome == 0, f"kernel {name}: {_OUTCOMES.get(outcome, outcome)}"


def host_module(*, fibers: int = FIBERS, backwards: bool = False) -> HostModule:
    """The shipped kernels, compiled once for these sources. Skips the test, with a reason, where there is no g++."""
    flags = SANITIZE if os.environ.get(SANITIZED) else ()
    return HostModule(host_library(*flags), fibers=fibers, backwards=backwards)


@lru_cache(maxsize=8)
def host_library(*extra_flags: str) -> Path:
    """The kernels as a shared library. Compiled in 2 s, then kept by a hash of sources and flags."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed, so the kernels cannot be compiled for the host")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + " ".join((*FLAGS, *extra_flags)).encode())
    for source in sorted([*KERNELS.glob("*.cu*"), SUPPORT / "host_cuda.h", SUPPORT / "host_kernels.cpp"]):
        digest.update(source.name.encode() + source.read_bytes())
    library = _cache() / f"kernels-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        compile_host_kernels(compiler, library, extra_flags)
    return library


def compile_host_kernels(compiler: str, library: Path, extra_flags: Sequence[str] = ()) -> None:
    """Compile the kernels into a shared library, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        done = subprocess.run(
            [compiler, *FLAGS, *extra_flags, f"-I{KERNELS}", f"-I{SUPPORT}", "-o", made, SUPPORT / "host_kernels.cpp"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"the kernels do not compile for the host:\n{done.stderr}"
        os.replace(made, library)


def _cache() -> Path:
    """A directory that outlives the test run if that can be."""
    for directory in (CHECKOUT / ".cache" / "kernels", Path(tempfile.gettempdir()) / f"vidette-kernels-{os.getuid()}"):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return directory
    return Path(tempfile.mkdtemp(prefix="vidette-kernels-"))
