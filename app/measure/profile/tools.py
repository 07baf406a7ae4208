"""The same command under one of NVIDIA's profilers, which see the stages as NVTX ranges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.errors import AppError

ROOT = Path(__file__).resolve().parents[3]
TOOLS: Mapping[str, str] = {"nsys": "NVIDIA Nsight Systems", "ncu": "NVIDIA Nsight Compute"}
OUTPUT = "vidette-profile"
_COMMANDS: Mapping[str, Sequence[str]] = {
    "nsys": ("profile", "--trace=cuda,nvtx,osrt", "--force-overwrite=true", f"--output={OUTPUT}"),
    # Ncu runs every kernel many times over: enough launches to see each kernel, not all of a measurement.
    "ncu": ("--target-processes=all", "--nvtx", "--launch-count=200", "--force-overwrite", f"--export={OUTPUT}"),
}


def run_under(
    tool: str,
    arguments: Sequence[str],
    *,
    which: Callable[[str], str | None] = shutil.which,
    call: Callable[..., int] = subprocess.call,
) -> int:
    """`vidette profile ARGUMENTS` under nsys or ncu; its exit code. Raises `AppError` when the tool is not on PATH."""
    program = which(tool)
    if program is None:
        raise AppError(f"--{tool}: {tool} is not on PATH; it comes with {TOOLS[tool]}")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    command = [program, *_COMMANDS[tool], sys.executable, "-m", "app", "profile", *arguments]
    return call(command, env={**os.environ, "PYTHONPATH": path})
