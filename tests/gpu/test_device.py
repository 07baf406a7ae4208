"""The project's kernels and its device layer on a real GPU, against the same sources compiled for the host."""

from __future__ import annotations

import numpy as np
import pytest

from app.backends.cuda.driver import Driver
from app.backends.cuda.kernels import load_kernels
from app.backends.cuda.memory import Blocks
from app.errors import EngineError

pytestmark = pytest.mark.gpu

BYTES = 1 << 20


def test_memory_goes_in_and_comes_back(driver: Driver) -> None:
    with Blocks(driver, owner="a test") as blocks:
        there, back = blocks.pinned(BYTES, "data"), blocks.pinned(BYTES, "data")
        there.array[:] = np.random.default_rng(1).integers(0, 256, BYTES, dtype=np.uint8)
        device, stream = blocks.device(BYTES, "data"), driver.stream()
        driver.copy_in(device, there.address, BYTES, stream=stream)
        driver.copy_out(back.address, device, BYTES, stream=stream)
        stream.synchronize()
        assert np.array_equal(there.array, back.array)
        stream.close()


def test_the_shipped_kernels_load_on_this_gpu(driver: Driver) -> None:
    module = load_kernels(driver)
    module.kernel("letterbox_f16", f"PPii{'f' * 7}")
    with pytest.raises(EngineError, match="no_such_kernel"):
        module.kernel("no_such_kernel", "P")


def test_a_graph_holds_what_was_queued_and_repeats_it(driver: Driver) -> None:
    with Blocks(driver, owner="a test") as blocks:
        back, device, stream = blocks.pinned(BYTES, "data"), blocks.device(BYTES, "data"), driver.stream()

        def work() -> None:
            driver.fill(device, 7, BYTES, stream=stream)
            driver.copy_out(back.address, device, BYTES, stream=stream)

        graph = driver.capture(work, stream=stream)
        assert graph.nodes == 2
        for _ in range(3):
            back.array[:] = 0
            graph.launch(stream=stream)
            stream.synchronize()
            assert (back.array == 7).all()
        graph.close()
        stream.close()


def test_nothing_captured_is_an_error_not_an_empty_graph(driver: Driver) -> None:
    stream = driver.stream()
    with pytest.raises(EngineError, match="nothing was captured"):
        driver.capture(lambda: None, stream=stream)
    stream.close()


def test_memory_that_is_not_there_is_refused_with_numbers(driver: Driver) -> None:
    free, total = driver.memory()
    assert 0 < free <= total
    with Blocks(driver, owner="a test") as blocks, pytest.raises(EngineError, match="a test"):
        blocks.device(2 * total, "far too much")
    assert driver.memory()[0] >= free - (64 << 20)
