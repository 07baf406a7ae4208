"""Wait for a condition, never for luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], timeout_s: float = 20.0, *, what: str = "", every_s: float = 0.005
) -> T:
    """Ask `condition`, sync or async, until its answer is true, and give that answer.

    Raises AssertionError, with `what` or the condition's source and its last answer, after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        given = condition()
        answer: T = await given if inspect.isawaitable(given) else given
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, answer, timeout_s, what))
        await asyncio.sleep(every_s)


def wait_in_thread(condition: Callable[[], T], timeout_s: float = 20.0, *, what: str = "", every_s: float = 0.002) -> T:
    """`wait_until` for tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, answer, timeout_s, what))
        time.sleep(every_s)


def _complaint(condition: Callable[[], object], answer: object, timeout_s: float, what: str) -> str:
    if not what:
        try:
            what = " ".join(inspect.getsource(condition).split())
        except (OSError, TypeError):
            what = repr(condition)
    return f"not within {timeout_s:g} s: {what} (last answer: {answer!r})"
