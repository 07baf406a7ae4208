"""What INT8 is calibrated with and judged on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.backends.int8.calibration import MAX_PICTURES, read_pictures
from app.errors import ConfigError, ModelError
from app.inference.labelled import read_labelled
from tests.support.clips import write_test_clip


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        assert cv2.imwrite(str(folder / f"{number:02}.png"), np.full((8, 8, 3), 10 * number, dtype=np.uint8))
    return folder


def test_held_out_pictures_are_not_calibrated_with(tmp_path: Path) -> None:
    found = read_pictures(write_pictures(tmp_path / "photos", 9), hold_out=True)
    assert [int(picture[0, 0, 0]) for picture in found.held_out] == [20, 50, 80]
    assert [int(picture[0, 0, 0]) for picture in found.used] == [0, 10, 30, 40, 60, 70]
    assert len(found.digests) == len(found.used)
    assert found.source == "6 images of photos"


def test_frames_of_a_long_video_are_thinned_evenly(tmp_path: Path) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", width=160, height=128, seconds=20.0)
    found = read_pictures(clip, hold_out=False)
    assert MAX_PICTURES // 2 < len(found.used) <= MAX_PICTURES
    assert found.held_out == ()


def test_what_is_no_video_or_too_short_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ModelError, match=r"calibration video .*text\.mp4 cannot be read: Invalid data"):
        read_pictures(tmp_path / "text.mp4", hold_out=True)
    clip = write_test_clip(tmp_path / "short.mp4", width=160, height=128, seconds=0.5)
    with pytest.raises(ModelError, match="has 5 frames, at least 8 are needed"):
        read_pictures(clip, hold_out=True)


def test_labels_are_read_in_corners_with_their_names(tmp_path: Path) -> None:
    labels = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [{"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 3, "iscrowd": 1}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(labels))
    found = read_labelled(tmp_path)
    first, second = found.images
    assert (first.path, first.truth.boxes.tolist()) == (tmp_path / "a.png", [[1, 2, 4, 6]])
    assert first.truth.crowd.tolist() == [True]
    assert len(second.truth.boxes) == 0
    assert found.categories(("person", "car")) == {1: 3}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("[]", "are not in COCO's form"),
        ("{}", "are not in COCO's form"),
        ('{"images": [], "categories": [], "annotations": []}', "name no images"),
    ],
)
def test_labels_that_cannot_be_used_are_a_sentence(content: str | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "instances.json").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_labelled(tmp_path)
