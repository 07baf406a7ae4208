"""YOLOX, YOLOv5, YOLOv8 and the end-to-end YOLOs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.inference.families.base import Candidates, corners, grid, reached
from app.types import FloatArray


class Yolox:
    """f32[cells, 5 + classes]: x y w h relative to the cell, objectness, class scores, both sigmoid already.

    xy = (p + cell) * stride, wh = exp(p) * stride, score = objectness * class score.
    Source: YOLOX, arXiv:2107.08430, its ONNX export without `decode_in_inference`.
    """

    needs_nms = True

    def __init__(self, input_width: int, input_height: int) -> None:
        self._grid = grid(input_width, input_height)

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        rows, scores, class_ids = _best_with_objectness(outputs[0], min_score)
        found, cells, strides = outputs[0][rows, :4], self._grid.cells[rows], self._grid.strides[rows]
        boxes = corners((found[:, :2] + cells) * strides, np.exp(found[:, 2:]) * strides)
        return Candidates(boxes=boxes, scores=scores, class_ids=class_ids)


class YoloV5:
    """f32[3 anchors x cells, 5 + classes]: cx cy w h in input pixels, objectness, class scores.

    Also what YOLOv6, YOLOv7 and a YOLOX exported with `decode_in_inference` give.
    """

    needs_nms = True

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        rows, scores, class_ids = _best_with_objectness(outputs[0], min_score)
        found = outputs[0][rows, :4]
        return Candidates(boxes=corners(found[:, :2], found[:, 2:]), scores=scores, class_ids=class_ids)


class YoloV8:
    """f32[4 + classes, anchors]: cx cy w h in input pixels, class scores; no objectness. Also YOLOv9 and YOLO11.

    The classes are independent sigmoids, so an anchor gives one candidate for each class that reaches the score, as
    in the validation that the published AP comes from: whoever filters for trucks does not lose the one that looked
    a little more like a car.
    """

    needs_nms = True

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        boxes, scores = outputs[0][:4], outputs[0][4:]
        class_ids, anchors = np.divmod(reached(scores.reshape(-1), min_score), scores.shape[1])
        found = boxes[:, anchors]
        return Candidates(
            boxes=corners(found[:2].T, found[2:].T),
            scores=scores[class_ids, anchors],
            class_ids=class_ids.astype(np.int32),
        )


class EndToEnd:
    """f32[n, 6]: x1 y1 x2 y2 in input pixels, score, class. One box per object already: YOLOv10, YOLO26."""

    needs_nms = False

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        output = outputs[0]
        found = output[reached(output[:, 4], min_score)]
        return Candidates(boxes=found[:, :4], scores=found[:, 4], class_ids=found[:, 5].astype(np.int32))


def _best_with_objectness(
    output: FloatArray, min_score: float
) -> tuple[NDArray[np.intp], FloatArray, NDArray[np.int32]]:
    """The rows that reach `min_score` with their best class, their scores and classes."""
    # A class score is at most 1, so objectness alone rules out nearly all rows before their classes are read.
    rows = np.flatnonzero(output[:, 4] >= min_score)
    class_scores = output[rows, 5:]
    scores = output[rows, 4] * class_scores.max(axis=1, initial=0.0)
    enough = reached(scores, min_score)
    return rows[enough], scores[enough], class_scores[enough].argmax(axis=1).astype(np.int32)
