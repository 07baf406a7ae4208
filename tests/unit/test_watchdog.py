"""The event loop's watchdog: it sees a loop that stands still, says where, counts, and gives up at last."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from app.logs import configure_logging, forget_secret, register_secret
from app.watchdog import LoopWatchdog
from tests.support.wait import wait_in_thread, wait_until

# A busy machine alone must not be taken for a stall.
QUICK: dict[str, Any] = {"every_s": 0.01, "patience_s": 0.2}


@pytest.fixture
def log(own_logging: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr("sys.stderr", text)
    configure_logging("info")
    yield text
    logging.getLogger().handlers.clear()


def stand_still_until(event: threading.Event) -> None:
    event.wait(10)


def stall(watchdog: LoopWatchdog, stalls: int = 1) -> None:
    """Stand still on a uvloop until the watchdog has seen it so often."""

    async def main() -> None:
        watchdog.start()
        for count in range(1, stalls + 1):
            seen = threading.Event()

            def look(count: int = count, seen: threading.Event = seen) -> None:
                wait_in_thread(lambda: watchdog.stats.stalls == count)
                seen.set()

            looking = threading.Thread(target=look)
            looking.start()
            stand_still_until(seen)
            looking.join()
            await wait_until(lambda: watchdog.stats.lag_s < 0.1, what="the loop has answered again")
        watchdog.stop()

    uvloop.run(main())
    wait_in_thread(lambda: not [each for each in threading.enumerate() if each.name.startswith("watchdog")])


def test_a_stall_is_counted_and_logged_with_the_loop_s_stack_first_and_its_length(log: io.StringIO) -> None:
    watchdog = LoopWatchdog(**QUICK)
    stall(watchdog)
    lines = log.getvalue()
    assert watchdog.stats.stalls == 1
    assert watchdog.stats.longest_stall_s >= 0.2
    assert lines.count("the event loop has not answered for") == 1
    assert lines.count("the event loop answers again after") == 1
    stacks = lines.split("the event loop's thread MainThread:")[1]
    assert "in stand_still_until" in stacks.split("\nthread ")[0]


def test_stacks_of_stalls_in_a_row_are_shown_once(log: io.StringIO) -> None:
    stall(LoopWatchdog(**QUICK), stalls=2)
    assert log.getvalue().count("the event loop has not answered for") == 2
    assert log.getvalue().count("the event loop's thread") == 1


def test_of_very_many_threads_some_are_shown_and_the_others_counted(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.watchdog.MOST_THREADS", 2)
    let_go = threading.Event()
    threads = [threading.Thread(target=let_go.wait, name=f"camera:{number}", args=(10,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        stall(LoopWatchdog(**QUICK))
    finally:
        let_go.set()
        for thread in threads:
            thread.join()
    assert log.getvalue().count("\nthread ") == 1
    assert re.search(r"^and \d+ more threads$", log.getvalue(), re.MULTILINE)


def test_no_secret_is_in_the_stacks(log: io.StringIO) -> None:
    register_secret("stand_still_until")  # as if a password stood in a source line
    try:
        stall(LoopWatchdog(**QUICK))
    finally:
        forget_secret("stand_still_until")
    assert "the event loop's thread" in log.getvalue()
    assert "stand_still_until" not in log.getvalue()


def test_a_loop_that_never_answers_ends_the_process_once(log: io.StringIO) -> None:
    ended = threading.Event()
    watchdog = LoopWatchdog(give_up_s=0.25, on_hung=ended.set, **QUICK)

    async def main() -> None:
        watchdog.start()
        assert ended.wait(10)

    asyncio.run(main())
    watchdog.stop()
    assert "the event loop has not answered for 0.25 s: the process ends" in log.getvalue()


def test_a_log_that_blocks_does_not_keep_the_watchdog_from_giving_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.watchdog.LOG_S", 0.01)
    let_go, ended = threading.Event(), threading.Event()

    class Blocked(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            let_go.wait(10)

    blocked = Blocked()
    logging.getLogger("vidette.watchdog").addHandler(blocked)
    watchdog = LoopWatchdog(give_up_s=0.25, on_hung=ended.set, **QUICK)

    async def main() -> None:
        watchdog.start()
        assert ended.wait(10)

    try:
        asyncio.run(main())
        watchdog.stop()
    finally:
        let_go.set()
        logging.getLogger("vidette.watchdog").removeHandler(blocked)


async def test_a_loop_that_answers_has_no_stall() -> None:
    watchdog = LoopWatchdog(every_s=0.001, patience_s=5.0)
    watchdog.start()
    await asyncio.sleep(0.1)  # the subject: a hundred questions, all answered
    watchdog.stop()
    assert (watchdog.stats.stalls, watchdog.stats.longest_stall_s) == (0, 0.0)
    assert watchdog.stats.lag_s < 5
