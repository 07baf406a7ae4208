"""`vidette compare` from a checkout: scripts/compare_results.py BASE.json NEW.json"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
