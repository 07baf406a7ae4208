"""One subscriber's place at the hub: what waits for it, bounded, and what it missed."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from app.results.wire import ALL, Format, Result, ResultFilter, encode, gap_message

Mode: TypeAlias = Literal["latest", "all"]
QUEUE_SIZE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a subscriber asked for."""

    cameras: frozenset[str] | None = None  # None: all
    wanted: ResultFilter = ALL
    mode: Mode = "latest"
    form: Format = "json"


class Subscription:
    """Holds the newest result of each camera (`latest`) or a bounded queue of all of them (`all`).

    The hub offers and never waits; one task takes with `next`. What is pushed out is remembered as a gap and told
    before the next message of that camera. Event loop only.
    """

    def __init__(self, interest: Interest, *, queue_size: int = QUEUE_SIZE) -> None:
        self.interest = interest
        self.dropped = 0
        self._queue_size = queue_size
        self._events: deque[bytes] = deque(maxlen=queue_size)
        self._waiting: deque[tuple[str, int, bytes]] = deque()
        self._gaps: dict[str, tuple[int, int]] = {}
        self._backlog: deque[tuple[str, bytes]] = deque()  # bounded by the history it comes from
        self._some = asyncio.Event()

    def offer(self, result: Result) -> bool:
        """Take note of a result; False when something older was lost for it."""
        if self.interest.cameras is not None and result.camera_id not in self.interest.cameras:
            return True
        return self._enqueue(result)

    def resume(self, result: Result) -> None:
        """Take note of a result from memory: it is delivered whatever the mode."""
        data = result.encoded(self.interest.form, self.interest.wanted)
        if data is not None:
            self._backlog.append((result.camera_id, data))

    def offer_event(self, message: dict[str, Any]) -> None:
        """Take note of a camera's change."""
        if self.interest.cameras is None or message["camera_id"] in self.interest.cameras:
            self._events.append(encode(message, self.interest.form))
            self._some.set()

    def missed(self, camera_id: str, from_seq: int, to_seq: int) -> None:
        """Remember that results of a camera will not be delivered."""
        first = self._gaps.get(camera_id, (from_seq, to_seq))[0]
        self._gaps[camera_id] = (min(first, from_seq), to_seq)
        self._some.set()

    def forget(self, camera_id: str) -> None:
        """Drop what waits of a camera that was removed: nothing of it may come after its end."""
        self._waiting = deque(each for each in self._waiting if each[0] != camera_id)
        self._backlog = deque(each for each in self._backlog if each[0] != camera_id)
        self._gaps.pop(camera_id, None)

    async def next(self) -> bytes:
        """The next message to send. Camera changes come first, then gaps, then results, oldest first."""
        while not (self._events or self._gaps or self._backlog or self._waiting):
            self._some.clear()
            await self._some.wait()
        if self._events:
            return self._events.popleft()
        if self._gaps:
            camera_id = next(iter(self._gaps))
            first, last = self._gaps.pop(camera_id)
            return encode(gap_message(camera_id, first, last), self.interest.form)
        if self._backlog:
            return self._backlog.popleft()[1]
        return self._waiting.popleft()[2]

    def _enqueue(self, result: Result) -> bool:
        data = result.encoded(self.interest.form, self.interest.wanted)
        if data is None:
            return True
        lost = self._make_room(result.camera_id)
        self._waiting.append((result.camera_id, result.seq, data))
        self._some.set()
        if lost is None:
            return True
        self.dropped += 1
        self.missed(lost[0], lost[1], lost[1])
        return False

    def _make_room(self, camera_id: str) -> tuple[str, int] | None:
        """Push out what the mode gives up for a new result of this camera; returns its camera and seq."""
        if self.interest.mode == "latest":
            for index, (waiting_id, seq, _) in enumerate(self._waiting):
                if waiting_id == camera_id:
                    del self._waiting[index]
                    return waiting_id, seq
        elif len(self._waiting) >= self._queue_size:
            lost_id, seq, _ = self._waiting.popleft()
            return lost_id, seq
        return None
