"""Compile the CUDA kernels into app/backends/cuda/kernels/vidette.fatbin, which ships with the package.

    python scripts/build_kernels.py            compile for all architectures (no GPU needed)
    python scripts/build_kernels.py --check    exit 1 when the shipped file was not made from these sources

The compiler is NVRTC 12.9, for two reasons: what a toolkit compiles, only drivers of its major version and later load
(12.9: driver 525 on, 13.0: 580 on), and 12.9 knows all architectures from Turing to Blackwell.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "app" / "backends" / "cuda" / "kernels"
FATBIN = KERNELS / "vidette.fatbin"
RECORD = KERNELS / "vidette.fatbin.sha256"  # of the sources, then of the file that was made from them
UNIT = "vidette.cu"
# Machine code for each; a card between two of them runs the lower one of its own generation.
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
PTX_ARCHITECTURE = 75  # for generations to come: their drivers compile it, and the oldest PTX suits them all
OPTIONS = ("--std=c++17", "--fmad=true")
NVRTC_VERSION = (12, 9)
INSTALL = "pip install 'nvidia-cuda-nvrtc-cu12==12.9.*' 'nvidia-cuda-nvcc==13.0.*'"


class MissingTool(Exception):
    """Something that the build needs is not installed; the message says how to."""


class CompilationFailed(Exception):
    """The compiler's own words."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compile nothing, compare the sources with the record")
    if parser.parse_args().check:
        if reason := stale():
            print(f"{reason}: run python scripts/build_kernels.py", file=sys.stderr)
            return 1
        return 0
    try:
        image = build()
    except MissingTool as exc:
        print(exc, file=sys.stderr)
        return 2
    except CompilationFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    FATBIN.write_bytes(image)
    RECORD.write_text(record(image), encoding="ascii")
    print(f"{FATBIN.name}: {len(image)} bytes, sm {', '.join(map(str, ARCHITECTURES))} and PTX {PTX_ARCHITECTURE}")
    return 0


def sources() -> dict[str, bytes]:
    """All files that the kernels are made of, by name."""
    return {path.name: path.read_bytes() for path in sorted(KERNELS.glob("*.cu*"))}


def source_hash() -> str:
    """SHA-256 over the sources and all that decides what is made of them."""
    digest = hashlib.sha256(repr((ARCHITECTURES, PTX_ARCHITECTURE, OPTIONS, NVRTC_VERSION)).encode())
    for name, text in sources().items():
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def record(image: bytes) -> str:
    """What the record says when `image` was made from the sources as they are."""
    return f"{source_hash()}  sources\n{hashlib.sha256(image).hexdigest()}  {FATBIN.name}\n"


def stale() -> str | None:
    """Why the shipped file is not what these sources make; None when it is."""
    if not FATBIN.is_file() or not RECORD.is_file():
        return f"{FATBIN.name} or its record is missing"
    if RECORD.read_text(encoding="ascii") != record(FATBIN.read_bytes()):
        return f"{FATBIN.name} was not made from these sources"
    return None


def build() -> bytes:
    """The kernels for every architecture in one file. Raises `MissingTool`, `CompilationFailed`."""
    nvrtc, fatbinary = Nvrtc(), find_fatbinary()
    with tempfile.TemporaryDirectory() as scratch:
        images = []
        for architecture in ARCHITECTURES:
            path = Path(scratch) / f"sm_{architecture}.cubin"
            path.write_bytes(nvrtc.compile(f"sm_{architecture}"))
            images.append(f"--image3=kind=elf,sm={architecture},file={path}")
        path = Path(scratch) / f"compute_{PTX_ARCHITECTURE}.ptx"
        path.write_bytes(nvrtc.compile(f"compute_{PTX_ARCHITECTURE}"))
        images.append(f"--image3=kind=ptx,sm={PTX_ARCHITECTURE},file={path}")
        made = Path(scratch) / FATBIN.name
        # Uncompressed: an older driver would not know a newer tool's compression.
        command = [fatbinary, "--64", "--compress=false", "--compress-mode=none", *images, f"--create={made}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
        if done.returncode != 0:
            raise CompilationFailed(done.stderr)
        return made.read_bytes()


def find_fatbinary() -> str:
    """NVIDIA's packer, from a toolkit or from PyPI. Raises `MissingTool`."""
    wheel = (str(directory / "bin") for directory in _packages("nvidia.cu13"))
    places = [None, "/usr/local/cuda/bin", *wheel]
    found = next((tool for place in places if (tool := shutil.which("fatbinary", path=place))), None)
    if found is None:
        raise MissingTool(f"fatbinary is neither in a CUDA toolkit nor installed: {INSTALL}")
    return found


class Nvrtc:
    """NVIDIA's run-time compiler, as a library. One thread."""

    def __init__(self) -> None:
        """Raises `MissingTool` when the version that is wanted is not there."""
        name = f"libnvrtc.so.{NVRTC_VERSION[0]}"
        wheel = (str(directory / "lib" / name) for directory in _packages("nvidia.cuda_nvrtc"))
        for path in (*wheel, name):
            try:
                self._library = ctypes.CDLL(path)
            except OSError:
                continue
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            if (major.value, minor.value) == NVRTC_VERSION:
                self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
                return
        raise MissingTool(f"NVRTC {NVRTC_VERSION[0]}.{NVRTC_VERSION[1]} is not installed: {INSTALL}")

    def compile(self, architecture: str) -> bytes:
        """The unit for `sm_NN` (machine code) or `compute_NN` (PTX). Raises `CompilationFailed`."""
        files = sources()
        unit = files.pop(UNIT)
        program = ctypes.c_void_p()
        count = len(files)
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program),
                unit,
                UNIT.encode(),
                count,
                (ctypes.c_char_p * count)(*files.values()),
                (ctypes.c_char_p * count)(*(name.encode() for name in files)),
            )
        )
        try:
            options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
            code = self._library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            if code != 0:
                raise CompilationFailed(self._read(program, "ProgramLog").decode(errors="replace"))
            return self._read(program, "CUBIN" if architecture.startswith("sm_") else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(self._library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(self._library[f"nvrtcGet{what}"](program, text))
        return text.raw

    def _check(self, code: int) -> None:
        if code != 0:
            raise CompilationFailed(self._library.nvrtcGetErrorString(code).decode())


def _packages(name: str) -> Iterator[Path]:
    """Where a part of NVIDIA's namespace package is installed."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(place)


if __name__ == "__main__":
    sys.exit(main())
