"""What this machine is: enough to compare two measurements, and nothing that identifies its owner."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from app import __version__
from app.cores import available_cores

PACKAGES = (
    "av",
    "fastapi",
    "httptools",
    "numpy",
    "onnx",
    "opencv-python-headless",
    "openvino",
    "pydantic",
    "uvicorn",
    "uvloop",
)
# Listed where they are installed: to miss them is nothing to tell of on a machine without a GPU.
CUDA_PACKAGES = (
    "cuda-bindings",
    "nvidia-ml-py",
    "pycuda",
    "PyNvVideoCodec",
    "tensorrt",
    "tensorrt-rtx",
)
_CPUINFO = Path("/proc/cpuinfo")
_ROOT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A fingerprint. `cores` are those that this process may use."""

    cpu: str
    cores: int
    memory_bytes: int
    platform: str
    python: str
    vidette: str
    commit: str | None  # with "+" behind it when files were changed since; None outside a checkout
    versions: dict[str, str | None]  # None: not installed


def this_machine() -> Machine:
    """Look around. Blocking, some milliseconds."""
    return Machine(
        cpu=cpu_name(),
        cores=available_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        platform=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        vidette=__version__,
        commit=commit(),
        versions=package_versions(),
    )


def package_versions(version_of: Callable[[str], str | None] | None = None) -> dict[str, str | None]:
    """The versions of what we run on; None for what is missing. Of the CUDA packages, those that are there."""
    version_of = version_of or _version
    cuda = {package: found for package in CUDA_PACKAGES if (found := version_of(package)) is not None}
    return {**{package: version_of(package) for package in PACKAGES}, **cuda}


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's own name, as the kernel knows it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def commit(root: Path = _ROOT) -> str | None:
    """The commit of the checkout that this code runs from; None when it is no checkout or git is missing."""
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str:
    # --no-optional-locks: a measurement must not get in the way of somebody's commit.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        # Only this folder's own repository counts, not one that it happens to lie in.
        environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.resolve().parent)}
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
