"""Blocking work that may never end, without holding up the end of everything else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


def in_daemon_thread(name: str, work: Callable[[], T]) -> asyncio.Future[T]:
    """Start blocking work in a thread of its own, for which neither the loop nor the interpreter waits when it ends.

    Event loop only; the future is this loop's. Cancelling it leaves the work to itself. `asyncio.to_thread` is for
    work that is sure to end: its threads are waited for.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("T", result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as exc:  # for whoever awaits the future
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is whoever asked
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
