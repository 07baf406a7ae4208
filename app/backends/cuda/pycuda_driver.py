"""The device as pycuda gives it. Import this module only where a probe has found pycuda and a driver.

What pycuda raises is translated here, once. Of its calls these let go of the GIL (src/cpp/cuda.hpp, 2026.1): every
copy and memset, `synchronize` of streams and events, `init`. These keep it: allocating, freeing, launching a kernel,
recording an event. So nothing is allocated between two batches, and nothing waits but on an event.

pycuda frees a thing only where its context is current. Everything here must therefore be closed inside `bound()`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from app.backends.cuda.driver import Copy2D, Graph, Grid, OutOfDeviceMemory, Stream, TimedEvent
from app.backends.cuda.faults import device_error
from app.errors import EngineError

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream; pycuda has no name for it


def _doing(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Translate what pycuda raises; `what` completes "... failed" and "the device was lost while ..."."""

    def translating(call: Callable[P, R]) -> Callable[P, R]:
        @wraps(call)
        def translated(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return call(*args, **kwargs)
            except cuda.MemoryError as exc:
                raise OutOfDeviceMemory(f"{what} failed: {exc}") from exc
            except cuda.Error as exc:
                raise device_error(what, str(exc)) from exc

        return translated

    return translating


class PycudaStream:
    """Implements `Stream`."""

    @_doing("creating a stream")
    def __init__(self) -> None:
        self.raw = cuda.Stream(_NON_BLOCKING)
        self.handle: int = int(self.raw.handle)
        self._done: PycudaEvent = PycudaEvent()

    def synchronize(self) -> None:
        # Waiting for a stream spins, unless the context says otherwise; an event of ours sleeps.
        self._done.record(stream=self)
        self._done.synchronize()

    def close(self) -> None:
        self._done.close()
        self.raw = None  # destroyed with its last reference


class PycudaEvent:
    """Implements `Event`."""

    @_doing("creating an event")
    def __init__(self) -> None:
        flags = cuda.event_flags
        self._raw = cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    @_doing("recording an event")
    def record(self, *, stream: Stream) -> None:
        self._raw.record(_raw(stream))

    @_doing("waiting for the device")
    def synchronize(self) -> None:
        self._raw.synchronize()

    def close(self) -> None:
        self._raw = None  # destroyed with its last reference


class PycudaTimedEvent(PycudaEvent):
    """Implements `TimedEvent`."""

    @_doing("creating an event")
    def __init__(self) -> None:
        self._raw = cuda.Event(cuda.event_flags.BLOCKING_SYNC)

    @_doing("asking how long the device took")
    def elapsed_s(self, since: TimedEvent) -> float:
        assert isinstance(since, PycudaTimedEvent)
        return 1e-3 * float(self._raw.time_since(since._raw))


class PycudaMemory:
    """Implements `DeviceMemory`."""

    @_doing("allocating device memory")
    def __init__(self, nbytes: int) -> None:
        self._allocation = cuda.mem_alloc(nbytes)
        self.address: int = int(self._allocation)
        self.nbytes: int = nbytes

    @_doing("freeing device memory")
    def close(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.free()


class PycudaPinned:
    """Implements `PinnedMemory`. Views of `array` must not be used any more once it is closed."""

    @_doing("allocating page-locked memory")
    def __init__(self, nbytes: int) -> None:
        self._array: NDArray[np.uint8] | None = cuda.pagelocked_empty(nbytes, np.uint8)
        self.address: int = int(self.array.ctypes.data)

    @property
    def array(self) -> NDArray[np.uint8]:
        if self._array is None:
            raise ValueError("the page-locked memory was freed")
        return self._array

    @_doing("freeing page-locked memory")
    def close(self) -> None:
        array, self._array = self._array, None
        if array is not None:
            allocation: Any = array.base
            _free(allocation)


class PycudaKernel:
    """Implements `Kernel`."""

    def __init__(self, function: cuda.Function, name: str, format: str) -> None:
        self._function = function
        self._name = name
        self._pack = struct.Struct(format).pack  # native alignment, as the compiler lays parameters out

    def launch(self, grid: Grid, block: Grid, args: Sequence[int | float], *, stream: Stream) -> None:
        try:
            # `prepared_async_call` would first set the block's shape on the function itself, which the driver has
            # deprecated and which another thread's launch could overwrite.
            self._function._launch_kernel(grid, block, self._pack(*args), 0, _raw(stream))
        except cuda.Error as exc:
            raise device_error(f"launching the kernel {self._name}", str(exc)) from exc


class PycudaModule:
    """Implements `Module`."""

    def __init__(self, image: bytes) -> None:
        try:
            self._module = cuda.module_from_buffer(image)
        except cuda.Error as exc:
            raise device_error("loading the kernels", str(exc)) from exc

    def kernel(self, name: str, format: str) -> PycudaKernel:
        try:
            return PycudaKernel(self._module.get_function(name), name, format)
        except cuda.Error as exc:
            raise device_error(f"finding the kernel {name}", str(exc)) from exc


class PycudaDriver:
    """Implements `Driver`: the primary context of one device, which TensorRT and PyNvVideoCodec use too."""

    @_doing("opening the device")
    def __init__(self, index: int = 0) -> None:
        """Blocking, a second when it is the first in the machine. Raises `EngineError`."""
        cuda.init()
        device = cuda.Device(index)
        self.index: int = index
        self.name: str = str(device.name())
        major, minor = device.compute_capability()
        self.compute_capability: tuple[int, int] = (int(major), int(minor))
        self._context = device.retain_primary_context()
        self.context_handle: int = int(self._context.handle)
        # A primary context that is merely forgotten is detached as if it were another kind, by a call that CUDA has
        # given up (pycuda 2026.1): so it is let go of at exit at the latest.
        self._let_go = weakref.finalize(self, _let_go, self._context)

    def __repr__(self) -> str:
        return f"PycudaDriver({self.index}: {self.name}, {'closed' if self._context is None else 'open'})"

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        context = self._context
        if context is None:
            raise EngineError(f"the context of {self.name} is closed")
        _push(context)
        try:
            yield
        finally:
            _pop(context)

    @_doing("asking for the device's free memory")
    def memory(self) -> tuple[int, int]:
        free, total = cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> PycudaMemory:
        return PycudaMemory(nbytes)

    def allocate_pinned(self, nbytes: int) -> PycudaPinned:
        return PycudaPinned(nbytes)

    def stream(self) -> PycudaStream:
        return PycudaStream()

    def event(self) -> PycudaEvent:
        return PycudaEvent()

    def timed_event(self) -> PycudaTimedEvent:
        return PycudaTimedEvent()

    def load_module(self, image: bytes) -> PycudaModule:
        return PycudaModule(image)

    @_doing("copying to the device")
    def copy_in(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        cuda.memcpy_htod_async(target, _buffer(source, nbytes), _raw(stream))

    @_doing("copying from the device")
    def copy_out(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        cuda.memcpy_dtoh_async(_buffer(target, nbytes), source, _raw(stream))

    @_doing("copying rows within the device")
    def copy_2d(self, copy: Copy2D, *, stream: Stream) -> None:
        rows = _rows(copy)
        rows.set_src_device(copy.source)
        rows.set_dst_device(copy.target)
        rows(_raw(stream))

    @_doing("copying rows to the device")
    def copy_2d_in(self, copy: Copy2D, *, stream: Stream) -> None:
        rows = _rows(copy)
        rows.set_src_host(_buffer(copy.source, _extent(copy.source_pitch, copy)))
        rows.set_dst_device(copy.target)
        rows(_raw(stream))

    @_doing("copying rows from the device")
    def copy_2d_out(self, copy: Copy2D, *, stream: Stream) -> None:
        rows = _rows(copy)
        rows.set_src_device(copy.source)
        rows.set_dst_host(_buffer(copy.target, _extent(copy.target_pitch, copy)))
        rows(_raw(stream))

    @_doing("filling device memory")
    def fill(self, target: int, value: int, nbytes: int, *, stream: Stream) -> None:
        cuda.memset_d8_async(target, value, nbytes, _raw(stream))

    def capture(self, work: Callable[[], None], *, stream: Stream) -> Graph:
        from app.backends.cuda.graphs import capture  # cuda-bindings may be missing: then plain launches will do

        return capture(work, stream=stream)

    def close(self) -> None:
        """Also from inside `bound()`, as the last thread of a detector does: what is left of it does nothing."""
        self._context = None
        self._let_go()


def _let_go(context: cuda.Context) -> None:
    """Never raises: with a lost device, its context is gone too."""
    try:
        context.push()  # pycuda lets go of a context only where it is current
        context.detach()
    except cuda.Error as exc:
        log.warning("the device's context could not be let go: %s", exc)
        _clear_stack()


@_doing("binding a thread to the device")
def _push(context: cuda.Context) -> None:
    context.push()


def _pop(context: cuda.Context) -> None:
    """Undo `push`. pycuda ends the process when a thread ends with a context on its stack, valid or not."""
    try:
        # Asking for the current context takes those that were detached off the stack; ours may be one of them.
        if cuda.Context.get_current() == context:
            cuda.Context.pop()
    except cuda.Error as exc:
        log.warning("a thread could not be unbound from the device, which is given up: %s", exc)
        with contextlib.suppress(cuda.Error):
            context.detach()
        _clear_stack()


def _clear_stack() -> None:
    """Take what was detached off this thread's stack."""
    with contextlib.suppress(cuda.Error):
        cuda.Context.get_current()


def _raw(stream: Stream) -> cuda.Stream:
    """pycuda's own stream. None would be the default stream, which nothing here may use."""
    raw = stream.raw if isinstance(stream, PycudaStream) else None
    if raw is None:
        raise EngineError(f"{stream!r} is not an open stream of this driver")
    return raw


def _buffer(address: int, nbytes: int) -> Any:
    """Host memory as an object with the buffer protocol, which is what pycuda takes. Copies nothing, owns nothing."""
    return (ctypes.c_char * nbytes).from_address(address)


def _rows(copy: Copy2D) -> cuda.Memcpy2D:
    rows = cuda.Memcpy2D()
    rows.src_pitch, rows.dst_pitch = copy.source_pitch, copy.target_pitch
    rows.width_in_bytes, rows.height = copy.width_bytes, copy.height
    return rows


def _free(allocation: cuda.PagelockedHostAllocation) -> None:
    allocation.free()


def _extent(pitch: int, copy: Copy2D) -> int:
    """Bytes from the first sample to the last."""
    return pitch * (copy.height - 1) + copy.width_bytes
