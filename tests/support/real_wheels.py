"""The real NVIDIA packages that `make cuda-wheels` installs: where they are, and their modules as type stubs.

They import on a machine without their libraries when empty ones of the same names stand in: their Python sides then
tell every class, function and signature. Nothing of them is ever called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("VIDETTE_CUDA_WHEELS") or ROOT / ".cache" / "cuda")
# What the modules want of a driver or of TensorRT's own libraries.
_MISSING = re.compile(r"lib(nvinfer|nvonnxparser|nvparsers|cuda\.|nvcuvid|nvidia-encode)")
# PyNvVideoCodec asks the driver's encoder for its version (major x 16 + minor) before it imports anything.
_ENCODER = "int NvEncodeAPIGetMaxSupportedVersion(unsigned *version) { *version = 13 << 4; return 0; }\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModule:
    """A module in a folder of wheels; `name` is what our code imports, `class_name` its class in `nvidia_modules`."""

    folder: str
    source: str
    name: str
    class_name: str
    package: str  # whose shared objects may want libraries that are not here

    @property
    def path(self) -> Path:
        return FOLDER / self.folder


def _tensorrt(folder: str) -> RealModule:
    return RealModule(
        folder=folder, source="tensorrt_bindings", name="tensorrt", class_name="TensorRt", package="tensorrt_bindings"
    )


def _nvcodec(folder: str) -> RealModule:
    name = "PyNvVideoCodec"
    return RealModule(folder=folder, source=name, name=name, class_name="NvVideoCodec", package=name)


def _bindings(folder: str) -> RealModule:
    name = "cuda.bindings.driver"
    return RealModule(folder=folder, source=name, name=name, class_name="CudaBindings", package="")


RTX = RealModule(folder="rtx", source="tensorrt_rtx", name="tensorrt", class_name="TensorRt", package="")
PYCUDA = RealModule(
    folder="pycuda", source="pycuda.driver", name="pycuda.driver", class_name="Pycuda", package="pycuda"
)
NVML = RealModule(folder="nvml", source="pynvml", name="pynvml", class_name="Nvml", package="")
NVTX = RealModule(folder="nvtx", source="nvtx", name="nvtx", class_name="Nvtx", package="")

# Every version that we promise, with what is likely to stand beside it.
SETS: dict[str, tuple[RealModule, ...]] = {
    "TensorRT 8.6": (
        *(_tensorrt("trt-8.6"), _bindings("cuda-bindings-12"), _nvcodec("nvcodec-2.0")),
        *(PYCUDA, NVML, NVTX),
    ),
    "TensorRT 10.16": (
        *(_tensorrt("trt-10.16"), _bindings("cuda-bindings-12"), _nvcodec("nvcodec")),
        *(PYCUDA, NVML, NVTX),
    ),
    "TensorRT 11": (
        *(_tensorrt("trt-11"), _bindings("cuda-bindings-13"), _nvcodec("nvcodec")),
        *(PYCUDA, NVML, NVTX),
    ),
    "TensorRT-RTX": (
        *(RTX, _bindings("cuda-bindings-13"), _nvcodec("nvcodec")),
        *(PYCUDA, NVML, NVTX),
    ),
}


def wheels(folder: str) -> Path:
    """The folder of installed packages. Skips the test, with the reason, when it is not there or is empty."""
    path = FOLDER / folder
    if not (path / ".installed").is_file():
        pytest.skip(f"{folder} is not installed: make cuda-wheels")
    if len(list(path.iterdir())) < 2:
        pytest.skip(f"{folder} has nothing for Python {sys.version_info.major}.{sys.version_info.minor}")
    return path


def environment(module: RealModule, scratch: Path) -> dict[str, str]:
    """The variables under which a process of ours can import the module. Skips when it is not installed."""
    path = wheels(module.folder)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(path)))}
    if module.package:
        libraries = scratch / f"libraries-{module.folder}"
        if not libraries.is_dir():
            libraries.mkdir(parents=True)
            _stand_in(sorted((path / module.package).glob("*.so")), libraries)
        variables["LD_LIBRARY_PATH"] = str(libraries)
    return variables


def write_stubs(modules: Collection[RealModule], stubs: Path, scratch: Path) -> None:
    """Fill the folder `stubs` with the modules' stubs and with `nvidia_modules`, which has each of them as a class."""
    for module in modules:
        written = scratch / f"stubs-{module.folder}"
        if not written.is_dir():
            _write_stub(module, written, scratch)
        shutil.copytree(written, stubs, dirs_exist_ok=True)
    classes = sorted({module.class_name for module in modules})
    index = stubs / "nvidia_modules" / "__init__.pyi"
    index.write_text("".join(f"from .{name} import {name} as {name}\n" for name in classes))


def _write_stub(module: RealModule, stubs: Path, scratch: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.stub_writer", str(stubs)),
            f"{module.source}={module.name}:{module.class_name}",
        ],
        env=environment(module, scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{module.name} of {module.folder} could not be read:\n{done.stderr}"


def _stand_in(objects: Iterable[Path], folder: Path) -> None:
    """Libraries with the wanted names that define every function which these objects do not find elsewhere."""
    compiler = shutil.which("gcc") or pytest.skip("the real wheels need a C compiler to be read (apt install gcc)")
    names, symbols = {"libnvidia-encode.so.1"}, set[str]()
    for path in objects:
        dynamic = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True).stdout
        names |= {name for name in re.findall(r"NEEDED.*\[(.+?)\]", dynamic) if _MISSING.match(name)}
        undefined = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True)
        # Symbols of the C and C++ libraries carry a version.
        symbols |= set(re.findall(r" U ([\w.]+)$", undefined.stdout, re.MULTILINE))
    source = folder / "absent.c"
    source.write_text(_ENCODER + "".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in sorted(symbols)))
    for name in names:
        command = [compiler, "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)
