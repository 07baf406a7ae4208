"""What subscribers with the same interest share: one log of messages, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from app.results.wire import ALL, Format, Message, Result, ResultFilter, encode

Mode: TypeAlias = Literal["latest", "all"]
QUEUE_SIZE = 256
# Old entries leave the log so many at once: whoever has not read them is looked for that much less often.
CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a subscriber asked for."""

    cameras: frozenset[str] | None = None  # None: all
    wanted: ResultFilter = ALL
    mode: Mode = "latest"
    form: Format = "json"


@dataclass(slots=True)
class Entry:
    """A place in the log. `seq` is None for a camera's change, `message` when a newer result took its place."""

    index: int
    camera_id: str
    seq: int | None
    message: Message | None


class Member(Protocol):
    """A reader of the log."""

    cursor: int  # of the newest entry that it has read

    def lost(self, entry: Entry) -> None:
        """An entry that it has not read leaves the log."""
        ...


M = TypeVar("M", bound=Member)


class Topic(Generic[M]):
    """A log with a cursor for each reader, so that publishing costs the same for one reader and for a thousand.

    In the mode `all` it keeps the newest 256 entries (and up to 64 more), in `latest` the newest result of each camera
    and the newest 256 changes. A reader that has not read what leaves the log is told so by `lost`. Event loop only.
    """

    def __init__(self, interest: Interest, *, size: int = QUEUE_SIZE, chunk: int = CHUNK) -> None:
        self.interest = interest
        self.members: dict[M, None] = {}  # in the order in which they came
        self.news = asyncio.Event()
        self.end = 0  # index of the newest entry
        self._size = size
        self._chunk = chunk
        self._log: list[Entry] = []
        self._newest: dict[str, Entry] = {}  # in `latest`
        self._compact_at = size + chunk

    def __len__(self) -> int:
        return len(self._log)

    def publish(self, result: Result) -> bool:
        """Note a result; False when this interest does not want it."""
        interest = self.interest
        if interest.cameras is not None and result.camera_id not in interest.cameras:
            return False
        data = result.encoded(interest.form, interest.wanted)
        if data is None:
            return False
        entry = self._append(result.camera_id, result.seq, data)
        if interest.mode == "latest":
            older = self._newest.get(result.camera_id)
            if older is not None:
                older.message = None
            self._newest[result.camera_id] = entry
        return True

    def tell(self, message: dict[str, Any]) -> bool:
        """Note a camera's change; False when this interest is in other cameras."""
        camera_id = message["camera_id"]
        if self.interest.cameras is not None and camera_id not in self.interest.cameras:
            return False
        self._append(camera_id, None, encode(message, self.interest.form))
        return True

    def after(self, cursor: int) -> Iterator[Entry]:
        """Entries behind a cursor, oldest first. Costs what is unread, not what is kept."""
        return iter(self._log[self._position(cursor) :])

    def forget(self, camera_id: str) -> None:
        """Drop the results of a removed camera: nothing of it may come after its end, and nobody missed them."""
        self._log = [entry for entry in self._log if entry.seq is None or entry.camera_id != camera_id]
        self._newest.pop(camera_id, None)

    def trim(self) -> None:
        """Drop what every reader has read."""
        if self._log:
            del self._log[: self._position(min((member.cursor for member in self.members), default=self.end))]

    def compact(self) -> None:
        """Drop what the mode gives up, and tell who has not read it."""
        latest = self.interest.mode == "latest"
        doomed = self._superseded() if latest else self._log[: max(0, len(self._log) - self._size)]
        if not doomed:
            return
        last = doomed[-1].index
        for member in self.members:
            if member.cursor < last:
                for entry in doomed:
                    if entry.index > member.cursor:
                        member.lost(entry)
        gone = {entry.index for entry in doomed}
        self._log = [entry for entry in self._log if entry.index not in gone]

    def _position(self, cursor: int) -> int:
        """Where in the log what is behind a cursor begins."""
        log, at = self._log, len(self._log)
        while at and log[at - 1].index > cursor:
            at -= 1
        return at

    def _superseded(self) -> list[Entry]:
        changes = [entry for entry in self._log if entry.seq is None]
        surplus = {entry.index for entry in changes[: max(0, len(changes) - self._size)]}
        return [entry for entry in self._log if entry.message is None or entry.index in surplus]

    def _append(self, camera_id: str, seq: int | None, data: bytes) -> Entry:
        self.end += 1
        entry = Entry(self.end, camera_id, seq, Message(data, self.interest.form))
        self._log.append(entry)
        if len(self._log) >= self._compact_at:
            self.compact()
            # As many cameras' newest results may stay as there are cameras: do not look again at each of the next.
            self._compact_at = max(self._size, len(self._log)) + self._chunk
        self.news.set()
        return entry
