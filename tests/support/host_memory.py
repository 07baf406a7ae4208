"""Host memory in the part of a device's: known blocks with guards around them."""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["device", "pinned"]

ALIGNMENT = 256  # as cuMemAlloc gives it
GUARD_BYTES = 256
_GUARD = 0xA5
_FRESH = 0xFF  # NaN in every float format, so that whoever reads what nobody wrote notices
_FREED = 0xDD
_QUARANTINE_BYTES = 1 << 26


def _sanitizer() -> tuple[Callable[[int, int], None], Callable[[int, int], None]]:
    """AddressSanitizer's own way to forbid and allow memory, where the process runs under it."""
    program = ctypes.CDLL(None)
    try:
        forbid, allow = program.__asan_poison_memory_region, program.__asan_unpoison_memory_region
    except AttributeError:
        return (lambda _address, _nbytes: None), (lambda _address, _nbytes: None)
    for each in (forbid, allow):
        each.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        each.restype = None
    return forbid, allow


_forbid, _allow = _sanitizer()


class HostMemory:
    """A block. Implements `DeviceMemory` and `PinnedMemory`; close it once."""

    def __init__(self, kind: Kind, nbytes: int, on_close: Callable[[HostMemory], None]) -> None:
        self.kind = kind
        self.closed = False
        self._on_close = on_close
        # numpy keeps blocks below 1 KiB for itself when they are freed, and would trip over what is forbidden in them.
        whole = max(2048, nbytes + 2 * GUARD_BYTES + ALIGNMENT)
        self._buffer = np.full(whole, _GUARD, dtype=np.uint8)
        self._start = GUARD_BYTES + -(self._buffer.ctypes.data + GUARD_BYTES) % ALIGNMENT
        self.address = self._buffer.ctypes.data + self._start
        self.nbytes = nbytes
        self.array: NDArray[np.uint8] = self._buffer[self._start : self._start + nbytes]
        self.array[:] = _FRESH
        _forbid(self._buffer.ctypes.data, self._start)
        _forbid(self.address + nbytes, len(self._buffer) - self._start - nbytes)

    def __repr__(self) -> str:
        return f"HostMemory({self.kind}, {self.nbytes} bytes, {'closed' if self.closed else 'open'})"

    def close(self) -> None:
        assert not self.closed, f"{self!r} was closed twice"
        self._on_close(self)
        self.closed = True
        _allow(self._buffer.ctypes.data, len(self._buffer))
        before, after = self._buffer[: self._start], self._buffer[self._start + self.nbytes :]
        assert (before == _GUARD).all(), f"something wrote in front of {self!r}"
        assert (after == _GUARD).all(), f"something wrote behind {self!r}"
        self.array[:] = _FREED
        _forbid(self._buffer.ctypes.data, len(self._buffer))


class Blocks:
    """All blocks of a driver. Freed ones stay in quarantine for a while, so that no new block gets their address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._by_start: dict[int, HostMemory] = {}
        self._freed: deque[HostMemory] = deque()
        self._freed_bytes = 0

    def add(self, block: HostMemory) -> None:
        with self._lock:
            insort(self._starts, block.address)
            self._by_start[block.address] = block

    def remove(self, block: HostMemory) -> None:
        with self._lock:
            self._freed.append(block)
            self._freed_bytes += block.nbytes
            while self._freed_bytes > _QUARANTINE_BYTES:
                self._forget(self._freed.popleft())

    def _forget(self, block: HostMemory) -> None:
        self._freed_bytes -= block.nbytes
        self._starts.remove(block.address)
        del self._by_start[block.address]
        _allow(block._buffer.ctypes.data, len(block._buffer))

    def live(self) -> list[HostMemory]:
        with self._lock:
            return [block for block in self._by_start.values() if not block.closed]

    def find(self, address: int) -> HostMemory | None:
        """The block that begins at or before the address and is not over yet."""
        with self._lock:
            number = bisect_right(self._starts, address)
            block = self._by_start[self._starts[number - 1]] if number else None
        return block if block is not None and address < block.address + max(1, block.nbytes) else None

    def check(self, address: int, nbytes: int, *kinds: Kind) -> None:
        """Assert that the bytes lie in one live block of one of these kinds."""
        block = self.find(address)
        assert block is not None, f"0x{address:x} is no {' or '.join(kinds)} memory of this driver"
        assert not block.closed, f"{nbytes} bytes at 0x{address:x} lie in {block!r}"
        assert block.kind in kinds, f"0x{address:x} lies in {block!r}, which is not {' or '.join(kinds)} memory"
        left = block.address + block.nbytes - address
        assert nbytes <= left, f"{nbytes} bytes at 0x{address:x} overrun {block!r} by {nbytes - left}"


def rows_at(address: int, pitch: int, width_bytes: int, height: int) -> NDArray[np.uint8]:
    """u8[height, width_bytes], the memory itself."""
    extent = pitch * (height - 1) + width_bytes
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * extent).from_address(address))
    return np.lib.stride_tricks.as_strided(memory, (height, width_bytes), (pitch, 1))
