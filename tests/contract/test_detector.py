"""What every detector does, whatever it runs on. A new backend adds one entry to `SUBJECTS`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.backends.synthetic.detector import SyntheticDetector
from app.backends.synthetic.source import SyntheticSurface
from app.errors import EngineError
from app.inference.detector import Detector
from app.types import Detections, Frame, Surface
from tests.support.fakes import make_times
from tests.support.onnx_models import bright_cells, saved

SIZES = ((64, 64), (128, 64), (48, 96), (320, 180))


@dataclass(frozen=True)
class Subject:
    """A detector, and pictures for it with at least one thing to find in each."""

    detector: Detector[Any]
    picture: Callable[[int, int], Surface]  # by width and height

    def frames(self, count: int) -> list[Frame[Any]]:
        """Frames of mixed sizes from as many cameras."""
        return [
            Frame(
                camera_id=f"camera-{number}",
                seq=100 + number,
                pts_s=number / 10,
                times=make_times(float(number)),
                surface=self.picture(*SIZES[number % len(SIZES)]),
            )
            for number in range(count)
        ]

    async def detect(self, frames: Sequence[Frame[Any]], floor: float = 0.25) -> list[Detections]:
        return await self.detector.detect(frames, min_scores=[floor] * len(frames))


def _synthetic(_directory: Path) -> Subject:
    return Subject(SyntheticDetector(), lambda width, height: SyntheticSurface(width, height, 0.0))


def _cpu(directory: Path) -> Subject:
    from app.backends.cpu.detector import open_cpu_detector
    from app.backends.ffmpeg.surface import HostSurface

    def picture(width: int, height: int) -> HostSurface:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[height // 4 :, : width // 2] = (255, 0, 0)  # bright cells in the lower left, at any size
        return HostSurface.from_bgr(image)

    model = saved(bright_cells(), directory / "cells.onnx")
    return Subject(open_cpu_detector(str(model), directory, contexts=2, tune=False), picture)


def _cuda_on_host(directory: Path) -> Subject:
    """The CUDA backend's detector: its own kernels, compiled for the host, and OpenVINO in TensorRT's place."""
    from tests.support.host_detector import HostCuda

    cuda = HostCuda(saved(bright_cells(), directory / "cells.onnx"))

    def picture(width: int, height: int) -> Surface:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[height // 4 :, : width // 2] = (255, 0, 0)
        return cuda.upload(image)

    return Subject(cuda.open(), picture)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "synthetic": _synthetic,
    "cpu": _cpu,
    "cuda on host kernels": _cuda_on_host,
}


@pytest.fixture(params=SUBJECTS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    made = await asyncio.to_thread(SUBJECTS[request.param], tmp_path)
    yield made
    await made.detector.aclose()


def _same(one: Detections, other: Detections) -> bool:
    return (
        np.allclose(one.boxes, other.boxes, atol=1e-2)
        and np.allclose(one.scores, other.scores, atol=1e-4)
        and np.array_equal(one.class_ids, other.class_ids)
    )


async def test_info_says_what_a_user_asks_first(subject: Subject) -> None:
    info = subject.detector.info
    assert info.model and len(info.sha256) == 64 and info.family and info.backend and info.precision and info.device
    assert info.input_width > 0 and info.input_height > 0 and info.classes and info.contexts >= 1
    assert 1 <= info.best_batch <= info.max_batch == 16


@pytest.mark.parametrize("count", [1, 3, 16])
async def test_every_frame_gets_its_own_result_in_order(subject: Subject, count: int) -> None:
    frames = subject.frames(count)
    results = await subject.detect(frames)
    for frame, result in zip(frames, results, strict=True):
        assert (result.camera_id, result.seq, result.pts_s) == (frame.camera_id, frame.seq, frame.pts_s)
        assert (result.width, result.height) == (frame.surface.width, frame.surface.height)
        assert result.times is frame.times


async def test_boxes_have_the_promised_shapes_and_lie_in_the_frame(subject: Subject) -> None:
    for result in await subject.detect(subject.frames(4)):
        count = len(result)
        assert count >= 1
        assert result.boxes.shape == (count, 4) and result.scores.shape == result.class_ids.shape == (count,)
        assert result.boxes.dtype == result.scores.dtype == np.float32 and result.class_ids.dtype == np.int32
        assert (result.boxes >= 0).all()
        assert (result.boxes[:, 2] <= result.width).all() and (result.boxes[:, 3] <= result.height).all()
        assert (result.boxes[:, :2] < result.boxes[:, 2:]).all()
        assert (result.class_ids < len(subject.detector.info.classes)).all() and (result.class_ids >= 0).all()


async def test_the_best_score_comes_first(subject: Subject) -> None:
    for result in await subject.detect(subject.frames(4), floor=0.001):
        assert (np.diff(result.scores) <= 0).all()


async def test_each_frame_has_its_own_score_floor(subject: Subject) -> None:
    frames = subject.frames(3)
    low, high, middle = await subject.detector.detect(frames, min_scores=[0.25, 1.01, 0.25])
    assert len(low) >= 1 and len(high) == 0 and len(middle) >= 1
    assert high.boxes.shape == (0, 4)


async def test_a_frame_gives_the_same_boxes_in_any_batch(subject: Subject) -> None:
    frames = subject.frames(16)
    alone = [(await subject.detect([frame]))[0] for frame in frames]
    for size in (3, 16):
        for start in range(0, len(frames), size):
            together = await subject.detect(frames[start : start + size])
            assert all(map(_same, together, alone[start : start + size]))


async def test_stage_times_are_measured(subject: Subject) -> None:
    (result,) = await subject.detect(subject.frames(1))
    assert result.stages.infer_s > 0
    assert result.stages.preprocess_s >= 0 and result.stages.postprocess_s >= 0


async def test_surfaces_stay_the_callers(subject: Subject) -> None:
    frames = subject.frames(2)
    await subject.detect(frames)
    assert all(frame.surface.to_bgr().shape == (frame.surface.height, frame.surface.width, 3) for frame in frames)


async def test_more_batches_than_contexts_all_get_done(subject: Subject) -> None:
    frames = subject.frames(4)
    count = 3 * subject.detector.info.contexts
    results = await asyncio.gather(*(subject.detect(frames) for _ in range(count)))
    assert len(results) == count
    assert all(_same(one, other) for batch in results for one, other in zip(batch, results[0], strict=True))


async def test_a_cancelled_batch_leaves_the_detector_working(subject: Subject) -> None:
    task = asyncio.create_task(subject.detect(subject.frames(8)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await subject.detect(subject.frames(2))) == 2


async def test_closing_twice_is_closing_once(subject: Subject) -> None:
    await subject.detector.aclose()
    await subject.detector.aclose()


async def test_closing_waits_for_the_batch_in_flight(subject: Subject) -> None:
    task = asyncio.create_task(subject.detect(subject.frames(8)))
    await asyncio.sleep(0)
    await subject.detector.aclose()
    assert len(await task) == 8


# What only a detector with pixels and threads of its own can show


async def test_a_closed_cpu_detector_refuses_and_has_no_threads(tmp_path: Path) -> None:
    subject = await asyncio.to_thread(_cpu, tmp_path)
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("cpu-detector")}
    assert len(threads) == subject.detector.info.contexts == 2
    await subject.detector.aclose()
    for thread in threads:
        await asyncio.to_thread(thread.join, 5.0)
        assert not thread.is_alive()
    with pytest.raises(EngineError, match="closed"):
        await subject.detect(subject.frames(1))
