"""`python -m app` is `vidette`; without a command it serves."""

from __future__ import annotations

import sys

from app.title import name_process

if __name__ == "__main__":
    name_process("vidette", sys.argv[1:] or ["serve"])

    from app.cli import main  # late: the arguments are public until here

    sys.exit(main(sys.argv[1:] or ["serve"]))
