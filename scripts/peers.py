"""`vidette bench --peers` from a checkout: scripts/peers.py --cameras 8 --repeat 3 --out peers.json"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--peers", *sys.argv[1:]]))
