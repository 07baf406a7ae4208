"""Real models through the CUDA backend's detector: its own kernels, compiled for the host, around OpenVINO.

What is proven is everything of the CUDA path but the device and TensorRT: letterbox, colours, decoding, NMS, batching.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.cuda.detector import CudaDetector, Plan
from app.backends.cuda.surface import CudaSurface
from app.backends.ffmpeg.surface import HostSurface
from app.inference.model import read_onnx
from app.inference.nms import iou_matrix
from app.types import Detections, EngineInfo, Frame
from scripts.evaluate import evaluate
from tests.support.device_surfaces import upload, upload_bgr
from tests.support.fakes import make_times
from tests.support.host_detector import HostCuda

ASSETS = Path(os.environ.get("VIDETTE_ASSETS", ""))
pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif("VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS is not set"),
]
PHOTOS = ASSETS / "images" / "coco_by27"
# COCO AP@[.5:.95] of the reference implementations on the same 27 photos.
REFERENCE_AP = {
    "yolox_nano_416": 0.347,
    "nanodet_m_320": 0.286,
    "yolov8n_640_dyn": 0.454,
    "yolov10n_640_dyn": 0.509,
    "light_person_detector_yolox": 0.299,
}
FLOOR = 0.25
VIDEOS = ("intel_one-by-one-person-detection", "retail02_1080p30_h264")


class Uploading:
    """A `Detector[HostSurface]` that puts every picture into the device's memory first, and takes it out again."""

    def __init__(self, cuda: HostCuda, detector: CudaDetector, put: Callable[[HostSurface], CudaSurface]) -> None:
        self._cuda = cuda
        self._detector = detector
        self._put = put

    @property
    def info(self) -> EngineInfo:
        return self._detector.info

    async def detect(self, frames: Sequence[Frame[HostSurface]], *, min_scores: Sequence[float]) -> list[Detections]:
        surfaces = await asyncio.to_thread(lambda: [self._put(frame.surface) for frame in frames])
        try:
            return await self._detector.detect(
                [
                    Frame(camera_id=f.camera_id, seq=f.seq, pts_s=f.pts_s, times=f.times, surface=surface)
                    for f, surface in zip(frames, surfaces, strict=True)
                ],
                min_scores=min_scores,
            )
        finally:
            for surface in surfaces:
                surface.release()

    async def aclose(self) -> None:
        await self._detector.aclose()


async def opened(name: str, put: Callable[[HostSurface, HostCuda], CudaSurface], *, max_batch: int = 4) -> Uploading:

    def open_() -> Uploading:
        cuda = HostCuda(read_onnx(ASSETS / "models" / f"{name}.onnx"), max_batch=max_batch)
        detector = cuda.open(Plan(contexts=1, batch=max_batch, tune=False))
        return Uploading(cuda, detector, lambda surface: put(surface, cuda))

    return await asyncio.to_thread(open_)


def as_bgr(surface: HostSurface, cuda: HostCuda) -> CudaSurface:
    return upload_bgr(surface.to_bgr(), cuda.driver)


def as_decoded(surface: HostSurface, cuda: HostCuda) -> CudaSurface:
    return upload(surface.as_planes(), cuda.driver)


class Keeping:
    """A `Detector[HostSurface]` that remembers what it found, by the photo's name."""

    def __init__(self, detector: Uploading) -> None:
        self.found: dict[str, Detections] = {}
        self._detector = detector

    @property
    def info(self) -> EngineInfo:
        return self._detector.info

    async def detect(self, frames: Sequence[Frame[HostSurface]], *, min_scores: Sequence[float]) -> list[Detections]:
        results = await self._detector.detect(frames, min_scores=min_scores)
        self.found.update((frame.camera_id, result) for frame, result in zip(frames, results, strict=True))
        return results

    async def aclose(self) -> None:
        await self._detector.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPhotos:
    ap: float
    found: Mapping[str, Detections]  # down to the lowest scores


@pytest.fixture(scope="module")
def on_photos() -> dict[str, OnPhotos]:
    """What each model has found: the kernels run on the host once for all tests."""
    return {}


