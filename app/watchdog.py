"""Notices an event loop that stands still, says what it stands in, and in the end has the process replaced."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

logger = logging.getLogger("vidette.watchdog")
EVERY_S = 0.5
PATIENCE_S = 1.0
STACKS_EVERY_S = 30.0
# Of which the stacks are shown: with a thousand cameras the rest says the same a thousand times.
MOST_THREADS = 64
LOG_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStats:
    """A reading of the event loop's health, since the start."""

    lag_s: float  # until the loop did what it was last asked to; grows while it stands still
    stalls: int
    longest_stall_s: float


class LoopWatchdog:
    """A daemon thread that asks the event loop for a sign of life every `every_s` seconds.

    No answer within `patience_s` is a stall: it is counted, and logged with the stacks of all threads, the loop's
    first. After `give_up_s` of it (0: never) `on_hung` is called, once, in the watchdog's thread. `start` belongs to
    the loop's thread, `stop` and `stats` to any.
    """

    def __init__(
        self,
        *,
        give_up_s: float = 0.0,
        on_hung: Callable[[], None] = lambda: None,
        every_s: float = EVERY_S,
        patience_s: float = PATIENCE_S,
        stacks_every_s: float = STACKS_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._give_up_s = give_up_s
        self._on_hung = on_hung
        self._every_s = every_s
        self._patience_s = patience_s
        self._stacks_every_s = stacks_every_s
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._stopping = False
        self._wake = threading.Event()  # an answer came, or the end
        self._asked_at: float | None = None  # None: the loop has answered
        self._lag_s = 0.0
        self._stalls = 0
        self._longest_s = 0.0
        self._stacks_at: float | None = None

    @property
    def stats(self) -> LoopStats:
        asked_at = self._asked_at
        waiting_s = 0.0 if asked_at is None else self._clock() - asked_at
        return LoopStats(
            lag_s=max(self._lag_s, waiting_s), stalls=self._stalls, longest_stall_s=max(self._longest_s, 0.0)
        )

    def start(self) -> None:
        """Watch the running loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the thread, soon. Idempotent."""
        self._stopping = True
        self._wake.set()

    def _watch(self) -> None:
        while not self._stopping:
            asked_at = self._asked_at = self._clock()
            self._wake.clear()
            if not self._ask(asked_at):
                return  # the loop is closed: whoever owns us forgot to say so
            if not self._answered_within(self._patience_s) and not self._stopping:
                self._stalled(asked_at)
            self._wake.clear()
            if not self._stopping:
                self._wake.wait(self._every_s)

    def _ask(self, asked_at: float) -> bool:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._answer, asked_at)
        except RuntimeError:
            return False
        return True

    def _answer(self, asked_at: float) -> None:
        # In the loop's thread.
        self._lag_s, self._asked_at = self._clock() - asked_at, None
        self._wake.set()

    def _answered_within(self, seconds: float) -> bool:
        self._wake.wait(seconds)
        return self._asked_at is None

    def _stalled(self, asked_at: float) -> None:
        self._stalls += 1
        self._say(f"the event loop has not answered for {self._clock() - asked_at:.1f} s", self._stacks())
        # In steps, of which a longer one counts as one: a process that was stopped and goes on is not hung.
        hung_s, given_up = self._patience_s, not self._give_up_s
        while not self._answered_within(self._every_s) and not self._stopping:
            hung_s += self._every_s
            if not given_up and hung_s >= self._give_up_s:
                given_up = True
                self._say(f"the event loop has not answered for {self._give_up_s:g} s: the process ends", None)
                self._on_hung()
        if self._asked_at is None:
            self._longest_s = max(self._longest_s, self._lag_s)
            self._say(f"the event loop answers again after {self._lag_s:.1f} s", None)

    def _stacks(self) -> str | None:
        """None when stacks were shown lately: whoever stalls a loop once does it again."""
        now = self._clock()
        if self._stacks_at is not None and now - self._stacks_at < self._stacks_every_s:
            return None
        self._stacks_at = now
        return "\n".join(_stacks(first=self._loop_thread, leave_out=threading.get_ident()))

    def _say(self, message: str, stacks: str | None) -> None:
        # In a thread of its own: what the loop stands in may be the log, when nobody reads our stderr.
        record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None, sinfo=stacks)
        saying = threading.Thread(target=logger.handle, args=(record,), name="watchdog:log", daemon=True)
        saying.start()
        saying.join(LOG_S)


def _stacks(*, first: int, leave_out: int) -> Iterator[str]:
    """Each thread's stack as text, without values: only files, lines and functions, and the source line itself."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames.pop(leave_out, None)
    ordered = sorted(frames, key=lambda ident: (ident != first, names.get(ident, "")))
    for ident in ordered[:MOST_THREADS]:
        what = "the event loop's thread" if ident == first else "thread"
        yield f"{what} {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frames[ident])).rstrip()
    if len(ordered) > MOST_THREADS:
        yield f"and {len(ordered) - MOST_THREADS} more threads"
