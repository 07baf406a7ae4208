"""`vidette bench` from a checkout: scripts/bench.py --cameras 8 --seconds 30 --out bench.json"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
