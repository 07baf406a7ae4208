"""Memory with an owner: blocks of a device that are freed together, and a budget that cameras share."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import TracebackType

from app.backends.cuda.driver import Driver, OutOfDeviceMemory, PinnedMemory

_MIB = 1 << 20


class Blocks:
    """Device and page-locked memory of one owner, freed together, last first. Belongs to one thread at a time.

    When an allocation is refused, what was allocated before stays until `close`: leave a `with` block by the error,
    or close in a `finally`.
    """

    def __init__(self, driver: Driver, *, owner: str) -> None:
        """`owner` is who needs the memory, as errors name it."""
        self._driver = driver
        self._owner = owner
        self._blocks = ExitStack()
        self._nbytes = 0

    def __enter__(self) -> Blocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def nbytes(self) -> int:
        """Device memory in use."""
        return self._nbytes

    def device(self, nbytes: int, what: str) -> int:
        """The address of new device memory. Raises `OutOfDeviceMemory` that names `what` it was for."""
        try:
            block = self._driver.allocate(nbytes)
        except OutOfDeviceMemory as exc:
            raise self._refused(nbytes, what, "device memory") from exc
        self._blocks.callback(block.close)
        self._nbytes += nbytes
        return block.address

    def pinned(self, nbytes: int, what: str) -> PinnedMemory:
        """New page-locked host memory, which this object closes. Raises `OutOfDeviceMemory`."""
        try:
            block = self._driver.allocate_pinned(nbytes)
        except OutOfDeviceMemory as exc:
            raise self._refused(nbytes, what, "page-locked host memory") from exc
        self._blocks.callback(block.close)
        return block

    def close(self) -> None:
        """Free everything. Idempotent; one block that cannot be freed does not keep the others."""
        self._nbytes = 0
        self._blocks.close()

    def _refused(self, nbytes: int, what: str, kind: str) -> OutOfDeviceMemory:
        free, total = self._driver.memory()
        return OutOfDeviceMemory(
            f"{self._owner} cannot have {_size(nbytes)} of {kind} for its {what}: "
            f"{_size(free)} of the device's {_size(total)} are free"
        )


class MemoryBudget:
    """Bytes of device memory that the cameras' decoded frames may take together. Any thread."""

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"the budget for decoded frames cannot be {limit} bytes")
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryBudget({self._used} of {self._limit} bytes)"

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def used(self) -> int:
        return self._used

    def reserve(self, nbytes: int) -> None:
        """Take `nbytes`, all or nothing. Raises `OutOfDeviceMemory`."""
        if nbytes < 0:
            raise ValueError(f"a reservation cannot be {nbytes} bytes")
        with self._lock:
            if nbytes > self._limit - self._used:
                raise OutOfDeviceMemory(
                    f"decoded frames need {_size(nbytes)} more of device memory, and of their budget of "
                    f"{_size(self._limit)} only {_size(self._limit - self._used)} are left"
                )
            self._used += nbytes

    def release(self, nbytes: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            if not 0 <= nbytes <= self._used:
                raise ValueError(f"{nbytes} bytes are given back, but only {self._used} are reserved")
            self._used -= nbytes


def _size(nbytes: int) -> str:
    return f"{nbytes / _MIB:.1f} MiB" if nbytes >= _MIB // 10 else f"{nbytes} bytes"
