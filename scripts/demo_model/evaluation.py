"""Average precision as COCO counts it (101 recall points, IoU 0.50 to 0.95, at most 100 boxes a picture)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from app.types import FloatArray, IntArray

from .data import Sample, letterbox

Infer: TypeAlias = Callable[[FloatArray], FloatArray]
"""From f32[1, 3, size, size] to the exported layout, f32[1, anchors, 5 + classes]."""

IOUS = np.arange(0.5, 1.0, 0.05)
STRIDES = (8, 16, 32)
MAX_BOXES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Detections of one picture, best first."""

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray


def detect(infer: Infer, sample: Sample, *, size: int, min_score: float = 0.01, nms_iou: float = 0.6) -> Found:
    """Letterbox, infer, decode, suppress per class; boxes in the sample's pixels."""
    square, scale = letterbox(sample.image, size)
    raw = infer(square.transpose(2, 0, 1)[None].astype(np.float32))[0]
    cells, strides = _grid(size)
    centre, extent = (raw[:, :2] + cells) * strides, np.exp(raw[:, 2:4]) * strides
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], 1) / scale
    boxes = np.clip(boxes, 0, np.tile(sample.image.shape[1::-1], 2))
    class_ids = raw[:, 5:].argmax(1)
    scores = raw[:, 4] * raw[:, 5:].max(1)
    keep = scores >= min_score
    boxes, scores, class_ids = boxes[keep], scores[keep], class_ids[keep]
    corner = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    left = cv2.dnn.NMSBoxesBatched(corner.tolist(), scores.tolist(), class_ids.tolist(), min_score, nms_iou)
    order = np.array(left, np.int64).reshape(-1)[:MAX_BOXES]
    return Found(
        boxes=boxes[order].astype(np.float32), scores=scores[order], class_ids=class_ids[order].astype(np.int32)
    )


def _grid(size: int) -> tuple[FloatArray, FloatArray]:
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: size // stride, : size // stride]
        cells.append(np.stack([x, y], 2).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def average_precision(samples: Sequence[Sample], found: Sequence[Found], classes: int) -> FloatArray:
    """f32[classes, 10]: one value for each class and IoU threshold; NaN for a class that is in no sample."""
    return np.stack([_class_precision(samples, found, k) for k in range(classes)]).astype(np.float32)


def _class_precision(samples: Sequence[Sample], found: Sequence[Found], class_id: int) -> FloatArray:
    scores, hits, total = [], [], 0
    for sample, detections in zip(samples, found, strict=True):
        truth = sample.boxes[sample.class_ids == class_id]
        mine = detections.class_ids == class_id
        total += len(truth)
        scores.append(detections.scores[mine])
        hits.append(_hits(truth, detections.boxes[mine]))
    if not total:
        return np.full(len(IOUS), np.nan, np.float32)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    correct = np.concatenate(hits, 1)[:, order].cumsum(1)
    recall = correct / total
    precision = correct / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    result = np.zeros(len(IOUS), np.float32)
    for i in range(len(IOUS)):
        at = np.searchsorted(recall[i], np.linspace(0, 1, 101))
        result[i] = np.append(precision[i], 0.0)[at].mean()
    return result


def _hits(truth: FloatArray, boxes: FloatArray) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """bool[10, n]: whether each detection, best first, takes an object that none before it took."""
    result = np.zeros((len(IOUS), len(boxes)), bool)
    if not len(truth) or not len(boxes):
        return result
    low, high = np.maximum(boxes[:, None, :2], truth[:, :2]), np.minimum(boxes[:, None, 2:], truth[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (truth[:, 2:] - truth[:, :2]).prod(1)
    iou = overlap / np.maximum(areas - overlap, 1e-6)
    for i, threshold in enumerate(IOUS):
        free = np.ones(len(truth), bool)
        for j in range(len(boxes)):
            best = int(np.argmax(np.where(free, iou[j], -1)))
            if free[best] and iou[j, best] >= threshold:
                result[i, j], free[best] = True, False
    return result
