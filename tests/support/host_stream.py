"""Streams, events and graphs of the host driver, which knows what they may do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from app.backends.cuda.driver import Stream, TimedEvent
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


class HostTimedEvent(HostEvent):
    """The host's clock stands in for the device's."""

    def __init__(self, driver: HostDriver, handle: int) -> None:
        super().__init__(driver, handle)
        self.at_s: float | None = None

    def record(self, *, stream: Stream) -> None:
        super().record(stream=stream)
        self.at_s = time.perf_counter()

    def elapsed_s(self, since: TimedEvent) -> float:
        assert isinstance(since, HostTimedEvent)
        assert since.at_s is not None and self.at_s is not None, "an event was asked before it was recorded"
        return self.at_s - since.at_s


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


Openable = TypeVar("Openable", HostStream, HostEvent, HostTimedEvent, HostGraph)
