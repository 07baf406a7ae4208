"""The seed's name for `vidette profile`: scripts/test_profiling.py --device cpu --comprehensive"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["profile", *sys.argv[1:]]))
