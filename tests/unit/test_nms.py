"""Non-maximum suppression, against the textbook loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.inference.nms import by_score, iou_matrix, nms
from app.types import FloatArray, IntArray


def _greedy(boxes: FloatArray, class_ids: IntArray, iou: float) -> list[int]:
    """The definition: walk the boxes best first, keep what no kept box of its class covers too much."""
    kept: list[int] = []
    for index in range(len(boxes)):
        same = [other for other in kept if class_ids[other] == class_ids[index]]
        if not same or iou_matrix(boxes[[index]], boxes[same]).max() <= iou:
            kept.append(index)
    return kept


def _boxes(*corners: tuple[float, float, float, float]) -> FloatArray:
    return np.array(corners, dtype=np.float32)


def _random_boxes(seed: int, count: int) -> tuple[FloatArray, IntArray]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (count, 2))
    boxes = np.hstack((corner, corner + random.uniform(1, 40, (count, 2)))).astype(np.float32)
    return boxes, random.integers(0, 3, count).astype(np.int32)


def test_the_best_of_two_overlapping_boxes_stays() -> None:
    boxes = _boxes((0, 0, 10, 10), (1, 0, 11, 10))
    assert nms(boxes, np.array([0, 0], dtype=np.int32), 0.45).tolist() == [0]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = _boxes((0, 0, 10, 10), (0, 0, 10, 10))
    assert nms(boxes, np.array([0, 1], dtype=np.int32), 0.45).tolist() == [0, 1]


def test_an_overlap_of_exactly_the_threshold_is_kept() -> None:
    boxes = _boxes((0, 0, 10, 10), (0, 0, 10, 5))
    assert nms(boxes, np.array([0, 0], dtype=np.int32), 0.5).tolist() == [0, 1]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = _boxes((0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10), (12, 0, 22, 10))
    assert nms(chain, np.zeros(4, dtype=np.int32), 0.4).tolist() == [0, 2]


def test_no_boxes_give_no_boxes() -> None:
    assert nms(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int32), 0.5).tolist() == []


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), iou=st.floats(0.05, 0.95))
def test_the_answer_is_the_textbook_one(seed: int, count: int, iou: float) -> None:
    boxes, class_ids = _random_boxes(seed, count)
    assert nms(boxes, class_ids, iou).tolist() == _greedy(boxes, class_ids, iou)


def test_iou_of_known_boxes() -> None:
    matrix = iou_matrix(_boxes((0, 0, 10, 10)), _boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30)))
    assert matrix[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_boxes_without_area_overlap_nothing() -> None:
    point = _boxes((5, 5, 5, 5))
    assert iou_matrix(point, point)[0, 0] == 0.0


def test_equal_scores_keep_their_order() -> None:
    scores: NDArray[np.float32] = np.array([0.5, 0.9, 0.5, 0.9], dtype=np.float32)
    assert by_score(scores).tolist() == [1, 3, 0, 2]