async def looked(name: str, on_photos: dict[str, OnPhotos]) -> OnPhotos:
    if name not in on_photos:
        detector = Keeping(await opened(name, as_bgr))
        _, images, result = await evaluate(cast(CpuDetector, detector), PHOTOS, 4)
        assert images == len(detector.found) == 27
        on_photos[name] = OnPhotos(ap=result.ap, found=detector.found)
    return on_photos[name]


@pytest.mark.parametrize(("name", "reference"), REFERENCE_AP.items())
async def test_average_precision_is_that_of_the_reference(
    name: str, reference: float, on_photos: dict[str, OnPhotos]
) -> None:
    assert (await looked(name, on_photos)).ap == pytest.approx(reference, abs=0.012)


async def test_boxes_on_photos_are_those_of_the_cpu_backend(on_photos: dict[str, OnPhotos]) -> None:
    """Of all models together: with few objects, one tie of two candidates that rounding turned is above 2 %."""
    photos = {path.name: HostSurface.from_bgr(cast(Any, cv2.imread(str(path)))) for path in PHOTOS.glob("*.jpg")}
    overlaps = {}
    for name in REFERENCE_AP:
        ours = [_above(found) for found in (await looked(name, on_photos)).found.values()]
        cpu = await on_cpu(name)
        theirs = [
            each
            for part in _fours([photos[image] for image in on_photos[name].found])
            for each in await cpu.detect(part, min_scores=[FLOOR] * len(part))
        ]
        await cpu.aclose()
        overlaps[name] = np.array(both_ways(ours, theirs))
    assert all(len(found) >= 40 and np.mean(found >= 0.95) >= 0.96 for found in overlaps.values()), overlaps
    assert np.mean(np.concatenate(list(overlaps.values())) >= 0.95) >= 0.98


@pytest.mark.parametrize("video", VIDEOS)
async def test_boxes_on_video_are_those_of_the_cpu_backend(video: str) -> None:
    pictures = list(_pictures(ASSETS / "videos" / f"{video}.mp4", every=25, limit=10))
    cpu, cuda = await on_cpu("yolox_nano_416"), await opened("yolox_nano_416", as_decoded)
    overlaps = []
    for part in _fours(pictures):
        overlaps += both_ways(*[await each.detect(part, min_scores=[FLOOR] * len(part)) for each in (cpu, cuda)])
    await cpu.aclose()
    await cuda.aclose()
    assert len(overlaps) >= 5
    assert np.mean(np.array(overlaps) >= 0.95) >= 0.98


async def on_cpu(name: str) -> CpuDetector:
    return await asyncio.to_thread(
        lambda: open_cpu_detector(str(ASSETS / "models" / f"{name}.onnx"), ASSETS, precision="fp32", tune=False)
    )


def _fours(pictures: Sequence[HostSurface]) -> Iterator[list[Frame[HostSurface]]]:
    for start in range(0, len(pictures), 4):
        yield [
            Frame(camera_id=f"camera-{number}", seq=number, pts_s=None, times=make_times(), surface=picture)
            for number, picture in enumerate(pictures[start : start + 4])
        ]


def _above(found: Detections) -> Detections:
    kept = found.scores >= FLOOR
    return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], class_ids=found.class_ids[kept])


def both_ways(ones: Sequence[Detections], others: Sequence[Detections]) -> list[float]:
    """For each box of score 0.4 that one of both backends finds: its overlap with the other's nearest of its class."""
    overlaps: list[float] = []
    for one, other in zip(ones, others, strict=True):
        overlaps += _overlaps(one, other) + _overlaps(other, one)
    return overlaps


def _overlaps(one: Detections, other: Detections) -> list[float]:
    found = []
    for box, score, class_id in zip(one.boxes, one.scores, one.class_ids, strict=True):
        if score >= 0.4:
            same = other.boxes[other.class_ids == class_id]
            found.append(float(iou_matrix(box[None], same).max(initial=0.0)))
    return found


def _pictures(path: Path, *, every: int, limit: int) -> Iterator[HostSurface]:
    with av.open(str(path)) as container, closing(container.decode(video=0)) as pictures:
        taken = 0
        for number, picture in enumerate(pictures):
            if taken == limit:
                return
            if number % every == 0:
                taken += 1
                yield HostSurface(picture)
