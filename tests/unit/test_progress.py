"""Progress: the newest sentence at once, a quiet log, and the end of work that nobody wants."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from app.errors import Cancelled
from app.progress import Progress
from app.threads import in_daemon_thread
from tests.support.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def progress(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Progress:
    caplog.set_level(logging.INFO, "vidette.test")
    return Progress(logging.getLogger("vidette.test"), clock=clock)


def test_the_newest_sentence_is_shown_until_the_work_is_over(progress: Progress) -> None:
    assert progress.newest is None
    for percent in (10, 11):
        progress(f"building the engine: {percent} %")
        assert progress.newest == f"building the engine: {percent} %"
    progress.finish()
    assert progress.newest is None


def test_the_log_gets_one_line_a_second_and_always_the_last(
    progress: Progress, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for percent in range(100):
        progress(f"{percent} %")
        clock.advance(0.0625)
    progress.finish()
    progress.finish()
    # The first, one a second after it, and what was said last.
    assert caplog.messages == [*(f"{percent} %" for percent in range(0, 100, 16)), "99 %"]


def test_a_sentence_that_is_repeated_is_logged_once(
    progress: Progress, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        progress("measuring")
        clock.advance(2)
    progress.finish()
    assert caplog.messages == ["measuring"]


def test_work_that_is_cancelled_learns_it_by_its_next_sentence(progress: Progress) -> None:
    progress("10 %")
    progress.cancel()
    with pytest.raises(Cancelled, match="the work was given up; it was at: 11 %"):
        progress("11 %")
    assert progress.newest == "10 %"


async def test_a_daemon_thread_s_result_and_error_come_back() -> None:
    assert await in_daemon_thread("test", threading.current_thread().__class__.mro) is not None
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread("test", lambda: 1 // 0)


async def test_a_daemon_thread_that_nobody_waits_for_any_more_is_left_to_itself() -> None:
    go_on = threading.Event()
    names: list[str] = []

    def work() -> None:
        names.append(threading.current_thread().name)
        assert threading.current_thread().daemon
        go_on.wait(10)

    future = in_daemon_thread("opening", work)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    go_on.set()
    await asyncio.to_thread(_join, "opening")
    assert names == ["opening"]


def _join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)
