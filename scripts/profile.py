"""`vidette profile` from a checkout: scripts/profile.py --model yolox_nano.onnx --trace trace.json"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)


def _stand_aside() -> None:
    """A script beside this one asked for Python's own `profile`, as `cProfile` does: from now on it finds that one."""
    sys.path[:] = [path for path in sys.path if str(Path(path or ".").resolve()) != _HERE]
    del sys.modules["profile"]
    importlib.import_module("profile")


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if str(Path(path or ".").resolve()) != _HERE]
    from app.cli import main

    sys.exit(main(["profile", *sys.argv[1:]]))
elif __name__ == "profile":
    _stand_aside()
