"""What the CUDA backend asks of a device. `pycuda_driver.py` answers with a real one, tests with host memory.

Addresses are plain integers, so that a decoder's surface, a TensorRT tensor and a buffer of ours look alike. Every
operation that a device carries out takes `*, stream`: nothing ever runs on the default stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.errors import EngineError

Grid: TypeAlias = tuple[int, int, int]


class OutOfDeviceMemory(EngineError):
    """An allocation was refused; nothing else is harmed."""


class Stream(Protocol):
    """An order of work on the device."""

    @property
    def handle(self) -> int:
        """The `CUstream`, for libraries that take one."""
        ...

    def synchronize(self) -> None:
        """Wait until all work so far is done. Blocking; lets go of the GIL. Raises `EngineError`, `DeviceLost`."""
        ...

    def close(self) -> None: ...


class Event(Protocol):
    """A place in a stream's order that a thread can sleep on."""

    def record(self, *, stream: Stream) -> None: ...

    def synchronize(self) -> None:
        """Sleep until what was recorded is done; lets go of the GIL. Raises `EngineError`, `DeviceLost`."""
        ...

    def close(self) -> None: ...


class TimedEvent(Event, Protocol):
    """An event that also knows when the device came to it. Only measurements use it: it costs more than the other."""

    def elapsed_s(self, since: TimedEvent) -> float:
        """Seconds on the device's clock from `since` to this one; it has come to both. Raises `EngineError`."""
        ...


class DeviceMemory(Protocol):
    """A block of device memory that its owner closes once."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def close(self) -> None: ...


class PinnedMemory(Protocol):
    """A block of page-locked host memory that its owner closes once."""

    @property
    def address(self) -> int: ...

    @property
    def array(self) -> NDArray[np.uint8]:
        """u8[nbytes], the memory itself."""
        ...

    def close(self) -> None: ...


class Kernel(Protocol):
    """A function on the device."""

    def launch(self, grid: Grid, block: Grid, args: Sequence[int | float], *, stream: Stream) -> None:
        """Queue one launch. `args` in the order and the types of the format that the kernel was asked for with."""
        ...


class Module(Protocol):
    """A loaded file of kernels."""

    def kernel(self, name: str, format: str) -> Kernel:
        """The kernel of this name; `format` gives its parameters in `struct` letters (P address, i int32, f f32).

        Raises `EngineError` when the module lacks it.
        """
        ...


class Graph(Protocol):
    """Captured work that is launched as one."""

    @property
    def nodes(self) -> int: ...

    def launch(self, *, stream: Stream) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy2D:
    """A copy of `height` rows of `width_bytes`; each side has its own distance between rows."""

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width_bytes: int
    height: int


class Driver(Protocol):
    """One device and its primary context. Any thread that is inside `bound()`."""

    @property
    def name(self) -> str:
        """The device's own name."""
        ...

    @property
    def index(self) -> int: ...

    @property
    def compute_capability(self) -> tuple[int, int]: ...

    @property
    def context_handle(self) -> int:
        """The `CUcontext`, for libraries that take one."""
        ...

    def bound(self) -> AbstractContextManager[None]:
        """Make the primary context this thread's current one. Nests."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        ...

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Raises `OutOfDeviceMemory`."""
        ...

    def allocate_pinned(self, nbytes: int) -> PinnedMemory:
        """Raises `OutOfDeviceMemory`."""
        ...

    def stream(self) -> Stream: ...

    def event(self) -> Event:
        """An event that blocks instead of spinning, without timing."""
        ...

    def timed_event(self) -> TimedEvent:
        """An event that blocks instead of spinning, and keeps the time."""
        ...

    def load_module(self, image: bytes) -> Module:
        """Raises `EngineError` when the image has nothing for this device."""
        ...

    def copy_in(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        """Queue a copy from pinned host memory to the device."""
        ...

    def copy_out(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        """Queue a copy from the device to pinned host memory."""
        ...

    def copy_2d(self, copy: Copy2D, *, stream: Stream) -> None:
        """Queue a copy of rows within the device."""
        ...

    def copy_2d_in(self, copy: Copy2D, *, stream: Stream) -> None:
        """Queue a copy of rows from host memory to the device. From memory that is not pinned it may block."""
        ...

    def copy_2d_out(self, copy: Copy2D, *, stream: Stream) -> None:
        """Queue a copy of rows from the device to host memory. To memory that is not pinned it may block."""
        ...

    def fill(self, target: int, value: int, nbytes: int, *, stream: Stream) -> None:
        """Queue setting bytes."""
        ...

    def capture(self, work: Callable[[], None], *, stream: Stream) -> Graph:
        """Record what `work` queues on `stream`, without running it. Raises `EngineError` when it cannot."""
        ...

    def close(self) -> None:
        """Let go of the context. Idempotent; after everything that was made here was closed."""
        ...
