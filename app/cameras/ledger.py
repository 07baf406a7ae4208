"""The drop ledger: every decoded frame ends in exactly one counter."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

DropReason: TypeAlias = Literal[
    "rate_limit", "still", "degraded", "replaced", "stale", "infer_failed", "publish_failed", "shutdown"
]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCounts:
    """A consistent reading of a ledger: `decoded == published + sum(dropped) + in_flight` at every moment."""

    decoded: int
    published: int
    dropped: dict[DropReason, int]
    in_flight: int


class Ledger:
    """Counts one camera's frames over the camera's life, across reconnects. Thread-safe.

    `in_flight` is counted on its own, one up for a decoded frame and one down when it ends, so that a frame ended
    twice or never shows as an imbalance instead of being defined away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoded = 0
        self._published = 0
        self._in_flight = 0
        self._dropped: dict[DropReason, int] = dict.fromkeys(DROP_REASONS, 0)

    def decoded(self) -> int:
        """One more frame came out of the decoder; returns its sequence number, from 1."""
        with self._lock:
            self._decoded += 1
            self._in_flight += 1
            return self._decoded

    def published(self) -> None:
        with self._lock:
            self._published += 1
            self._in_flight -= 1

    def dropped(self, reason: DropReason) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._in_flight -= 1

    def counts(self) -> FrameCounts:
        with self._lock:
            return FrameCounts(
                decoded=self._decoded,
                published=self._published,
                dropped=dict(self._dropped),
                in_flight=self._in_flight,
            )
