"""Installs NVIDIA's packages where the conformance tests read them: a folder each, as versions exclude each other.

python scripts/cuda_wheels.py [FOLDER ...]    (make cuda-wheels; by default all of tests/support/cuda/wheels.lock)
python scripts/cuda_wheels.py lock            writes wheels.lock from wheels.in (needs uv)

Only what changed in the lock is installed again. Nothing here runs on a GPU or enters .venv. pycuda has no wheel: it is
compiled from its source, with the CUDA headers of the `cuda-headers` folder and an empty libcuda to link against.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "tests" / "support" / "cuda" / "wheels.lock"
TARGET = Path(os.environ.get("VIDETTE_CUDA_WHEELS", ROOT / ".cache" / "cuda"))
STAMP = ".installed"
# These come as source, or are what the sources are built with: in this order, after one another.
BUILD, HEADERS, PYCUDA = "build", "cuda-headers", "pycuda"
FROM_SOURCE = ("rtx", PYCUDA)


class InstallError(Exception):
    """A folder could not be filled. The text is a sentence for the user."""


def sections(text: str) -> dict[str, str]:
    """The requirements of each folder, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip(" []"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return {folder: "\n".join(part) + "\n" for folder, part in found.items()}


def install(folder: str, requirements: str) -> str:
    """Fill one folder unless it is filled already; what was done, in a few words. Raises `InstallError`."""
    target = TARGET / folder
    key = hashlib.sha256(f"{sys.version_info[:2]} {requirements}".encode()).hexdigest()
    stamp = target / STAMP
    if stamp.is_file() and stamp.read_text() == key:
        return "is up to date"
    began = time.monotonic()
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET, prefix=f".{folder}-") as work:
        built = Path(work, "site")
        built.mkdir()
        lock = Path(work, "requirements.txt")
        lock.write_text(requirements)
        if folder == PYCUDA:
            _build_pycuda(lock, built, Path(work))
        else:
            _pip("install", *_pinned(lock), "--no-compile", "--target", str(built), built=folder in FROM_SOURCE)
        (built / STAMP).write_text(key)
        shutil.rmtree(target, ignore_errors=True)
        built.rename(target)
    return f"was installed in {time.monotonic() - began:.0f} s" if _filled(target) else "has nothing for this Python"


def _filled(folder: Path) -> bool:
    return any(path.name != STAMP for path in folder.iterdir())


def _pinned(lock: Path) -> tuple[str, ...]:
    return "--no-deps", "--require-hashes", "-r", str(lock)


def _pip(*arguments: str, built: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """Run pip; with `built`, a source is built with the locked tools of the `build` folder and nothing else."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    variables = {**os.environ, **(environment or {})}
    if built:
        command.append("--no-build-isolation")
        variables["PYTHONPATH"] = str(TARGET / BUILD)
    _run(command, environment=variables)


def _run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise InstallError(f"{Path(command[0]).name} {command[1]} failed:\n{tail}")


def _build_pycuda(lock: Path, target: Path, work: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise InstallError("no C++ compiler was found (on Debian: apt install g++)")
    _pip("download", *_pinned(lock), "--no-binary", ":all:", "-d", str(work), built=True)
    with tarfile.open(next(work.glob("pycuda-*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    source = next(path for path in work.glob("pycuda-*") if path.is_dir())
    cuda = next((TARGET / HEADERS / "nvidia").glob("cu*"))
    _run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            str(work / "libcuda.so"),
            "-x",
            "c++",
            os.devnull,
        ]
    )
    configure = [
        sys.executable,
        "configure.py",
        f"--cuda-root={cuda}",
        "--no-cuda-enable-curand",
        "--boost-compiler=gcc",
    ]
    _run(configure, folder=source)
    flags = f"-Wl,--no-as-needed -L{work}"
    variables = {"LIBRARY_PATH": str(work), "LDFLAGS": flags, "CUDA_ROOT": str(cuda), "CFLAGS": "-O0 -g0"}
    _pip(
        "install", "--no-deps", "--no-compile", "--target", str(target), str(source), built=True, environment=variables
    )


def write_lock() -> None:
    """Resolve each section on its own, with the hashes of every file of that release."""
    parts = ["# Written by `python scripts/cuda_wheels.py lock` from wheels.in."]
    command = (
        "uv pip compile -q --universal --python-version 3.10 --no-deps --generate-hashes --no-header --no-annotate -"
    )
    for folder, requirements in sections(LOCK.with_suffix(".in").read_text()).items():
        done = subprocess.run(command.split(), input=requirements, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"cuda_wheels: uv could not resolve {folder}: {done.stderr}")
        parts.append(f"\n[{folder}]\n{done.stdout.strip()}")
    LOCK.write_text("\n".join(parts) + "\n")


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["lock"]:
        write_lock()
        return 0
    locked = sections(LOCK.read_text())
    unknown = set(arguments) - set(locked)
    if unknown:
        print(f"cuda_wheels: no folder is named {', '.join(sorted(unknown))} in {LOCK.name}", file=sys.stderr)
        return 2
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(
            "cuda_wheels: NVIDIA's packages are installed on Linux x86-64 only; their tests skip here", file=sys.stderr
        )
        return 0
    wanted = [folder for folder in locked if not arguments or folder in arguments]
    source = [folder for folder in (BUILD, HEADERS, *FROM_SOURCE) if folder in wanted]
    wheels = [folder for folder in wanted if folder not in source]
    # Compiling takes the processor, the rest the network: so they go side by side.
    with ThreadPoolExecutor(max_workers=2) as pool:
        return int(not all([*pool.map(lambda part: _install_all(part, locked), (source, wheels))]))


def _install_all(folders: Sequence[str], locked: Mapping[str, str]) -> bool:
    done = [_installed(folder, locked[folder]) for folder in folders]  # all of them, also after one that failed
    return all(done)


def _installed(folder: str, requirements: str) -> bool:
    try:
        print(f"cuda wheels: {folder} {install(folder, requirements)}", flush=True)
    except InstallError as error:
        print(f"cuda wheels: {folder} was not installed: {error}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
