"""A driver over host memory: the kernels are compiled for the host, faults come as scripted, misuse fails the test.

What is queued runs at once, in the calling thread; while a stream is being captured it is recorded instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from app.backends.cuda.driver import Copy2D, OutOfDeviceMemory, Stream
from app.errors import DeviceLost, EngineError
from tests.support.host_kernels import HostModule, host_module
from tests.support.host_memory import Blocks, HostMemory, Kind, rows_at
from tests.support.host_stream import HostEvent, HostGraph, HostStream, HostTimedEvent, Openable

FATBIN_MAGIC = bytes.fromhex("50ed55ba")


@dataclass(slots=True, kw_only=True)
class _Fault:
    error: EngineError
    after: int
    times: int | None


class _Thread(threading.local):
    """What one thread does with the driver."""

    depth = 0  # of bound()
    capturing: tuple[Stream, list[Callable[[], None]]] | None = None


class HostDriver:
    """Implements `Driver`. Faults and counts are for the test to set and read; any thread inside `bound()`.

    `calls` counts operations by name: allocate, allocate_pinned, stream, event, load_module, copy, fill, launch,
    submit, graph, capture, synchronize. `launches` counts kernels by name, those of graphs each time that they run.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 1 << 30,
        name: str = "host memory",
        compute_capability: tuple[int, int] = (9, 0),
        module: HostModule | None = None,
    ) -> None:
        """`module` replaces the kernels that `load_module` gives."""
        self.name = name
        self.index = 0
        self.compute_capability = compute_capability
        self.context_handle = 0xC0
        self.memory_bytes = memory_bytes
        self.calls: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0
        self._module = module
        self._blocks = Blocks()
        self._lock = threading.RLock()
        self._faults: dict[str, _Fault] = {}
        self._lost: DeviceLost | None = None
        self._open: list[HostStream | HostEvent | HostGraph] = []
        self._handles = itertools.count(1)
        self._thread = _Thread()

    def __repr__(self) -> str:
        return f"HostDriver({self.name}, {self.used_bytes} of {self.memory_bytes} bytes used)"

    # What tests set and read.

    def fail(self, operation: str, error: EngineError, *, after: int = 0, times: int | None = 1) -> None:
        """Let an operation fail, after so many that do not, so many times (None: for ever).

        Once a `DeviceLost` was raised, every operation raises it.
        """
        with self._lock:
            self._faults[operation] = _Fault(error=error, after=after, times=times)

    @property
    def used_bytes(self) -> int:
        """Device memory that is allocated now."""
        return sum(block.nbytes for block in self._blocks.live() if block.kind == "device")

    @property
    def left_open(self) -> list[object]:
        """Memory, streams, events and graphs that nobody has closed yet."""
        with self._lock:
            return [*self._blocks.live(), *self._open]

    def submit(self, work: Callable[[], None], *, stream: Stream) -> None:
        """Queue any work, for a fake engine's `enqueue`: runs now, or is recorded while capturing."""
        self.queue("submit", work, stream=stream)

    # The protocol.

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        self._thread.depth += 1
        try:
            yield
        finally:
            self._thread.depth -= 1

    def memory(self) -> tuple[int, int]:
        self._enter("memory")
        return self.memory_bytes - self.used_bytes, self.memory_bytes

    def allocate(self, nbytes: int) -> HostMemory:
        return self._allocate("allocate", "device", nbytes)

    def allocate_pinned(self, nbytes: int) -> HostMemory:
        return self._allocate("allocate_pinned", "pinned", nbytes)

    def stream(self) -> HostStream:
        self._enter("stream")
        return self._opened(HostStream(self, next(self._handles)))

    def event(self) -> HostEvent:
        self._enter("event")
        return self._opened(HostEvent(self, next(self._handles)))

    def timed_event(self) -> HostTimedEvent:
        self._enter("event")
        return self._opened(HostTimedEvent(self, next(self._handles)))

    def load_module(self, image: bytes) -> HostModule:
        """The host's own kernels, in the place of an image that holds a device's."""
        self._enter("load_module")
        if not image.startswith(FATBIN_MAGIC):
            raise EngineError(f"an image of {len(image)} bytes is no fatbin")
        return (self._module or host_module()).bound_to(self)

    def copy_in(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        self._copy(target, "device", source, "pinned", nbytes, stream)
        self.bytes_in += nbytes

    def copy_out(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        self._copy(target, "pinned", source, "device", nbytes, stream)
        self.bytes_out += nbytes

    def copy_2d(self, copy: Copy2D, *, stream: Stream) -> None:
        self._copy_rows(copy, ("device",), ("device",), stream)

    def copy_2d_in(self, copy: Copy2D, *, stream: Stream) -> None:
        self._copy_rows(copy, ("device",), None, stream)
        self.bytes_in += copy.width_bytes * copy.height

    def copy_2d_out(self, copy: Copy2D, *, stream: Stream) -> None:
        self._copy_rows(copy, None, ("device",), stream)
        self.bytes_out += copy.width_bytes * copy.height

    def fill(self, target: int, value: int, nbytes: int, *, stream: Stream) -> None:
        assert 0 <= value <= 255, f"{value} is no byte"

        def work() -> None:
            self._blocks.check(target, nbytes, "device")
            ctypes.memset(target, value, nbytes)

        self.queue("fill", work, stream=stream)

    def capture(self, work: Callable[[], None], *, stream: Stream) -> HostGraph:
        assert self._thread.capturing is None, "this thread is capturing already"
        self._check_stream(stream)
        self._enter("capture")
        recorded: list[Callable[[], None]] = []
        self._thread.capturing = stream, recorded
        try:
            work()
        finally:
            self._thread.capturing = None
        return self._opened(HostGraph(self, next(self._handles), recorded))

    def close(self) -> None:
        assert not self.left_open, f"the driver was closed before {self.left_open}"

    # What streams, events, graphs and kernels ask for.

    def queue(self, operation: str, work: Callable[[], None], *, stream: Stream, node: bool = True) -> None:
        """Run work now, or record it when this thread is capturing the stream."""
        self._check_stream(stream)
        self._enter(operation)
        if not self.is_capturing(stream):
            work()
        elif node:
            assert self._thread.capturing is not None
            self._thread.capturing[1].append(work)

    def launched(self, name: str, addresses: Sequence[int], work: Callable[[], None], *, stream: Stream) -> None:
        """Queue a kernel whose pointers must be device memory whenever it runs."""

        def run() -> None:
            for address in addresses:
                self._blocks.check(address, 1, "device", "pinned")
            with self._lock:
                self.launches[name] += 1
            work()

        self.queue("launch", run, stream=stream)

    def is_capturing(self, stream: Stream) -> bool:
        return self._thread.capturing is not None and self._thread.capturing[0] is stream

    def waits(self, operation: str) -> None:
        """Before a thread waits for the device, or asks for what may make it wait."""
        if self._thread.capturing is not None:
            raise EngineError(f"{operation} is not permitted while this thread is capturing a stream")
        self._enter(operation)

    def closes(self, what: HostStream | HostEvent | HostGraph) -> None:
        self._check_bound("close")
        assert not what.closed, f"{what!r} was closed twice"
        what.closed = True
        with self._lock:
            self._open.remove(what)

    def _enter(self, operation: str) -> None:
        """Count an operation, and let it fail when its time has come."""
        self._check_bound(operation)
        with self._lock:
            self.calls[operation] += 1
            if self._lost is not None:
                raise self._lost
            fault = self._faults.get(operation)
            if fault is None or fault.times == 0:
                return
            if fault.after:
                fault.after -= 1
                return
            fault.times = None if fault.times is None else fault.times - 1
            if isinstance(fault.error, DeviceLost):
                self._lost = fault.error
            raise fault.error

    def _check_bound(self, operation: str) -> None:
        assert self._thread.depth, f"{operation} outside bound(), in thread {threading.current_thread().name}"

    def _check_stream(self, stream: Stream) -> None:
        assert isinstance(stream, HostStream) and stream._driver is self, f"{stream!r} is no stream of this driver"
        assert not stream.closed, f"{stream!r} was used"

    def _allocate(self, operation: str, kind: Kind, nbytes: int) -> HostMemory:
        assert nbytes > 0, f"{operation} of {nbytes} bytes"
        self.waits(operation)
        with self._lock:
            if kind == "device" and nbytes > self.memory_bytes - self.used_bytes:
                free = self.memory_bytes - self.used_bytes
                raise OutOfDeviceMemory(f"the device has {free} bytes free, {nbytes} were asked for")
            block = HostMemory(kind, nbytes, self._freed)
            self._blocks.add(block)
        return block

    def _freed(self, block: HostMemory) -> None:
        self._check_bound("close")
        self._blocks.remove(block)

    def _opened(self, what: Openable) -> Openable:
        with self._lock:
            self._open.append(what)
        return what

    def _copy(self, target: int, to: Kind, source: int, from_: Kind, nbytes: int, stream: Stream) -> None:
        def work() -> None:
            self._blocks.check(target, nbytes, to)
            self._blocks.check(source, nbytes, from_)
            ctypes.memmove(target, source, nbytes)

        self.queue("copy", work, stream=stream)

    def _copy_rows(
        self, copy: Copy2D, to: tuple[Kind, ...] | None, from_: tuple[Kind, ...] | None, stream: Stream
    ) -> None:
        def work() -> None:
            width, height = copy.width_bytes, copy.height
            self._check_rows(copy.target, copy.target_pitch, width, height, to)
            self._check_rows(copy.source, copy.source_pitch, width, height, from_)
            source = rows_at(copy.source, copy.source_pitch, width, height)
            rows_at(copy.target, copy.target_pitch, width, height)[:] = source

        self.queue("copy", work, stream=stream)

    def _check_rows(self, address: int, pitch: int, width: int, height: int, kinds: tuple[Kind, ...] | None) -> None:
        assert pitch >= width > 0 and height > 0, f"a copy of {height} rows of {width} bytes, {pitch} bytes apart"
        if kinds is None and self._blocks.find(address) is None:
            return  # the host's own memory
        self._blocks.check(address, pitch * (height - 1) + width, *(kinds or ("pinned",)))
