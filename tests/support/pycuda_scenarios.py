"""What `test_pycuda_driver.py` runs in a process of its own: the real pycuda on `fake_libcuda.c`.

python -m tests.support.pycuda_scenarios NAME
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

# pycuda names more functions than the fake has: only those that are called must be there.
sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
FAKE = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)

from app.backends.cuda.driver import Copy2D, OutOfDeviceMemory  # noqa: E402
from app.backends.cuda.pycuda_driver import PycudaDriver  # noqa: E402
from app.errors import DeviceLost, EngineError  # noqa: E402

KINDS = ("memory", "pinned", "stream", "event", "module", "graph", "executable")
IMAGE = b"fatbin" + bytes(10)
ONE = (1, 1, 1)
OUT_OF_MEMORY, ILLEGAL_ADDRESS, NOT_PERMITTED = 2, 700, 900


def existing() -> dict[str, int]:
    counts = {kind: FAKE.fake_exist(number) for number, kind in enumerate(KINDS)}
    return {kind: count for kind, count in counts.items() if count}


def fail(call: str, code: int, *, after: int = 0) -> None:
    FAKE.fake_fail(call.encode(), code, after)


@contextmanager
def raises(kind: type[EngineError], *words: str) -> Iterator[None]:
    try:
        yield
    except EngineError as exc:
        assert type(exc) is kind and all(word in str(exc) for word in words), repr(exc)
    else:
        raise AssertionError(f"no {kind.__name__} was raised")


def work_reaches_the_device_and_all_is_freed() -> None:
    driver = PycudaDriver(0)
    assert (driver.name, driver.index, driver.compute_capability) == ("NVIDIA Fake", 0, (8, 9))
    assert driver.context_handle and repr(driver) == "PycudaDriver(0: NVIDIA Fake, open)"
    with driver.bound():
        assert driver.memory() == (3 << 20, 4 << 20)
        stream, event = driver.stream(), driver.event()
        assert FAKE.fake_stream_flags() == 1 and FAKE.fake_event_flags() == 3  # blocking, without timing
        memory, pinned = driver.allocate(64), driver.allocate_pinned(64)
        assert memory.nbytes == 64 and pinned.array.shape == (64,) and pinned.address == pinned.array.ctypes.data
        pinned.array[:] = np.arange(64)
        driver.copy_in(memory.address, pinned.address, 64, stream=stream)
        driver.fill(memory.address + 8, 7, 4, stream=stream)
        pinned.array[:] = 0
        driver.copy_out(pinned.address, memory.address, 32, stream=stream)
        assert pinned.array[6:14].tolist() == [6, 7, 7, 7, 7, 7, 12, 13] and not pinned.array[32:].any()
        kernel = driver.load_module(IMAGE).kernel("store", "Pif")
        kernel.launch((2, 1, 1), (3, 1, 1), (memory.address, 5, 2.0), stream=stream)
        driver.copy_out(pinned.address, memory.address, 4, stream=stream)
        event.record(stream=stream)
        event.synchronize()
        stream.synchronize()
        assert pinned.array[0] == 60
        for each in (event, stream, memory, pinned, memory, pinned):
            each.close()
        del kernel
        assert not existing()
    assert FAKE.fake_depth() == 0
    driver.close()
    assert FAKE.fake_retained() == 0


def rows_are_copied_whatever_their_pitches() -> None:
    driver = PycudaDriver(0)
    rows = np.arange(3 * 10, dtype=np.uint8).reshape(3, 10)
    back = np.zeros((3, 6), dtype=np.uint8)
    with driver.bound():
        stream, first, second = driver.stream(), driver.allocate(3 * 16), driver.allocate(3 * 32)
        shape = {"width_bytes": 5, "height": 3}
        source, target = rows.ctypes.data, back.ctypes.data
        into = Copy2D(target=first.address, target_pitch=16, source=source, source_pitch=10, **shape)
        within = Copy2D(target=second.address, target_pitch=32, source=first.address, source_pitch=16, **shape)
        out = Copy2D(target=target, target_pitch=6, source=second.address, source_pitch=32, **shape)
        driver.copy_2d_in(into, stream=stream)
        driver.copy_2d(within, stream=stream)
        driver.copy_2d_out(out, stream=stream)
        assert (back[:, :5] == rows[:, :5]).all() and not back[:, 5].any()
        for each in (stream, first, second):
            each.close()
    driver.close()


def graphs_are_captured_and_launched() -> None:
    driver = PycudaDriver(0)
    with driver.bound():
        stream, memory, pinned = driver.stream(), driver.allocate(4), driver.allocate_pinned(4)
        kernel = driver.load_module(IMAGE).kernel("store", "Pif")

        def work() -> None:
            kernel.launch(ONE, ONE, (memory.address, 9, 1.0), stream=stream)
            driver.copy_out(pinned.address, memory.address, 4, stream=stream)

        pinned.array[:] = 0
        graph = driver.capture(work, stream=stream)
        assert graph.nodes == 2 and not pinned.array.any()
        graph.launch(stream=stream)
        assert pinned.array[0] == 9
        fail("cuGraphLaunch", ILLEGAL_ADDRESS)
        with raises(DeviceLost, "launching a CUDA graph", "illegal memory access"):
            graph.launch(stream=stream)
        for call in ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphGetNodes", "cuGraphInstantiate"):
            before = existing()["executable"]
            fail(call, NOT_PERMITTED)
            with raises(EngineError, "operation not permitted"):
                driver.capture(work, stream=stream)
            assert existing()["executable"] == before
        with raises(EngineError, "nothing was captured"):
            driver.capture(lambda: None, stream=stream)
        fail("cuLaunchKernel", NOT_PERMITTED)
        with raises(EngineError, "launching the kernel store", "operation not permitted"):
            driver.capture(work, stream=stream)
        work()  # the stream is out of capture mode
        assert pinned.array[0] == 9
        graph.close()
        assert "executable" not in existing()


def errors_mean_what_cuda_says() -> None:
    driver = PycudaDriver(0)
    with driver.bound():
        stream, event, memory, pinned = driver.stream(), driver.event(), driver.allocate(8), driver.allocate_pinned(8)
        kernel = driver.load_module(IMAGE).kernel("store", "Pif")
        fail("cuMemAlloc", OUT_OF_MEMORY, after=1)  # pycuda collects garbage and tries a second time
        driver.allocate(8).close()
        fail("cuMemHostAlloc", OUT_OF_MEMORY)
        with raises(OutOfDeviceMemory, "allocating page-locked memory", "out of memory"):
            driver.allocate_pinned(8)
        with raises(EngineError, "loading the kernels", "no kernel image"):
            driver.load_module(b"something else")
        with raises(EngineError, "finding the kernel missing", "named symbol not found"):
            driver.load_module(IMAGE).kernel("missing", "P")
        first, last = driver.timed_event(), driver.timed_event()
        assert last.elapsed_s(first) == 0.0025
        calls: dict[str, Callable[[], object]] = {
            "cuEventElapsedTime": lambda: last.elapsed_s(first),
            "cuMemGetInfo": driver.memory,
            "cuStreamCreate": driver.stream,
            "cuEventCreate": driver.event,
            "cuEventRecord": lambda: event.record(stream=stream),
            "cuEventSynchronize": event.synchronize,
            "cuMemcpyHtoDAsync": lambda: driver.copy_in(memory.address, pinned.address, 8, stream=stream),
            "cuMemcpyDtoHAsync": lambda: driver.copy_out(pinned.address, memory.address, 8, stream=stream),
            "cuMemsetD8Async": lambda: driver.fill(memory.address, 0, 8, stream=stream),
            "cuLaunchKernel": lambda: kernel.launch(ONE, ONE, (memory.address, 1, 1.0), stream=stream),
            "cuModuleLoadDataEx": lambda: driver.load_module(IMAGE),
        }
        for call, use in calls.items():
            fail(call, ILLEGAL_ADDRESS)
            with raises(DeviceLost, "the device was lost while", "illegal memory access"):
                use()
            fail(call, NOT_PERMITTED)
            with raises(EngineError, "failed:", "operation not permitted"):
                use()
            use()
        for each in (stream, event, first, last, memory, pinned):
            each.close()
    fail("cuCtxPushCurrent", ILLEGAL_ADDRESS)
    with raises(DeviceLost, "binding a thread to the device"), driver.bound():
        pass
    driver.close()
    with raises(EngineError, "opening the device", "an error of the test"):
        PycudaDriver(1)


def closing_on_a_lost_device_does_not_fail() -> None:
    driver = PycudaDriver(0)
    fail("cuCtxPushCurrent", ILLEGAL_ADDRESS)
    driver.close()


def a_thread_on_a_lost_device_ends_without_ending_the_process() -> None:
    driver = PycudaDriver(0)

    def doomed() -> None:
        with driver.bound():
            fail("cuCtxPopCurrent", ILLEGAL_ADDRESS)

    thread = threading.Thread(target=doomed)
    thread.start()
    thread.join()
    driver.close()


def a_second_allocation_that_fails_too_is_out_of_memory() -> None:
    driver = PycudaDriver(0)
    with driver.bound():
        fail("cuMemAlloc", OUT_OF_MEMORY)
        driver.allocate(8).close()  # pycuda collected garbage and tried again, which worked
        assert not existing()


def threads_share_the_device() -> None:
    driver = PycudaDriver(0)
    with driver.bound():
        memory, stream = driver.allocate(8), driver.stream()
        with driver.bound():
            assert driver.memory()

    def elsewhere() -> None:
        with driver.bound():
            driver.fill(memory.address, 1, 8, stream=stream)
            stream.synchronize()
            memory.close()
            stream.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not existing() and FAKE.fake_wild() == 0 and FAKE.fake_depth() == 0


def nothing_works_outside_bound() -> None:
    driver = PycudaDriver(0)
    with raises(EngineError, "allocating device memory"):
        driver.allocate(8)
    with raises(EngineError, "creating a stream"):
        driver.stream()
    assert not existing()


def only_own_streams_are_taken() -> None:
    class Default:
        handle = 0

        def synchronize(self) -> None: ...

        def close(self) -> None: ...

    driver = PycudaDriver(0)
    with driver.bound():
        memory, stream = driver.allocate(8), driver.stream()
        with raises(EngineError, "is not an open stream of this driver"):
            driver.fill(memory.address, 0, 8, stream=Default())
        stream.close()
        with raises(EngineError, "is not an open stream of this driver"):
            driver.fill(memory.address, 0, 8, stream=stream)
        memory.close()


def the_last_thread_may_close_the_driver() -> None:
    driver = PycudaDriver(0)
    inside, closed = threading.Event(), threading.Event()

    def late() -> None:
        with driver.bound():
            inside.set()
            closed.wait(10)

    def last() -> None:
        with driver.bound(), driver.bound():
            driver.allocate(8).close()
            driver.close()
            driver.close()
        closed.set()

    threads = [threading.Thread(target=late), threading.Thread(target=last)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    for thread in threads:  # pycuda would end the process here if one of them left a context on its stack
        thread.join()
    assert FAKE.fake_retained() == 0 and repr(driver) == "PycudaDriver(0: NVIDIA Fake, closed)"
    with raises(EngineError, "the context of NVIDIA Fake is closed"), driver.bound():
        pass
    again = PycudaDriver(0)
    with again.bound():
        again.allocate(8).close()
    again.close()
    assert not existing()


SCENARIOS: dict[str, Callable[[], None]] = {
    scenario.__name__: scenario
    for scenario in (
        work_reaches_the_device_and_all_is_freed,
        rows_are_copied_whatever_their_pitches,
        graphs_are_captured_and_launched,
        errors_mean_what_cuda_says,
        closing_on_a_lost_device_does_not_fail,
        a_thread_on_a_lost_device_ends_without_ending_the_process,
        a_second_allocation_that_fails_too_is_out_of_memory,
        threads_share_the_device,
        nothing_works_outside_bound,
        only_own_streams_are_taken,
        the_last_thread_may_close_the_driver,
    )
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
    print("passed")  # noqa: T201  what the test waits for
