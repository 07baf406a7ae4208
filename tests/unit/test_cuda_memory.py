"""Blocks that are freed together, the budget for decoded frames, and what CUDA's errors mean."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.faults import device_error
from app.backends.cuda.memory import Blocks, MemoryBudget
from app.errors import DeviceLost, EngineError
from tests.support.host_driver import HostDriver

MIB = 1 << 20


def test_blocks_are_freed_together() -> None:
    driver = HostDriver()
    with driver.bound():
        with Blocks(driver, owner="context 1") as blocks:
            first, second = blocks.device(100, "input"), blocks.device(200, "output")
            pinned = blocks.pinned(300, "results")
            assert first != second and len(pinned.array) == 300
            assert blocks.nbytes == driver.used_bytes == 300
            assert len(driver.left_open) == 3
        assert not driver.left_open and blocks.nbytes == 0
        blocks.close()


def test_memory_that_is_refused_in_the_middle_frees_what_came_before() -> None:
    driver = HostDriver(memory_bytes=3 * MIB)
    with driver.bound():
        with pytest.raises(OutOfDeviceMemory) as caught, Blocks(driver, owner="context 2") as blocks:
            blocks.device(2 * MIB, "input")
            blocks.pinned(64, "results")
            blocks.device(2 * MIB, "outputs")
        assert not driver.left_open
    assert str(caught.value) == (
        "context 2 cannot have 2.0 MiB of device memory for its outputs: 1.0 MiB of the device's 3.0 MiB are free"
    )


def test_page_locked_memory_that_is_refused_says_so() -> None:
    driver = HostDriver()
    driver.fail("allocate_pinned", OutOfDeviceMemory("cuMemHostAlloc failed: out of memory"))
    with driver.bound():
        with pytest.raises(OutOfDeviceMemory, match=r"512 bytes of page-locked host memory for its table"):
            Blocks(driver, owner="context 1").pinned(512, "table")
        assert not driver.left_open


def test_a_block_that_cannot_be_freed_does_not_keep_the_others() -> None:
    freed = []

    class Block:
        address, nbytes = 1, 10

        def __init__(self, number: int) -> None:
            self.number = number

        def close(self) -> None:
            freed.append(self.number)
            if self.number == 2:
                raise DeviceLost("gone")

    class Driver(HostDriver):
        count = 0

        def allocate(self, nbytes: int) -> Block:  # type: ignore[override]
            self.count += 1
            return Block(self.count)

    blocks = Blocks(Driver(), owner="context 1")
    for _ in range(3):
        blocks.device(10, "something")
    with pytest.raises(DeviceLost):
        blocks.close()
    assert freed == [3, 2, 1]


def test_the_budget_is_taken_and_given_back() -> None:
    budget = MemoryBudget(10 * MIB)
    budget.reserve(6 * MIB)
    budget.reserve(4 * MIB)
    assert (budget.used, budget.limit) == (10 * MIB, 10 * MIB)
    budget.release(6 * MIB)
    budget.reserve(5 * MIB)
    assert budget.used == 9 * MIB
    assert repr(budget) == "MemoryBudget(9437184 of 10485760 bytes)"


def test_a_budget_that_is_spent_says_what_is_left_and_takes_nothing() -> None:
    budget = MemoryBudget(10 * MIB)
    budget.reserve(7 * MIB)
    with pytest.raises(OutOfDeviceMemory) as caught:
        budget.reserve(4 * MIB)
    assert str(caught.value) == (
        "decoded frames need 4.0 MiB more of device memory, and of their budget of 10.0 MiB only 3.0 MiB are left"
    )
    assert budget.used == 7 * MIB


def test_a_budget_takes_back_no_more_than_it_gave() -> None:
    budget = MemoryBudget(100)
    budget.reserve(10)
    for nbytes in (11, -1):
        with pytest.raises(ValueError, match=f"{nbytes} bytes are given back, but only 10 are reserved"):
            budget.release(nbytes)
    with pytest.raises(ValueError, match="cannot be -5"):
        budget.reserve(-5)
    with pytest.raises(ValueError, match="cannot be -1 bytes"):
        MemoryBudget(-1)


def test_threads_never_take_more_than_the_budget_together() -> None:
    budget = MemoryBudget(1000)
    most = []

    def camera(seed: int) -> int:
        chance, refused = random.Random(seed), 0
        for _ in range(300):
            nbytes = chance.randrange(1, 400)
            try:
                budget.reserve(nbytes)
            except OutOfDeviceMemory:
                refused += 1
                continue
            most.append(budget.used)
            budget.release(nbytes)
        return refused

    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="camera-test") as pool:
        list(pool.map(camera, range(8)))
    assert budget.used == 0 and max(most) <= 1000


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("cuMemAlloc failed: out of memory", None, OutOfDeviceMemory),
        ("out of memory", 2, OutOfDeviceMemory),
        ("cuEventSynchronize failed: an illegal memory access was encountered", None, DeviceLost),
        ("cuStreamSynchronize failed: unspecified launch failure", None, DeviceLost),
        ("cuMemcpyHtoDAsync failed: uncorrectable ECC error encountered", None, DeviceLost),
        ("cuLaunchKernel failed: context is destroyed", None, DeviceLost),
        ("Cuda failure: CUDA-capable device? no CUDA-capable device is detected", None, DeviceLost),
        ("anything", 719, DeviceLost),
        ("cuLaunchKernel failed: too many resources requested for launch", None, EngineError),
        ("an illegal memory access was encountered", 1, EngineError),  # the number is what counts
        ("cuModuleLoadDataEx failed: no kernel image is available for execution on the device", None, EngineError),
    ],
)
def test_an_error_means_what_cuda_says(text: str, code: int | None, kind: type[EngineError]) -> None:
    error = device_error("waiting for the device", text, code=code)
    assert type(error) is kind
    assert "waiting for the device" in str(error) and text in str(error)
