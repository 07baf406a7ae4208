"""How long calls take while others like them run beside."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence


def time_streams(run: Sequence[Callable[[], object]], *, duration_s: float, clock: Callable[[], float]) -> float:
    """Call each function over and over in a thread of its own; seconds that a call takes. Blocking.

    Every function is called once to warm up and at least once more. Of all calls the lower quartile counts: what else
    the machine does at start-up only ever adds. What a function raises is raised here.
    """
    start = threading.Barrier(len(run))
    took: list[float] = []
    failed: list[Exception] = []

    def loop(call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as exc:  # handed to the caller below, whatever it is
            failed.append(exc)
            start.abort()
            return
        with contextlib.suppress(threading.BrokenBarrierError):
            start.wait()
            began = last = clock()
            while last - began < duration_s or last == began:
                call()
                now = clock()
                took.append(now - last)
                last = now

    threads = [
        threading.Thread(target=loop, args=(call,), name=f"tuning:{number}", daemon=True)
        for number, call in enumerate(run)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sorted(took)[len(took) // 4]
