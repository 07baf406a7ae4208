"""The driver over host memory: it must fail a test for what a device would not forgive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from app.backends.cuda.driver import Copy2D, Driver, OutOfDeviceMemory
from app.backends.cuda.kernels import load_kernels
from app.errors import DeviceLost, EngineError
from tests.support.host_driver import FATBIN_MAGIC, HostDriver
from tests.support.host_stream import HostStream


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    driver = HostDriver(memory_bytes=10_000)
    with driver.bound():
        yield driver


@pytest.fixture
def stream(driver: HostDriver) -> Iterator[HostStream]:
    stream = driver.stream()
    yield stream
    stream.close()


def test_it_is_a_driver() -> None:
    driver: Driver = HostDriver(name="card", compute_capability=(8, 6))
    assert (driver.name, driver.index, driver.compute_capability) == ("card", 0, (8, 6))


def test_copies_move_bytes_between_the_sides(driver: HostDriver, stream: HostStream) -> None:
    there, here, back = driver.allocate(100), driver.allocate_pinned(100), driver.allocate_pinned(100)
    here.array[:] = np.arange(100)
    driver.copy_in(there.address, here.address, 100, stream=stream)
    driver.fill(there.address + 10, 7, 5, stream=stream)
    driver.copy_out(back.address, there.address, 100, stream=stream)
    assert back.array[9:16].tolist() == [9, 7, 7, 7, 7, 7, 15]
    assert (driver.bytes_in, driver.bytes_out, driver.calls["copy"]) == (100, 100, 2)
    for block in (there, here, back):
        block.close()


def test_rows_are_copied_with_a_pitch_on_each_side(driver: HostDriver, stream: HostStream) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(4, 6)
    block, other = driver.allocate(3 * 10 + 6), driver.allocate(4 * 6)
    upload = Copy2D(
        target=block.address, target_pitch=10, source=picture.ctypes.data, source_pitch=6, width_bytes=6, height=4
    )
    driver.copy_2d_in(upload, stream=stream)
    assert block.array[10:16].tolist() == [6, 7, 8, 9, 10, 11]
    repack = Copy2D(
        target=other.address, target_pitch=6, source=block.address, source_pitch=10, width_bytes=6, height=4
    )
    driver.copy_2d(repack, stream=stream)
    assert other.array.tolist() == list(range(24))
    result = np.zeros((4, 8), dtype=np.uint8)
    download = Copy2D(
        target=result.ctypes.data, target_pitch=8, source=other.address, source_pitch=6, width_bytes=6, height=4
    )
    driver.copy_2d_out(download, stream=stream)
    assert np.array_equal(result[:, :6], picture) and not result[:, 6:].any()
    block.close()
    other.close()


def test_memory_is_limited_and_given_back(driver: HostDriver) -> None:
    assert driver.memory() == (10_000, 10_000)
    block = driver.allocate(9_000)
    with pytest.raises(OutOfDeviceMemory, match="1000 bytes free, 1001 were asked for"):
        driver.allocate(1_001)
    driver.allocate_pinned(20_000).close()  # the host's
    assert driver.memory() == (1_000, 10_000)
    block.close()
    assert driver.used_bytes == 0


def test_fresh_memory_is_aligned_and_not_a_number(driver: HostDriver) -> None:
    block = driver.allocate(40)
    assert block.address % 256 == 0 and np.isnan(block.array.view(np.float32)).all()
    block.close()


def test_what_is_captured_runs_at_every_launch_and_not_before(driver: HostDriver, stream: HostStream) -> None:
    block, other = driver.allocate(4), driver.stream()
    ran: list[str] = []

    def work() -> None:
        driver.fill(block.address, 1, 4, stream=stream)
        driver.submit(lambda: ran.append("captured"), stream=stream)
        driver.submit(lambda: ran.append("elsewhere"), stream=other)  # another stream is not captured

    graph = driver.capture(work, stream=stream)
    assert graph.nodes == 2 and ran == ["elsewhere"] and block.array[0] == 0xFF
    graph.launch(stream=other)
    graph.launch(stream=stream)
    assert ran == ["elsewhere", "captured", "captured"] and block.array.tolist() == [1] * 4
    assert driver.calls["graph"] == 2
    graph.close()
    block.close()
    other.close()


def test_waiting_and_allocating_are_not_permitted_while_capturing(driver: HostDriver, stream: HostStream) -> None:
    event = driver.event()

    def record() -> None:
        event.record(stream=stream)

    def allocate() -> None:
        driver.allocate(1)

    for work in (stream.synchronize, allocate, event.synchronize):
        with pytest.raises(EngineError, match="not permitted while this thread is capturing"):
            driver.capture(work, stream=stream)
    driver.capture(record, stream=stream).close()
    with pytest.raises(EngineError, match="recorded into a graph"):
        event.synchronize()
    event.record(stream=stream)
    event.synchronize()
    event.close()


def test_a_scripted_fault_comes_when_it_is_due(driver: HostDriver, stream: HostStream) -> None:
    driver.fail("allocate", OutOfDeviceMemory("full"), after=2)
    blocks = [driver.allocate(1), driver.allocate(1)]
    with pytest.raises(OutOfDeviceMemory, match="full"):
        driver.allocate(1)
    driver.allocate(1).close()
    driver.fail("synchronize", EngineError("an illegal address"), times=None)
    for _ in range(3):
        with pytest.raises(EngineError, match="an illegal address"):
            stream.synchronize()
    driver.fail("capture", EngineError("capture is not supported"))
    with pytest.raises(EngineError, match="capture is not supported"):
        driver.capture(lambda: None, stream=stream)
    for block in blocks:
        block.close()


def test_a_lost_device_stays_lost(driver: HostDriver, stream: HostStream) -> None:
    block = driver.allocate(8)
    driver.fail("fill", DeviceLost("the device fell off the bus"))
    with pytest.raises(DeviceLost):
        driver.fill(block.address, 0, 8, stream=stream)
    for work in (stream.synchronize, driver.event, lambda: driver.allocate(1)):
        with pytest.raises(DeviceLost, match="fell off the bus"):
            work()
    block.close()  # freeing still works, so that owners can end


def test_memory_that_was_freed_or_never_was_is_noticed(driver: HostDriver, stream: HostStream) -> None:
    block, pinned = driver.allocate(100), driver.allocate_pinned(100)
    for target, source, nbytes, complaint in (
        (block.address + 1, pinned.address, 100, "overrun .* by 1"),
        (block.address, pinned.address + 60, 41, "overrun"),
        (block.address, block.address, 10, "not pinned memory"),
        (pinned.address, pinned.address, 10, "not device memory"),
        (8, pinned.address, 10, "no device memory of this driver"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            driver.copy_in(target, source, nbytes, stream=stream)
    graph = driver.capture(lambda: driver.fill(block.address, 0, 100, stream=stream), stream=stream)
    address = block.address
    block.close()
    with pytest.raises(AssertionError, match="device, 100 bytes, closed"):
        graph.launch(stream=stream)
    assert driver.allocate(100).address != address
    with pytest.raises(AssertionError, match="closed twice"):
        block.close()
    pinned.close()
    graph.close()


def test_rows_that_overrun_a_block_are_noticed(driver: HostDriver, stream: HostStream) -> None:
    block, other = driver.allocate(100), driver.allocate(100)
    copy = Copy2D(target=block.address, target_pitch=10, source=other.address, source_pitch=12, width_bytes=5, height=9)
    with pytest.raises(AssertionError, match="overrun"):
        driver.copy_2d(copy, stream=stream)
    with pytest.raises(AssertionError, match="10 bytes, 5 bytes apart"):
        driver.copy_2d(
            Copy2D(
                target=block.address, target_pitch=5, source=other.address, source_pitch=10, width_bytes=10, height=2
            ),
            stream=stream,
        )
    block.close()
    other.close()


def test_a_write_beside_a_block_is_noticed_when_it_is_freed(driver: HostDriver) -> None:
    for offset, side in ((-1, "in front of"), (100, "behind")):
        block = driver.allocate(100)
        block._buffer[block._start + offset] = 0
        with pytest.raises(AssertionError, match=f"something wrote {side}"):
            block.close()


def test_everything_happens_inside_bound() -> None:
    driver = HostDriver()
    begin: tuple[Callable[[], object], ...] = (driver.memory, driver.stream, driver.event, lambda: driver.allocate(1))
    for work in begin:
        with pytest.raises(AssertionError, match=r"outside bound\(\)"):
            work()
    with driver.bound():
        with driver.bound():
            pass
        stream, block = driver.stream(), driver.allocate(1)
    for end in (stream.close, stream.synchronize, block.close):
        with pytest.raises(AssertionError, match=r"outside bound\(\), in thread"):
            end()
    seen: list[BaseException] = []

    def elsewhere() -> None:
        try:
            driver.fill(block.address, 0, 1, stream=stream)
        except AssertionError as exc:
            seen.append(exc)

    with driver.bound():  # of this thread, not of the other
        thread = threading.Thread(target=elsewhere, name="other")
        thread.start()
        thread.join()
        stream.close()
        block.close()
    assert "in thread other" in str(seen[0])
    driver.close()


def test_what_is_closed_is_not_used_and_what_is_open_is_named(driver: HostDriver) -> None:
    stream, event = driver.stream(), driver.event()
    with pytest.raises(AssertionError, match=r"closed before \[HostStream\(1, open\), HostEvent\(2, open\)\]"):
        driver.close()
    graph = driver.capture(lambda: None, stream=stream)
    for owned in (graph, event, stream):
        owned.close()
        with pytest.raises(AssertionError, match="closed twice"):
            owned.close()
    for work in (stream.synchronize, event.synchronize, lambda: graph.launch(stream=stream)):
        with pytest.raises(AssertionError, match="closed"):
            work()
    driver.close()
    driver.close()


def test_kernels_are_checked_for_their_names_and_parameters(driver: HostDriver, stream: HostStream) -> None:
    module = load_kernels(driver)
    with pytest.raises(EngineError, match="no kernel sharpen"):
        module.kernel("sharpen", "P")
    with pytest.raises(AssertionError, match="kernel begin takes Pi, it was asked for with PP"):
        module.kernel("begin", "PP")
    begin = module.kernel("begin", "Pi")
    with pytest.raises(AssertionError, match="begin takes 2 arguments, not 1"):
        begin.launch((1, 1, 1), (1, 1, 1), (0,), stream=stream)
    with pytest.raises(AssertionError, match="no device or pinned memory of this driver"):
        begin.launch((1, 1, 1), (1, 1, 1), (64, 1), stream=stream)
    with pytest.raises(EngineError, match="an image of 3 bytes is no fatbin"):
        driver.load_module(b"ELF")
    assert driver.load_module(FATBIN_MAGIC) is not None
    driver.fail("launch", EngineError("launch failed"))
    with pytest.raises(EngineError, match="launch failed"):
        begin.launch((1, 1, 1), (1, 1, 1), (0, 0), stream=stream)
