"""The CUDA side of a profile on host memory: every piece of a batch has its own stage and its own device time."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from app.backends.cuda.pictures import PICTURE
from app.backends.cuda.slab import IMAGE_BYTES
from app.commands.progress import Progress
from app.measure.profile.cuda import CountedDriver, open_cuda
from app.measure.profile.memory import MemoryTimeline
from app.measure.profile.session import Opened, Wishes, measure_device
from app.measure.profile.spans import Recorder
from app.settings import Settings
from tests.support.clips import write_test_clip
from tests.support.host_backend import host_libraries
from tests.support.host_driver import HostDriver
from tests.support.onnx_models import bright_cells, saved

FRAMES, BATCH = 12, 3
ON_DEVICE = {"host to device", "preprocess", "infer", "postprocess", "device to host"}
ON_HOST = {"read", "decode", "hand-over", "picture table", "wait", "read results", "publish"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def driver() -> HostDriver:
    return HostDriver()


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def memory() -> MemoryTimeline:
    return MemoryTimeline()


@pytest.fixture(scope="module")
def opened(folder: Path, driver: HostDriver, recorder: Recorder, memory: MemoryTimeline) -> Opened:
    settings = Settings.model_validate(
        {
            "data_dir": folder / "data",
            "model": str(saved(bright_cells(), folder / "model.onnx")),
            "backend": {"device": "cuda", "decoder": "software", "contexts": 2},
        }
    )
    wishes = Wishes(
        clip=write_test_clip(folder / "clip.mp4", seconds=1.0),
        folder=folder,
        seconds=0.05,
        budget_ms=1000.0,
        frames=FRAMES,
        cameras=BATCH,
        batch=BATCH,
    )
    opener = partial(open_cuda, libraries=host_libraries(driver))
    with memory:
        return measure_device(settings, wishes, Progress(), memory, recorder, opener)


def test_every_stage_of_the_device_is_timed_by_its_events(opened: Opened) -> None:
    costs = {cost.stage: cost for cost in opened.costs}
    assert set(costs) == ON_DEVICE | ON_HOST
    for stage in ON_DEVICE:
        cost = costs[stage]
        assert cost.device_ms is not None and cost.efficiency is not None
        assert 0 < cost.device_ms <= cost.mean_ms
        assert cost.verdict in ("GPU OPTIMIZED", "MIXED", "CPU BOTTLENECK")
        assert cost.device_clock == "CUDA events"
    for stage in ON_HOST:
        assert (costs[stage].device_ms, costs[stage].verdict) == (None, None)


def test_every_batch_goes_through_every_stage_once(opened: Opened, recorder: Recorder) -> None:
    batches = FRAMES // BATCH
    assert (opened.run.frames, opened.run.batches) == (FRAMES, batches)
    calls = Counter(span.stage for span in recorder.spans)
    for stage in ("picture table", "host to device", "preprocess", "infer", "device to host", "wait", "read results"):
        assert calls[stage] == batches, stage
    assert calls["postprocess"] == 3 * batches  # its kernels
    assert calls["publish"] == FRAMES


def test_copies_tell_their_bytes(opened: Opened) -> None:
    assert opened.run.moved["host to device"] == FRAMES * PICTURE.itemsize
    assert opened.run.moved["device to host"] == FRAMES * IMAGE_BYTES


def test_the_sweep_runs_the_contexts_as_the_service_has_them(opened: Opened, driver: HostDriver) -> None:
    assert [row.batch for row in opened.rows] == [1, 2, 4, 8, 12, 16]
    assert {row.contexts for row in opened.rows} == {2}
    assert driver.calls["graph"] > 0


def test_device_memory_is_in_the_timeline(opened: Opened, memory: MemoryTimeline) -> None:
    seen = [sample.device for sample in memory.samples if sample.device is not None]
    assert any(reading.allocated_bytes > 0 for reading in seen)
    assert all(reading.reserved_bytes >= reading.allocated_bytes for reading in seen)


def test_the_device_is_left_as_it_was(opened: Opened, driver: HostDriver) -> None:
    assert not driver.left_open


def test_allocations_are_counted_until_they_are_freed() -> None:
    driver = HostDriver()
    with driver.bound():
        counted = CountedDriver(driver)
        block = counted.allocate(1000)
        assert counted.reading().allocated_bytes == 1000
        assert counted.reading().reserved_bytes == 1000
        assert (block.nbytes, block.address) == (1000, block.address)
        block.close()
    assert counted.reading().allocated_bytes == 0
    assert not driver.left_open
