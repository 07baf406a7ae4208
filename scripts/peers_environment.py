"""Install a heavier peer of `vidette bench --peers` into a virtual environment of its own, beside the project.

    python scripts/peers_environment.py ultralytics
    python scripts/peers_environment.py roboflow --folder .cache/peers

Packages come from wherever pip is configured to take them: gigabytes, since both bring PyTorch and its CUDA libraries
(an index with CPU builds of PyTorch, set by PIP_EXTRA_INDEX_URL, saves most of that). What is after `--` goes to pip.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from app.measure.peers.contestants import ENVIRONMENTS

PACKAGES = {"ultralytics": ("ultralytics", "onnxruntime"), "roboflow": ("inference", "onnxruntime")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(PACKAGES))
    parser.add_argument("--folder", type=Path, default=ENVIRONMENTS, help=f"where to (default {ENVIRONMENTS})")
    parser.add_argument("pip", nargs="*", help="more arguments of pip, after --")
    arguments = parser.parse_args()
    target: Path = arguments.folder / arguments.name
    # Made under another name, so that an installation that was cut short is not taken for a whole one.
    part = target.with_name(f"{target.name}.part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    venv.create(part, with_pip=True)
    command = [str(part / "bin" / "python"), "-m", "pip", "install", *PACKAGES[arguments.name], *arguments.pip]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        print(f"{arguments.name} could not be installed; pip said why", file=sys.stderr)
        return 1
    part.rename(target)
    print(f"{arguments.name} is in {target}: vidette bench --peers runs it from there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
