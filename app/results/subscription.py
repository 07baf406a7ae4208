"""One subscriber's place at the hub: how far it has read, what it missed, and where its messages go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from app.results.topic import Entry, Interest, Topic
from app.results.wire import Format, Message, Result, encode, gap_message

__all__ = ["Interest", "Outlet", "Subscription"]
# What is handed over at once, so that what a client that stands still keeps in memory is bounded: this, or one message.
TAKE_BYTES = 64 * 1024


class Outlet(Protocol):
    """A connection that takes messages. Event loop only; nothing here waits."""

    @property
    def blocked(self) -> bool:
        """Whether something is still unsent; nothing may be written then."""
        ...

    def write(self, messages: Sequence[Message]) -> bool:
        """Send these, of which there is at least one; False when that made it blocked."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End the connection with this code (RFC 6455, 7.4), whether or not the client reads. Idempotent."""
        ...

    def on_writable(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever `blocked` ends."""
        ...


class Subscription:
    """A reader of its topic's log, from the moment it was made. Event loop only.

    The hub publishes into the log and never waits; whoever owns the subscription takes from it. What left the log
    unread is remembered as a gap and told before the next message of that camera.
    """

    def __init__(self, topic: Topic[Subscription], outlet: Outlet | None = None, *, patience_s: float = 30.0) -> None:
        """`outlet` is written to by the hub's `Delivery`, and closed when it is blocked for `patience_s`."""
        self.interest = topic.interest
        self.topic = topic
        self.outlet = outlet
        self.patience_s = patience_s
        self.cursor = topic.end
        self.dropped = 0
        self.counted = 0  # of them, in the hub's figures
        self.closed = False
        self._gaps: dict[str, tuple[int, int]] = {}
        self._backlog: deque[Result | Message] = deque()  # bounded by the history it comes from
        self._taken: deque[Message] = deque()

    def close(self, code: int, reason: str) -> bool:
        """Have no more, and close the connection; False when that was done before."""
        if self.closed:
            return False
        self.closed = True
        if self.outlet is not None:
            self.outlet.close(code, reason)
        return True

    @property
    def behind(self) -> bool:
        """Whether something may be there to take."""
        return self.cursor < self.topic.end or bool(self._gaps or self._backlog)

    def greet(self, message: Message) -> None:
        """Have this message taken before any result from memory."""
        self._backlog.appendleft(message)

    def resume(self, result: Result) -> None:
        """Have a result from memory taken before those to come, whatever the mode."""
        self._backlog.append(result)
        self.topic.news.set()

    def missed(self, camera_id: str, from_seq: int, to_seq: int) -> None:
        """Have it told, before what is resumed after this, that memory has lost these results."""
        self._backlog.append(_gap(self.interest.form, camera_id, from_seq, to_seq))
        self.topic.news.set()

    def lost(self, entry: Entry) -> None:
        """Note that an entry left the log unread; a camera's change is not told again."""
        if entry.seq is None:
            return
        self.dropped += 1
        first, _ = self._gaps.get(entry.camera_id, (entry.seq, 0))
        self._gaps[entry.camera_id] = (first, entry.seq)

    def forget(self, camera_id: str) -> None:
        """Drop what waits of a camera that was removed."""
        self._backlog = deque(
            each for each in self._backlog if not isinstance(each, Result) or each.camera_id != camera_id
        )
        self._gaps.pop(camera_id, None)

    def take(self, most_bytes: int = TAKE_BYTES) -> list[Message]:
        """What to send next, until it is as large as this: at least one message, if there is any."""
        taken: list[Message] = []
        size = 0
        while self._backlog and size < most_bytes:
            message = self._remembered(self._backlog.popleft())
            if message is not None:
                taken.append(message)
                size += len(message.data)
        if self._backlog or size >= most_bytes:
            return taken
        if self._gaps:
            taken += [_gap(self.interest.form, camera_id, *gap) for camera_id, gap in self._gaps.items()]
            self._gaps.clear()
        for entry in self.topic.after(self.cursor):
            self.cursor = entry.index
            if entry.message is None:
                self.lost(entry)
                continue
            if gap := self._gaps.pop(entry.camera_id, None):
                taken.append(_gap(self.interest.form, entry.camera_id, *gap))
            taken.append(entry.message)
            size += len(entry.message.data)
            if size >= most_bytes:
                return taken
        self.cursor = self.topic.end
        return taken

    async def next(self) -> bytes:
        """Wait for the next message, for who takes them one by one and has no outlet."""
        while not self._taken:
            self._taken.extend(self.take())
            if not self._taken:
                self.topic.news.clear()
                await self.topic.news.wait()
        return self._taken.popleft().data

    def _remembered(self, each: Result | Message) -> Message | None:
        if isinstance(each, Message):
            return each
        data = each.encoded(self.interest.form, self.interest.wanted)
        return None if data is None else Message(data, self.interest.form)


@lru_cache(maxsize=256)  # when delivery as a whole is behind, all clients miss the same
def _gap(form: Format, camera_id: str, from_seq: int, to_seq: int) -> Message:
    return Message(encode(gap_message(camera_id, from_seq, to_seq), form), form)
