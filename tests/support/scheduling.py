"""How the system schedules us, and that no encoder changes it.

SVT-AV1, run as root, makes the thread that opens it a real-time one of the highest priority (SCHED_FIFO, 99). All
threads and processes that are started later inherit that: they hold a core against everybody until they sleep, so that
whoever waits for another one's work in a loop waits for ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def policy() -> int:
    """The calling thread's; 0 is the usual one."""
    return os.sched_getscheduler(0) if sys.platform == "linux" else 0


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Give the calling thread its policy and priority back; also to be used as a decorator."""
    if sys.platform != "linux":
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)
