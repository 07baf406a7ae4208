"""How far a long command is, on stderr: a bar on a terminal, one sentence a step anywhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows one step at a time while its context is open. Any thread, one at a time."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = Console(file=self._out)
        self._rich = RichProgress(*columns, console=console, transient=True) if self._out.isatty() else None

    def __enter__(self) -> Progress:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def step(self, text: str, total: float | None = None) -> None:
        """Begin a step. `total` is in whatever unit `done` will count; None when it is not known."""
        if self._rich is None:
            print(f"{text} ...", file=self._out, flush=True)
            return
        for task in self._rich.task_ids:
            self._rich.remove_task(task)
        self._rich.add_task(text, total=total)

    def done(self, amount: float, total: float | None = None) -> None:
        """So much of the step is done; `total` says what has become known since it began."""
        if self._rich is not None:
            for task in self._rich.task_ids:
                self._rich.update(task, completed=amount, total=total)  # None leaves the total as it is
