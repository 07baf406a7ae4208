"""The demo's table: one line a camera, live on a terminal, a plain block now and then anywhere else."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.commands.columns import in_columns

COLUMNS = ("camera", "state", "fps", "inferred", "latency p50", "boxes", "dropped")
_LEFT = frozenset({"camera", "state", "dropped"})
_COLOURS = {"running": "green", "retrying": "red", "connecting": "yellow", "disabled": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the table tells of a camera, as text; `state` is its bare state."""

    state: str
    cells: tuple[str, ...]  # one for each of COLUMNS


def row(camera: Mapping[str, Any], results: Sequence[Mapping[str, Any]], boxes: int | None) -> Row:
    """A camera's line, from its `GET /cameras` entry, its results since the last look, and its newest frame's boxes."""
    status = camera["status"]
    latencies_ms = [result["timing_ms"]["total"] for result in results]
    dropped = [f"{reason} {count}" for reason, count in status["frames"]["dropped"].items() if count]
    cells = (
        str(camera["name"]),
        _state(status),
        f"{status['measured_fps']:.1f}",
        f"{status['inferred_fps']:.1f}",
        f"{statistics.median(latencies_ms):.0f} ms" if latencies_ms else "-",
        "-" if boxes is None else str(boxes),
        ", ".join(dropped) or "-",
    )
    return Row(state=status["state"], cells=cells)


def _state(status: Mapping[str, Any]) -> str:
    if status["state"] == "running" or status["error"] is None:
        return str(status["state"])
    wait = "" if status["retry_in_s"] is None else f" in {status['retry_in_s']:.0f} s"
    return f"{status['state']}{wait}: {status['error']['code']}"


def plain(rows: Sequence[Row]) -> str:
    """The table in fixed columns."""
    right = [i for i, name in enumerate(COLUMNS) if name not in _LEFT]
    return in_columns([COLUMNS, *(each.cells for each in rows)], right=right)


class Wall:
    """Shows rows while its context is open; what is printed meanwhile appears above them. One thread at a time."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = Live(console=Console(file=self._out), auto_refresh=False) if self._out.isatty() else None

    @property
    def interval_s(self) -> float:
        """How often `show` is worth being called."""
        return 0.5 if self._live is not None else 2.0

    def __enter__(self) -> Wall:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        if self._live is not None:
            self._live.update(_table(rows), refresh=True)
        else:
            print(plain(rows), end="\n\n", file=self._out, flush=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for each in rows:
        styles = [_COLOURS.get(each.state, "") if name == "state" else "" for name in COLUMNS]
        table.add_row(*(Text(cell, style) for cell, style in zip(each.cells, styles, strict=True)))
    return table
