"""Real models on labelled photos and real videos, through the detector that the service runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.cpu.engine import load_graphs, mismatch
from app.backends.cpu.openvino_engine import OpenVinoEngine
from app.backends.cpu.tuning import Plan
from app.backends.ffmpeg.surface import HostSurface
from app.inference.model import read_onnx
from app.inference.nms import iou_matrix
from app.inference.onnx_file import load_onnx
from app.types import Detections, Frame
from scripts.evaluate import evaluate
from tests.support.fakes import make_times

ASSETS = Path(os.environ.get("VIDETTE_ASSETS", ""))
pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif("VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS is not set"),
]
# COCO AP@[.5:.95] of the reference implementations on the same 27 photos.
REFERENCE_AP = {
    "yolox_nano_416": 0.347,
    "yolox_nano_416_dyn": 0.347,
    "nanodet_m_320": 0.286,
    "yolov8n_640_dyn": 0.454,
    "yolov10n_640_dyn": 0.509,
    "light_person_detector_yolox": 0.299,
}
VIDEOS = (
    "intel_one-by-one-person-detection",
    "nvidia_vpf_test",
    "udacity_solidWhiteRight",
    "retail02_720p15_h264",
    "retail02_1080p30_h264",
)


def _model(name: str) -> str:
    return str(ASSETS / "models" / f"{name}.onnx")


async def _open(name: str, **options: Any) -> CpuDetector:
    return await asyncio.to_thread(lambda: open_cpu_detector(_model(name), ASSETS, **{"tune": False, **options}))


def _frame(surface: HostSurface, number: int = 1) -> Frame[HostSurface]:
    return Frame(camera_id=f"camera-{number}", seq=number, pts_s=None, times=make_times(), surface=surface)


def _photo(path: Path) -> HostSurface:
    image = cv2.imread(str(path))
    assert image is not None
    return HostSurface.from_bgr(image)


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    graphs = load_graphs(read_onnx(Path(_model("light_person_detector_yolox"))))
    if request.param not in OpenVinoEngine(graphs).precisions:
        pytest.skip(f"this CPU has no {request.param}")
    return str(request.param)


@pytest.mark.parametrize(("name", "reference"), REFERENCE_AP.items())
async def test_average_precision_is_that_of_the_reference(name: str, reference: float, precision: str) -> None:
    detector = await _open(name, precision=precision)
    _, images, result = await evaluate(detector, ASSETS / "images" / "coco_by27", 4)
    assert images == 27
    assert result.ap == pytest.approx(reference, abs=0.012)


def test_the_script_prints_the_average_precision() -> None:
    command = [sys.executable, "scripts/evaluate.py", "--model", _model("yolox_nano_416"), "--precision", "fp32"]
    command += ["--images", str(ASSETS / "images" / "coco_by27"), "--json"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert json.loads(answer.stdout)["ap"] == pytest.approx(0.347, abs=0.003)


async def test_bus_is_found_where_the_reference_finds_it() -> None:
    detector = await _open("yolox_nano_416", precision="fp32")
    (found,) = await detector.detect([_frame(_photo(ASSETS / "images" / "bus.jpg"))], min_scores=[0.25])
    await detector.aclose()
    assert [detector.info.classes[number] for number in found.class_ids] == ["bus", "person", "person", "person"]
    assert found.scores.tolist() == pytest.approx([0.903, 0.858, 0.808, 0.696], abs=0.002)
    wanted = [[14, 231, 801, 733], [50, 395, 216, 898], [220, 402, 347, 855], [685, 454, 810, 874]]
    assert found.boxes == pytest.approx(np.array(wanted), abs=1.0)


@pytest.mark.parametrize("name", [name for name in REFERENCE_AP if name != "yolox_nano_416_dyn"])
async def test_a_photo_gives_the_same_boxes_in_batches_of_1_3_and_16(name: str) -> None:
    detector = await _open(name, tune=True, contexts=2)
    photos = sorted((ASSETS / "images" / "coco_by27").glob("*.jpg"))[:16]
    frames = [_frame(_photo(path), number) for number, path in enumerate(photos)]
    assert len({(frame.surface.width, frame.surface.height) for frame in frames}) > 3
    runs = [await _in_batches(detector, frames, size) for size in (1, 3, 16)]
    await detector.aclose()
    for results in runs[1:]:
        for one, other in zip(results, runs[0], strict=True):
            assert one.class_ids.tolist() == other.class_ids.tolist()
            assert one.boxes == pytest.approx(other.boxes, abs=0.1)
            assert one.scores == pytest.approx(other.scores, abs=1e-3)


async def _in_batches(detector: CpuDetector, frames: Sequence[Frame[HostSurface]], size: int) -> list[Detections]:
    results: list[Detections] = []
    for start in range(0, len(frames), size):
        batch = frames[start : start + size]
        results += await detector.detect(batch, min_scores=[0.25] * len(batch))
    return results


@pytest.mark.parametrize("video", VIDEOS)
async def test_boxes_on_video_match_the_reference(video: str, precision: str) -> None:
    detector = await _open("yolox_nano_416", precision=precision)
    reference = json.loads((ASSETS / "reference" / f"{video}.mp4.yolox_nano_416.json").read_text())["frames"]
    overlaps: list[float] = []
    for number, surface in _pictures(ASSETS / "videos" / f"{video}.mp4", every=11, until=min(len(reference), 330)):
        (found,) = await detector.detect([_frame(surface)], min_scores=[0.25])
        labels = np.array([detector.info.classes[class_id] for class_id in found.class_ids])
        for label, score, *box in reference[number]["dets"]:
            if score >= 0.4:
                same = found.boxes[labels == label] if len(labels) else found.boxes
                matrix = iou_matrix(np.array([box], dtype=np.float32), same)
                overlaps.append(float(matrix.max(initial=0.0)))
    await detector.aclose()
    assert len(overlaps) >= 5
    assert np.mean(np.array(overlaps) >= 0.9) >= 0.95


def _pictures(path: Path, *, every: int, until: int) -> Iterator[tuple[int, HostSurface]]:
    with av.open(str(path)) as container, closing(container.decode(video=0)) as pictures:
        for number, picture in enumerate(pictures):
            if number >= until:
                return
            if number % every == 0:
                yield number, HostSurface(picture)


def test_freeing_only_the_declared_axis_of_yolox_is_found_out(tmp_path: Path) -> None:
    model = load_onnx(Path(_model("yolox_nano_416")))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    path = tmp_path / "naive.onnx"
    path.write_bytes(model.SerializeToString())
    engine = OpenVinoEngine(load_graphs(read_onnx(path)))
    reason = mismatch(engine, Plan(precision="fp32", streams=1, threads=2), 2)
    assert (
        reason == "a batch of 2 gives an output of shape [1, 7098, 85] where its frames one by one give [2, 3549, 85]"
    )
