"""The timer that reads the GPUs: readings come and go, and one that hangs is not shown for ever."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from app.gpus import watch_gpus
from app.types import GpuSnapshot
from tests.support.fakes import make_gpu
from tests.support.wait import wait_until


class Driver:
    """Each reading waits until the test gives its result."""

    def __init__(self) -> None:
        self.results: queue.Queue[tuple[GpuSnapshot, ...] | Exception] = queue.Queue()
        self.readings = 0

    def read(self) -> tuple[GpuSnapshot, ...]:
        self.readings += 1
        result = self.results.get(timeout=30)
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.results.put(())  # whoever still reads may go
    for thread in threading.enumerate():
        if thread.name == "gpus":
            thread.join(10)


@contextlib.asynccontextmanager
async def watched(driver: Driver, *, stale_s: float) -> AsyncIterator[list[tuple[GpuSnapshot, ...]]]:
    shown: list[tuple[GpuSnapshot, ...]] = []
    task = asyncio.create_task(watch_gpus(driver.read, shown.append, 0.001, stale_s))
    try:
        yield shown
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we said; asyncio's debug mode tells of a busy machine too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("vidette.")]


async def test_every_reading_is_shown_and_the_end_shows_none(driver: Driver) -> None:
    first, second = (make_gpu(utilization_ratio=0.1),), (make_gpu(utilization_ratio=0.2),)
    async with watched(driver, stale_s=30) as shown:
        driver.results.put(first)
        driver.results.put(second)
        await wait_until(lambda: len(shown) == 2)
    assert shown == [first, second, ()]


async def test_a_reading_that_hangs_is_shown_no_more_until_it_comes(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(driver, stale_s=0.05) as shown:
        await wait_until(lambda: shown == [()])
        assert told(caplog) == ["the GPU has not told its load for 0.05 s; it is shown no more"]
        assert driver.readings == 1  # no second thread waits behind the first
        driver.results.put((make_gpu(),))
        await wait_until(lambda: (make_gpu(),) in shown)


async def test_a_reading_that_fails_is_told_and_tried_again(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    driver.results.put(RuntimeError("no such sensor"))
    driver.results.put((make_gpu(),))
    shown: list[tuple[GpuSnapshot, ...]] = []
    task = asyncio.create_task(watch_gpus(driver.read, shown.append, 0.001, 30, 0.001))
    await wait_until(lambda: len(shown) == 2)
    assert shown == [(), (make_gpu(),)]
    assert told(caplog) == ["the GPU's load cannot be read; it is shown no more until it can"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
