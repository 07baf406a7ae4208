"""Device memory for pictures: bounded, within the budget, and freed whoever gives it back last."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.ring import RingSlot, SurfacePool, SurfaceRing
from app.errors import EngineError
from tests.support.host_driver import HostDriver

SIZE = 1000


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver(memory_bytes=1 << 20)


@pytest.fixture
def budget() -> MemoryBudget:
    return MemoryBudget(100 * SIZE)


@pytest.fixture
def pool(driver: HostDriver, budget: MemoryBudget) -> SurfacePool:
    return SurfacePool(driver, budget)


def take(ring: SurfaceRing, count: int, nbytes: int = SIZE) -> list[RingSlot]:
    slots = [ring.acquire(nbytes) for _ in range(count)]
    taken = [slot for slot in slots if slot is not None]
    assert len(taken) == count
    return taken


def test_slots_are_made_when_they_are_needed_and_used_again(
    driver: HostDriver, budget: MemoryBudget, pool: SurfacePool
) -> None:
    with driver.bound():
        ring = pool.ring(slots=3)
        assert driver.used_bytes == 0
        first, second = take(ring, 2)
        assert (driver.used_bytes, budget.used) == (2 * SIZE, 2 * SIZE)
        first.release()
        assert ring.acquire(SIZE) is first
        first.release()
        second.release()
        ring.close()
        ring.close()
    assert (driver.left_open, budget.used) == ([], 0)


def test_a_full_ring_drops_the_picture_and_counts_it(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=2, wait_s=0.01)
        other = pool.ring(slots=1, wait_s=0.01)
        slots = take(ring, 2) + take(other, 1)
        assert ring.acquire(SIZE) is None
        assert other.acquire(SIZE) is None
        assert (ring.ring_full, other.ring_full, pool.ring_full) == (1, 1, 2)
        for slot in slots:
            slot.release()
        assert ring.acquire(SIZE) is not None


def test_a_slot_that_comes_back_in_time_is_waited_for(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=1, wait_s=10)
        (slot,) = take(ring, 1)
        timer = threading.Timer(0.02, slot.release)
        timer.start()
        assert ring.acquire(SIZE) is slot
        timer.join()
        assert ring.ring_full == 0


def test_a_new_picture_size_frees_the_old_slots_as_they_come_back(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=3, wait_s=0.01)
        old = take(ring, 3)
        old[0].release()
        (new,) = take(ring, 1, 2 * SIZE)
        assert new.nbytes == 2 * SIZE
        assert driver.used_bytes == 4 * SIZE
        assert ring.acquire(2 * SIZE) is None, "old pictures that are still out count"
        old[1].release()
        old[2].release()
        take(ring, 2, 2 * SIZE)
        assert driver.used_bytes == 6 * SIZE


def test_the_wait_ends_with_an_old_slot_too(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=1, wait_s=10)
        (old,) = take(ring, 1)
        timer = threading.Timer(0.02, old.release)
        timer.start()
        take(ring, 1, 2 * SIZE)
        timer.join()
        assert driver.used_bytes == 2 * SIZE


def test_surfaces_outlive_their_camera_and_another_ring_frees_them(
    driver: HostDriver, budget: MemoryBudget, pool: SurfacePool
) -> None:
    with driver.bound():
        gone, other = pool.ring(slots=2), pool.ring(slots=2)
        first, second = take(gone, 2)
        first.release()
        gone.close()
        assert driver.used_bytes == SIZE
        released = threading.Thread(target=second.release)  # which needs no device: it is not inside `bound`
        released.start()
        released.join()
        assert driver.used_bytes == SIZE
        (slot,) = take(other, 1)
        assert (driver.used_bytes, budget.used) == (SIZE, SIZE)
        slot.release()
        other.close()
    assert (driver.left_open, budget.used) == ([], 0)


def test_the_pool_frees_what_came_back_last(driver: HostDriver, budget: MemoryBudget, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=2)
        (slot,) = take(ring, 1)
        ring.close()
    slot.release()
    pool.close()
    assert (driver.left_open, budget.used) == ([], 0)


async def test_giving_back_does_not_block_an_event_loop(driver: HostDriver, pool: SurfacePool) -> None:
    def make() -> tuple[SurfaceRing, list[RingSlot]]:
        with driver.bound():
            ring = pool.ring(slots=2)
            return ring, take(ring, 2)

    ring, slots = await asyncio.to_thread(make)
    for slot in slots:
        slot.release()
    before = driver.calls.copy()
    await asyncio.to_thread(_close, driver, ring)
    assert before["allocate"] == 2
    assert driver.left_open == []


def _close(driver: HostDriver, ring: SurfaceRing) -> None:
    with driver.bound():
        ring.close()


def test_a_camera_without_room_is_refused_and_the_others_go_on(driver: HostDriver) -> None:
    pool = SurfacePool(driver, MemoryBudget(5 * SIZE))
    with driver.bound():
        first, second, third = (pool.ring(slots=4, wait_s=0.01) for _ in range(3))
        slots = take(first, 2) + take(second, 3)
        with pytest.raises(OutOfDeviceMemory, match="budget"):
            third.acquire(SIZE)
        assert first.acquire(SIZE) is None, "it has enough to go on with"
        slots[0].release()
        assert first.acquire(SIZE) is slots[0]
        assert driver.used_bytes == 5 * SIZE


def test_an_allocation_that_the_device_refuses_is_no_loss_of_budget(
    driver: HostDriver, budget: MemoryBudget, pool: SurfacePool
) -> None:
    driver.fail("allocate", OutOfDeviceMemory("full"))
    with driver.bound():
        ring = pool.ring(slots=2)
        with pytest.raises(OutOfDeviceMemory):
            ring.acquire(SIZE)
        assert budget.used == 0
        take(ring, 2)
        assert budget.used == 2 * SIZE


def test_an_error_of_the_device_is_no_lack_of_memory(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=4)
        take(ring, 2)
        driver.fail("allocate", EngineError("broken"))
        with pytest.raises(EngineError, match="broken"):
            ring.acquire(SIZE)


def test_its_repr_is_its_state(driver: HostDriver, pool: SurfacePool) -> None:
    with driver.bound():
        ring = pool.ring(slots=3)
        take(ring, 1)
        assert repr(ring) == "SurfaceRing(1 of 3 slots)"
