"""Puts a camera's results back in order when several contexts work on its frames at once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """One camera's results under way. A result is released when every earlier frame has ended, well or not.

    Bounded by the frames in flight, which contexts bound. Not thread-safe.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, T | None] = OrderedDict()
        self._ended: set[int] = set()

    def started(self, seq: int) -> None:
        self._open[seq] = None

    def ended(self, seq: int, result: T | None) -> list[T]:
        """Frame `seq` ended with `result`, or with none; returns what may go out now, in order."""
        self._open[seq] = result
        self._ended.add(seq)
        released: list[T] = []
        while self._open and (first := next(iter(self._open))) in self._ended:
            self._ended.discard(first)
            ready = self._open.pop(first)
            if ready is not None:
                released.append(ready)
        return released

    def __len__(self) -> int:
        return len(self._open)
