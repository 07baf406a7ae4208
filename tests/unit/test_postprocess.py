"""Raw outputs to boxes in source pixels, batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from app.backends.cpu.postprocess import postprocess
from app.inference.families.base import MAX_CANDIDATES, Decoder
from app.inference.families.yolo import EndToEnd, YoloV5, Yolox
from app.inference.found import MAX_BOXES, Found
from app.inference.geometry import letterbox
from app.types import FloatArray

SQUARE = letterbox(640, 640, 640, 640, "top_left")


def _rows(*rows: Sequence[float]) -> FloatArray:
    return np.array(rows, dtype=np.float32)


def _run(
    frames: Sequence[FloatArray],
    *,
    decoder: Decoder | None = None,
    min_scores: Sequence[float] | None = None,
    **known: object,
) -> list[Found]:
    return postprocess(
        [np.stack(frames)],
        known.get("letterboxes", [SQUARE] * len(frames)),  # type: ignore[arg-type]
        decoder=decoder or YoloV5(),
        min_scores=min_scores or [0.25] * len(frames),
        iou=0.45,
    )


def test_boxes_come_best_first_and_overlaps_go() -> None:
    frame = _rows(
        [100, 100, 20, 20, 0.6, 1.0],
        [102, 100, 20, 20, 0.9, 1.0],
        [300, 100, 20, 20, 0.7, 1.0],
    )
    (found,) = _run([frame])
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.boxes.tolist() == [[92, 90, 112, 110], [290, 90, 310, 110]]
    assert found.class_ids.tolist() == [0, 0]
    assert found.boxes.dtype == found.scores.dtype == np.float32 and found.class_ids.dtype == np.int32


def test_every_frame_has_its_own_score_floor() -> None:
    frame = _rows([100, 100, 20, 20, 0.5, 1.0], [300, 100, 20, 20, 0.3, 1.0])
    counts = [len(found.scores) for found in _run([frame] * 3, min_scores=[0.2, 0.4, 0.6])]
    assert counts == [2, 1, 0]


def test_boxes_go_back_to_frames_of_their_own_size() -> None:
    frame = _rows([320, 320, 64, 64, 0.9, 1.0])
    boxes = [letterbox(1280, 720, 640, 640, "centre"), letterbox(320, 320, 640, 640, "centre")]
    wide, small = _run([frame, frame], letterboxes=boxes)
    assert wide.boxes.tolist() == [[576, 296, 704, 424]]
    assert small.boxes.tolist() == [[144, 144, 176, 176]]


def test_frames_without_boxes_lie_between_those_with() -> None:
    empty, one = _rows([0, 0, 0, 0, 0, 0]), _rows([100, 100, 20, 20, 0.9, 1.0])
    assert [len(found.scores) for found in _run([empty, one, empty, one])] == [0, 1, 0, 1]


def test_a_box_in_the_padding_is_none() -> None:
    frame = _rows([320, 600, 64, 40, 0.9, 1.0])  # below a frame that is 360 pixels high in the input
    (found,) = _run([frame], letterboxes=[letterbox(1280, 720, 640, 640, "top_left")])
    assert len(found.scores) == len(found.boxes) == len(found.class_ids) == 0


def test_end_to_end_boxes_are_sorted_but_not_suppressed() -> None:
    frame = _rows([0, 0, 10, 10, 0.5, 3], [0, 0, 10, 10, 0.6, 3])
    (found,) = _run([frame], decoder=EndToEnd())
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])


def test_a_flood_of_candidates_is_cut_at_the_best() -> None:
    count = MAX_CANDIDATES + 500
    x = np.arange(count, dtype=np.float32) % 60 * 10 + 5
    y = np.arange(count, dtype=np.float32) // 60 * 10 + 5
    scores = np.linspace(0.3, 0.9, count, dtype=np.float32)
    frame = np.column_stack((x, y, np.full((count, 2), 8), scores, np.ones(count))).astype(np.float32)
    (found,) = _run([frame])
    assert len(found.scores) == MAX_BOXES
    assert found.scores.tolist() == scores[::-1][:MAX_BOXES].tolist()


def test_equal_scores_keep_the_models_order() -> None:
    frame = _rows([300, 100, 20, 20, 0.5, 1.0], [100, 100, 20, 20, 0.5, 1.0])
    (found,) = _run([frame])
    assert found.boxes[:, 0].tolist() == [290, 90]


def test_a_broken_models_numbers_become_no_boxes() -> None:
    output = np.full((1, 84, 6), np.nan, dtype=np.float32)
    output[0, 0] = [0, 0, 1000, 1000, 1, 1]  # exp(1000) is infinite
    output[0, 1] = [np.nan, 0, 0, 0, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = postprocess(
            [output], [letterbox(64, 64, 64, 64, "top_left")], decoder=Yolox(64, 64), min_scores=[0.25], iou=0.45
        )
    assert np.isfinite(found.boxes).all()
    assert found.boxes.tolist() == [[0, 0, 64, 64]]
