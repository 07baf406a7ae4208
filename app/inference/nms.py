"""Non-maximum suppression in numpy: of boxes of one class that overlap, the best stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.types import FloatArray, IntArray


def by_score(scores: FloatArray) -> NDArray[np.intp]:
    """Indices by score, best first; of equal scores the first comes first."""
    return np.argsort(-scores, kind="stable")


def iou_matrix(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of every pair: f32[n, 4], f32[m, 4] -> f32[n, m]. Boxes are x1 y1 x2 y2."""
    shared, union = _shared_and_union(boxes, others)
    iou: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0)
    return iou


def nms(boxes: FloatArray, class_ids: IntArray, iou: float) -> NDArray[np.intp]:
    """Indices of the boxes that stay. Boxes must come best score first; classes never suppress each other.

    Greedy NMS as a fixed point instead of a loop over boxes: a box stays when no better box that itself stays
    overlaps it by more than `iou`. Each pass settles at least the first box that was still open, so it ends, and
    with the greedy answer; in practice after two to seven passes (Zheng et al., Cluster-NMS, arXiv:2005.03572).
    Memory is n² f32, so limit n first.
    """
    if len(boxes) == 0:
        return np.empty(0, dtype=np.intp)
    shared, union = _shared_and_union(boxes, boxes)
    union *= np.float32(iou)
    suppresses = shared > union
    suppresses &= np.equal.outer(class_ids, class_ids)
    place = np.arange(len(boxes))
    suppresses &= np.less.outer(place, place)  # row i is better than column j
    stays = ~suppresses.any(axis=0)
    while True:
        settled = ~suppresses[stays].any(axis=0)
        if (settled == stays).all():
            return np.flatnonzero(stays)
        stays = settled


def _shared_and_union(boxes: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The areas of intersection and union of every pair, f32[n, m] each."""
    # One matrix per coordinate: many times faster than numpy's reductions over an axis of two.
    (x1, y1, x2, y2), (u1, v1, u2, v2) = np.ascontiguousarray(boxes.T), np.ascontiguousarray(others.T)
    shared = np.minimum.outer(x2, u2)
    shared -= np.maximum.outer(x1, u1)
    np.maximum(shared, 0.0, out=shared)
    height = np.minimum.outer(y2, v2)
    height -= np.maximum.outer(y1, v1)
    np.maximum(height, 0.0, out=height)
    shared *= height
    union = np.add.outer((x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1))
    union -= shared
    return shared, union
