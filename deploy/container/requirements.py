"""Writes what pip installs for one of pyproject.toml's extras: `requirements.txt`, and `constraints.txt` from the lock.

python requirements.py EXTRA [TENSORRT]     TENSORRT replaces the extra's TensorRT, as in tensorrt-cu12==10.16.1.11

Both files are written beside this one, which pyproject.toml and requirements.lock lie beside too. NVIDIA's packages are
not in the lock (TensorRT's come as sources that fetch their libraries); all that both backends share is held to it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

TENSORRT_NAMES = ("tensorrt", "tensorrt-rtx")


def requirements(project: Mapping[str, Any], extra: str, tensorrt: str = "") -> list[str]:
    """The project's dependencies and those of `extra`. Raises `KeyError` for an extra that there is not."""
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [tensorrt if tensorrt and _name(each) in TENSORRT_NAMES else each for each in wanted]


def constraints(lock: str) -> list[str]:
    """The pins of a lock file, without their hashes: with those pip would refuse all that has none."""
    return [line.removesuffix("\\").strip() for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0].lower() if found else ""


def main(arguments: Sequence[str]) -> int:
    here = Path(__file__).parent
    project = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if not 1 <= len(arguments) <= 2 or arguments[0] not in extras:
        print(f"requirements: EXTRA must be one of {', '.join(sorted(extras))}, not {arguments[:1]}", file=sys.stderr)
        return 2
    (here / "requirements.txt").write_text("\n".join(requirements(project, *arguments)) + "\n")
    (here / "constraints.txt").write_text("\n".join(constraints((here / "requirements.lock").read_text())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
