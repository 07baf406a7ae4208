"""Streams, events and graphs of the host driver, which knows what they may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from app.backends.cuda.driver import Stream
from app.errors import EngineError

if TYPE_CHECKING:
    from tests.support.host_driver import HostDriver


class HostStream:
    """An order of work, which is over as soon as it is queued."""

    def __init__(self, driver: HostDriver, handle: int) -> None:
        self._driver = driver
        self.handle = handle
        self.closed = False

    def __repr__(self) -> str:
        return f"HostStream({self.handle}, {'closed' if self.closed else 'open'})"

    def synchronize(self) -> None:
        assert not self.closed, f"{self!r} was waited for"
        self._driver.waits("synchronize")

    def close(self) -> None:
        self._driver.closes(self)


class HostEvent:
    """A place in a stream's order."""

    def __init__(self, driver: HostDriver, handle: int) -> None:
        self._driver = driver
        self.handle = handle
        self.closed = False
        self._captured = False

    def __repr__(self) -> str:
        return f"HostEvent({self.handle}, {'closed' if self.closed else 'open'})"

    def record(self, *, stream: Stream) -> None:
        assert not self.closed, f"{self!r} was recorded"
        self._captured = self._driver.is_capturing(stream)
        self._driver.queue("event", lambda: None, stream=stream, node=False)

    def synchronize(self) -> None:
        assert not self.closed, f"{self!r} was waited for"
        if self._captured:
            raise EngineError("an event that was recorded into a graph cannot be waited for")
        self._driver.waits("synchronize")

    def close(self) -> None:
        self._driver.closes(self)


class HostGraph:
    """What was recorded. Runs again at every launch, over the same addresses."""

    def __init__(self, driver: HostDriver, handle: int, work: Sequence[Callable[[], None]]) -> None:
        self._driver = driver
        self._work = tuple(work)
        self.handle = handle
        self.closed = False

    def __repr__(self) -> str:
        return f"HostGraph({self.nodes} nodes, {'closed' if self.closed else 'open'})"

    @property
    def nodes(self) -> int:
        return len(self._work)

    def launch(self, *, stream: Stream) -> None:
        assert not self.closed, f"{self!r} was launched"
        self._driver.queue("graph", self._run, stream=stream)

    def _run(self) -> None:
        for work in self._work:
            work()

    def close(self) -> None:
        self._driver.closes(self)


Openable = TypeVar("Openable", HostStream, HostEvent, HostGraph)
