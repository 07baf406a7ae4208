"""Commands inside the test's own process."""

from __future__ import annotations

import logging

from app.cli import main


def run_command(*arguments: str) -> int:
    """`vidette ARGUMENTS`, and its exit code. The process's logging is put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return main(arguments)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
