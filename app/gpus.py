"""Reads the GPUs by a timer, so that no request and no scrape has to, and a driver that hangs harms nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio

from app.threads import in_daemon_thread
from app.types import GpuSnapshot

logger = logging.getLogger("vidette.gpus")
EVERY_S = 2.0
STALE_S = 10.0
AGAIN_S = 60.0


async def watch_gpus(
    read: Callable[[], tuple[GpuSnapshot, ...]],
    show: Callable[[tuple[GpuSnapshot, ...]], None],
    every_s: float = EVERY_S,
    stale_s: float = STALE_S,
    again_s: float = AGAIN_S,
) -> None:
    """A worker: read at once and then every `every_s` seconds, until cancelled. `read` blocks; `show` does not.

    What was read last is shown no more when the next reading takes longer than `stale_s`, or fails: then it is tried
    again after `again_s`.
    """
    try:
        while True:
            could = await _read_once(read, show, stale_s)
            await anyio.sleep(every_s if could else again_s)
    finally:
        show(())


async def _read_once(
    read: Callable[[], tuple[GpuSnapshot, ...]], show: Callable[[tuple[GpuSnapshot, ...]], None], stale_s: float
) -> bool:
    """Whether it could be read."""
    reading = in_daemon_thread("gpus", read)
    try:
        with anyio.move_on_after(stale_s) as scope:
            await asyncio.shield(reading)
        if scope.cancelled_caught:
            logger.warning("the GPU has not told its load for %g s; it is shown no more", stale_s)
            show(())
        show(await reading)
    except Exception:
        logger.exception("the GPU's load cannot be read; it is shown no more until it can")
        show(())
        return False
    return True
