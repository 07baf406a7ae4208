"""Where a command that measures works, and how it leaves."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def scratch_folder(command: str) -> Iterator[Path]:
    """A folder that goes with the block, as all that the block opened does, also where SIGTERM ends the command.

    Left alone, SIGTERM (`timeout 60 vidette bench`, a CI job that is cancelled) ends Python at once, and the service
    and the cameras that were started run on. Here it is Ctrl-C, to whoever takes that at the time: an event loop
    cancels its work, else `KeyboardInterrupt` is raised. Main thread only.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix=f"vidette-{command}-") as folder:
            yield Path(folder)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what a script starts with `&`
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
