"""Whether what is installed can be imported, tried where it can do no harm."""

from __future__ import annotations

import subprocess
import sys

IMPORT_S = 60.0


def import_problem(module: str, *, timeout_s: float = IMPORT_S) -> str | None:
    """Import a module in a process of its own; None when that went well, else what went wrong. Blocking, seconds."""
    try:
        ran = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        hung = isinstance(exc, subprocess.TimeoutExpired)
        return f"importing {module} took more than {timeout_s:g} s" if hung else f"python cannot be started: {exc}"
    if ran.returncode == 0:
        return None
    if ran.returncode < 0:
        return f"importing {module} ended the process with signal {-ran.returncode}"
    last = next((line for line in reversed(ran.stderr.splitlines()) if line.strip()), f"exit code {ran.returncode}")
    return f"importing {module} failed: {last.strip()}"
