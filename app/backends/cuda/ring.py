"""Device memory for decoded pictures: a few slots a camera, within one budget for all cameras.

A slot goes back through a queue, because whoever releases a surface may be the event loop, and freeing device memory
needs the device and may block. What is in the queue is used again, or freed, by the next `acquire` of that ring; a
ring that was closed while surfaces were still out is swept by the next `acquire` or `close` of any other ring, and in
the end by the pool.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from app.backends.cuda.driver import DeviceMemory, Driver, OutOfDeviceMemory
from app.backends.ffmpeg.decoder import Log

_log = logging.getLogger("vidette.cuda")

# With two slots a camera goes on: one picture is being inferred or waits, the next one is written.
_ENOUGH_SLOTS = 2


class Budget(Protocol):
    """How much device memory decoded pictures may take. Any thread."""

    def reserve(self, nbytes: int) -> None:
        """Raises `OutOfDeviceMemory` with the numbers."""
        ...

    def release(self, nbytes: int) -> None: ...


class RingSlot:
    """One picture's device memory."""

    __slots__ = ("_back", "_memory", "nbytes")

    def __init__(self, memory: DeviceMemory, nbytes: int, back: queue.SimpleQueue[RingSlot]) -> None:
        self._memory = memory
        self._back = back
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        return self._memory.address

    def release(self) -> None:
        """Give the slot back to its ring. Any thread; never blocks, so that the event loop may call it."""
        self._back.put(self)

    def free(self) -> None:
        self._memory.close()


class SurfacePool:
    """Makes the rings of all cameras and counts what they dropped."""

    def __init__(self, driver: Driver, budget: Budget) -> None:
        self._driver = driver
        self._budget = budget
        self._lock = threading.Lock()
        self._closed_rings: list[SurfaceRing] = []
        self._ring_full = 0

    @property
    def ring_full(self) -> int:
        """Pictures that were dropped because no slot came back in time. Any thread."""
        return self._ring_full

    def ring(self, *, slots: int, log: Log = _log, wait_s: float = 1.0) -> SurfaceRing:
        """A ring of at most `slots` pictures, empty at first. It belongs to the thread that reads its camera."""
        return SurfaceRing(self, slots=slots, log=log, wait_s=wait_s)

    def sweep(self) -> None:
        """Free what closed rings got back since. Any thread inside `driver.bound()`."""
        if not self._closed_rings:
            return
        with self._lock:
            self._closed_rings = [ring for ring in self._closed_rings if ring.drain()]

    def close(self) -> None:
        """Free all that came back. Surfaces that are still out keep their memory until the driver's context goes."""
        with self._driver.bound():
            self.sweep()

    def allocate(self, nbytes: int, back: queue.SimpleQueue[RingSlot]) -> RingSlot:
        """Make a slot. Raises `OutOfDeviceMemory`."""
        self._budget.reserve(nbytes)
        try:
            return RingSlot(self._driver.allocate(nbytes), nbytes, back)
        except BaseException:
            self._budget.release(nbytes)
            raise

    def free(self, slot: RingSlot) -> None:
        try:
            slot.free()
        finally:
            self._budget.release(slot.nbytes)

    def closed(self, ring: SurfaceRing) -> None:
        """Take over a ring of which surfaces are still out."""
        with self._lock:
            self._closed_rings.append(ring)

    def dropped(self) -> None:
        with self._lock:
            self._ring_full += 1


class SurfaceRing:
    """The slots of one camera, made when they are first needed. Belongs to one thread, inside `driver.bound()`."""

    def __init__(self, pool: SurfacePool, *, slots: int, log: Log, wait_s: float) -> None:
        self._pool = pool
        self._bound = slots
        self._log = log
        self._wait_s = wait_s
        self._back: queue.SimpleQueue[RingSlot] = queue.SimpleQueue()
        self._made = 0  # slots that exist, wherever they are
        self._closed = False
        self.ring_full = 0

    def __repr__(self) -> str:
        return f"SurfaceRing({self._made} of {self._bound} slots)"

    def acquire(self, nbytes: int, *, clock: Callable[[], float] = time.monotonic) -> RingSlot | None:
        """A slot of exactly this size; None when all are out and none came back in time. Blocking up to a second.

        Raises `OutOfDeviceMemory` when the camera has not enough slots to go on with.
        """
        self._pool.sweep()
        deadline = clock() + self._wait_s
        while True:
            slot = self._returned(nbytes) or self._make(nbytes)
            if slot is not None:
                return slot
            try:
                returned = self._back.get(timeout=max(0.0, deadline - clock()))
            except queue.Empty:
                self._drop()
                return None
            returned.release()  # into the queue again, where `_returned` looks at its size

    def close(self) -> None:
        """Free the slots that are here; those that are out are freed after they come back. Idempotent."""
        if not self._closed:
            self._closed = True
            if self.drain():
                self._pool.closed(self)
            self._pool.sweep()

    def drain(self) -> bool:
        """Free what came back. True while slots are still out."""
        while True:
            try:
                slot = self._back.get_nowait()
            except queue.Empty:
                return self._made > 0
            self._free(slot)

    def _returned(self, nbytes: int) -> RingSlot | None:
        while True:
            try:
                slot = self._back.get_nowait()
            except queue.Empty:
                return None
            if slot.nbytes == nbytes:
                return slot
            self._free(slot)  # from before the picture size changed

    def _make(self, nbytes: int) -> RingSlot | None:
        if self._made >= self._bound:
            return None
        try:
            slot = self._pool.allocate(nbytes, self._back)
        except OutOfDeviceMemory as exc:
            if self._made < _ENOUGH_SLOTS:
                raise
            self._log.warning("going on with %d pictures in device memory: %s", self._made, exc)
            return None
        self._made += 1
        return slot

    def _free(self, slot: RingSlot) -> None:
        self._made -= 1
        self._pool.free(slot)

    def _drop(self) -> None:
        self.ring_full += 1
        self._pool.dropped()
        self._log.warning("a picture was dropped: none of the %d in device memory was given back in time", self._made)
