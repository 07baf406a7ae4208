"""Non-maximum suppression in numpy: of boxes of one class that overlap, the best stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.types import FloatArray, IntArray


def by_score(scores: FloatArray, limit: int) -> NDArray[np.intp]:
    """Indices of the `limit` best scores, best first; of equal scores the first comes first."""
    return np.argsort(-scores, kind="stable")[:limit]


def iou_matrix(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of every pair: f32[n, 4], f32[m, 4] -> f32[n, m]. Boxes are x1 y1 x2 y2."""
    corner_min = np.maximum(boxes[:, None, :2], others[None, :, :2])
    corner_max = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    overlap = np.clip(corner_max - corner_min, 0.0, None).prod(axis=2)
    union = _area(boxes)[:, None] + _area(others)[None, :] - overlap
    iou: FloatArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0.0)
    return iou


def nms(boxes: FloatArray, class_ids: IntArray, iou: float) -> NDArray[np.intp]:
    """Indices of the boxes that stay. Boxes must come best score first; classes never suppress each other.

    Greedy NMS as a fixed point instead of a loop over boxes: a box stays when no better box that itself stays
    overlaps it by more than `iou`. Each pass settles at least the first box that was still open, so it ends, and
    with the greedy answer; in practice after three to six passes (Zheng et al., Cluster-NMS, arXiv:2005.03572).
    Memory is n² f32, so limit n first.
    """
    if len(boxes) == 0:
        return np.empty(0, dtype=np.intp)
    overlaps = (iou_matrix(boxes, boxes) > iou) & (class_ids[:, None] == class_ids[None, :])
    suppresses = np.triu(overlaps, k=1)  # row i is better than column j
    stays = np.ones(len(boxes), dtype=np.bool_)
    while True:
        settled = ~suppresses[stays].any(axis=0)
        if np.array_equal(settled, stays):
            return np.flatnonzero(stays)
        stays = settled


def _area(boxes: FloatArray) -> FloatArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
