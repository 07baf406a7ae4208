"""The CUDA backend on a real GPU says what the CPU backend says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from app.inference.nms import iou_matrix
from app.types import Detections
from tests.gpu.conftest import Opened, file_camera, pictures

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

SURE = 0.4  # boxes with at least this score must have a partner on the other side
PARTNER = 0.05


def share_with_partner(found: Mapping[float, Detections], other: Mapping[float, Detections], *, iou: float) -> float:
    """Of the sure boxes in `found`, the share that `other` has too: same picture, same class, this overlap."""
    sure = matched = 0
    for at, detections in found.items():
        partners = other[at]
        for box, score, class_id in zip(detections.boxes, detections.scores, detections.class_ids, strict=True):
            if score < SURE:
                continue
            sure += 1
            same = partners.boxes[partners.class_ids == class_id]
            matched += len(same) > 0 and float(iou_matrix(box[None], same).max()) >= iou
    assert sure >= 50, f"only {sure} sure boxes: nothing to compare"
    return matched / sure


@pytest.mark.parametrize(
    ("on_gpu", "iou"),
    [
        ({"precision": "fp16"}, 0.95),
        ({"precision": "fp32"}, 0.95),
        ({"precision": "fp16", "decoder": "software"}, 0.95),
        ({"precision": "fp16", "cuda_graphs": False}, 0.95),
    ],
    indirect=["on_gpu"],
)
async def test_the_boxes_are_those_of_the_cpu(on_gpu: Opened, on_cpu: Opened, clip: Path, iou: float) -> None:
    ours = await on_gpu.over_clip(clip, every=5, min_score=PARTNER)
    theirs = await on_cpu.over_clip(clip, every=5, min_score=PARTNER)
    assert set(ours) == set(theirs)
    assert share_with_partner(ours, theirs, iou=iou) >= 0.98
    assert share_with_partner(theirs, ours, iou=iou) >= 0.98


async def test_a_second_run_gives_the_same_bytes(on_gpu: Opened, clip: Path) -> None:
    first = await on_gpu.over_clip(clip, every=10)
    second = await on_gpu.over_clip(clip, every=10)
    for at, detections in first.items():
        assert np.array_equal(detections.boxes, second[at].boxes)
        assert np.array_equal(detections.scores, second[at].scores)


async def test_nvdec_gives_the_pictures_of_the_software_decoder(on_gpu: Opened, on_cpu: Opened, clip: Path) -> None:
    source, other = (each.backend.open_source(file_camera(clip)) for each in (on_gpu, on_cpu))

    def compare() -> int:
        compared = 0
        for ours, theirs in zip(pictures(source), pictures(other), strict=True):
            assert ours.pts_s == theirs.pts_s
            if compared % 10 == 0:
                difference = np.abs(ours.surface.to_bgr().astype(int) - theirs.surface.to_bgr())
                assert difference.mean() < 2.0
            compared += 1
            ours.surface.release()
            theirs.surface.release()
        return compared

    assert await asyncio.to_thread(compare) > 50
    assert source.info is not None
    if source.info.decoder != "nvdec":
        pytest.skip(f"decoded in software: {source.info.decoder_reason}")
