"""The CUDA backend put together: who opens the device, what a failure leaves, when everything goes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.backends.base import OnProgress
from app.backends.cuda.backend import CudaBackend, Libraries
from app.backends.cuda.driver import Driver, OutOfDeviceMemory
from app.backends.cuda.engine_file import EngineFile, Identity
from app.backends.cuda.nvml import GpuSampler
from app.cameras.source import SourceRequest
from app.errors import BackendUnavailable, Cancelled, EngineError, ModelError
from app.inference.model import ModelSpec, read_onnx
from app.settings import Settings
from app.types import Frame, SourceFrame
from tests.support.clips import write_test_clip
from tests.support.host_driver import HostDriver
from tests.support.host_engine import HostEngine
from tests.support.onnx_models import bright_cells, saved
from tests.support.wait import wait_until


class Bench:
    """Everything that the backend opens, on host memory; `refuse` is raised by the step that it names."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.spec: ModelSpec = read_onnx(model)
        self.directory = directory
        self.drivers: list[HostDriver] = []
        self.engines: list[HostEngine] = []
        self.refuse: dict[str, Exception] = {}
        self.memory_bytes = 1 << 30

    def backend(self, **settings: Any) -> CudaBackend:
        backend = {"device": "cuda", "decoder": "software", "contexts": 2, **settings.pop("backend", {})}
        batching = {"max_size": 4, **settings.pop("batching", {})}
        made = Settings(data_dir=self.directory / "data", backend=backend, batching=batching, **settings)
        return CudaBackend(
            made,
            Libraries(
                open_driver=self._open_driver,
                find_engine=self._find_engine,
                load_engine=self._load_engine,
                open_nvml=lambda _gpu: GpuSampler(()),
            ),
        )

    @property
    def driver(self) -> HostDriver:
        (driver,) = self.drivers
        return driver

    def _step(self, name: str) -> None:
        if name in self.refuse:
            raise self.refuse[name]

    def _open_driver(self, index: int) -> Driver:
        self._step("driver")
        self.drivers.append(HostDriver(memory_bytes=self.memory_bytes))
        return self.drivers[-1]

    def _find_engine(self, settings: Settings, driver: Driver, on_progress: OnProgress) -> EngineFile:
        on_progress("building the engine: 50 %")
        self._step("find")
        identity = Identity(
            model_sha256=self.spec.sha256,
            runtime="tensorrt",
            runtime_version="10.16.1",
            gpu=driver.name,
            compute_capability="9.0",
            precision="fp16",
            min_batch=1,
            opt_batch=4,
            max_batch=4,
            input_width=self.spec.input_width,
            input_height=self.spec.input_height,
        )
        path = self.directory / "cells.engine"
        return EngineFile(path=path, identity=identity, spec=self.spec, sha256="0" * 64, nbytes=1, notes=("checked",))

    def _load_engine(self, file: EngineFile, driver: Driver) -> HostEngine:
        self._step("load")
        assert isinstance(driver, HostDriver)
        self.engines.append(HostEngine(file.spec, driver, max_batch=4))
        return self.engines[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(saved(bright_cells(), tmp_path / "cells.onnx"), tmp_path)
    yield bench
    assert all(not driver.left_open for driver in bench.drivers)
    assert all(engine.closed for engine in bench.engines)


async def test_a_detector_is_opened_told_about_and_closed(bench: Bench) -> None:
    said: list[str] = []
    backend = bench.backend()
    detector = await asyncio.to_thread(backend.open_detector, said.append)
    info = detector.info
    assert (info.backend, info.precision, info.device, info.contexts) == ("tensorrt", "fp16", "host memory", 2)
    assert (info.max_batch, info.best_batch) == (4, 4) and "checked" in info.notes
    assert said[:2] == ["building the engine: 50 %", "loading cells.engine"] and "making 2 contexts" in said
    await detector.aclose()
    await wait_until(lambda: bench.engines[0].closed and not bench.driver.left_open)


async def test_pictures_of_a_camera_are_detected_on_the_same_device(bench: Bench) -> None:
    clip = bench.directory / "clip.mp4"
    await asyncio.to_thread(write_test_clip, clip, seconds=0.8)
    backend = bench.backend(media_dir=bench.directory)
    detector = await asyncio.to_thread(backend.open_detector)

    def read() -> list[SourceFrame[Any]]:
        request = SourceRequest(camera_id="gate-1", url=f"file://{clip}", media_dir=bench.directory)
        source = backend.open_source(request)
        with contextlib.closing(source):
            return list(itertools.islice(source.frames(), 3))

    taken = await asyncio.to_thread(read)
    frames = [
        Frame(camera_id="gate-1", seq=number, pts_s=frame.pts_s, times=frame.times, surface=frame.surface)
        for number, frame in enumerate(taken)
    ]
    results = await detector.detect(frames, min_scores=[0.25] * len(frames))
    assert [result.seq for result in results] == [0, 1, 2] and len(bench.drivers) == 1
    for frame in frames:
        frame.surface.release()
    await detector.aclose()
    await wait_until(lambda: bench.engines[0].closed and not bench.driver.left_open)


@pytest.mark.parametrize(
    ("step", "error", "raised"),
    [
        ("driver", EngineError("opening the device failed: no"), BackendUnavailable),
        ("find", ModelError("model cells has no outputs"), ModelError),
        ("find", BackendUnavailable("tensorrt", "TensorRT is not installed"), BackendUnavailable),
        ("load", EngineError("loading the engine failed: no"), BackendUnavailable),
        ("load", OutOfDeviceMemory("out of memory"), BackendUnavailable),
    ],
)
def test_what_fails_while_opening_is_a_sentence_and_leaves_nothing(
    bench: Bench, step: str, error: Exception, raised: type[Exception]
) -> None:
    bench.refuse[step] = error
    backend = bench.backend()
    with pytest.raises(raised, match=str(error)):
        backend.open_detector()
    bench.refuse.clear()
    assert all(not driver.left_open for driver in bench.drivers)


def test_a_device_that_fails_after_the_detector_opened_closes_it(bench: Bench) -> None:
    backend = bench.backend()

    def on_progress(sentence: str) -> None:
        if sentence.startswith("measuring"):  # the last question of the detector's own, then the budget's
            bench.driver.fail("memory", EngineError("asking failed: no"), after=1)

    with pytest.raises(BackendUnavailable, match="asking failed"):
        backend.open_detector(on_progress)
    assert not bench.driver.left_open and bench.engines[0].closed


def test_a_device_without_room_for_two_contexts_says_how_much_it_wanted(bench: Bench) -> None:
    bench.memory_bytes = 750_000
    with pytest.raises(BackendUnavailable, match=r"context 2 cannot have .* of device memory for its .* are free"):
        bench.backend().open_detector()
    assert not bench.driver.left_open


@pytest.mark.parametrize("word", ["building", "loading", "making", "measuring"])
def test_opening_that_nobody_waits_for_any_more_leaves_nothing(bench: Bench, word: str) -> None:
    def on_progress(sentence: str) -> None:
        if sentence.startswith(word):
            raise Cancelled("the service is stopping")

    with pytest.raises(Cancelled):
        bench.backend().open_detector(on_progress)
    assert not bench.driver.left_open


async def test_the_budget_for_frames_is_what_was_written_down_or_half_of_what_is_free(bench: Bench) -> None:
    def limits(**wanted: Any) -> int:
        backend = bench.backend(backend=wanted)
        backend.open_source(SourceRequest(camera_id="gate-1", url="rtsp://192.0.2.1/live"))
        video = backend._video
        assert video is not None
        limit: int = video.pool._budget.limit  # type: ignore[attr-defined]
        backend._close_device()
        return limit

    assert await asyncio.to_thread(limits) == 1 << 29
    assert await asyncio.to_thread(limits, memory_budget_mib=64) == 64 << 20


def test_a_gpu_is_sampled_until_the_device_is_closed(bench: Bench) -> None:
    backend = bench.backend()
    assert backend.gpus() == ()
    backend._close_device()
    assert backend.gpus() == ()
    backend._close_device()


def test_the_probe_answers_for_this_machine_without_opening_anything(bench: Bench) -> None:
    answer = bench.backend().probe()
    assert answer.name == "cuda" and answer.reason and not bench.drivers
