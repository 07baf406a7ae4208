"""COCO average precision: how good a detector is on labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.nms import by_score
from app.types import FloatArray, IntArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_MAX_DETECTIONS = 100  # of a class in an image, best score first


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is in an image. boxes: f32[n, 4] x1 y1 x2 y2; crowd: bool[n], a region where any number of hits is right."""

    boxes: FloatArray
    class_ids: IntArray
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a detector says is in an image."""

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePrecision:
    """Means over the classes that occur. `ap` also over IoU 0.50 to 0.95, `ap50` at 0.50."""

    ap: float
    ap50: float
    of_class: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Matched:
    """One class in one image: per claim its score, and per threshold whether it hits or does not count."""

    scores: FloatArray
    hits: NDArray[np.bool_]  # [thresholds, claims]
    ignored: NDArray[np.bool_]
    truths: int


def average_precision(
    images: Sequence[tuple[Truth, Claims]], class_ids: Iterable[int] | None = None
) -> AveragePrecision:
    """COCO AP@[.5:.95] over all object sizes, 100 claims a class and image, 101-point interpolation.

    `class_ids` limits it to the classes that a model knows. The rules are those of COCO's detection evaluation
    (cocodataset.org/#detection-eval): a claim takes the free truth with the largest IoU; claims on a crowd region are
    neither right nor wrong. Raises `ValueError` when no class occurs.
    """
    present = {int(class_id) for truth, _ in images for class_id in truth.class_ids[~truth.crowd]}
    wanted = sorted(present if class_ids is None else present & set(class_ids))
    if not wanted:
        raise ValueError("no labelled object of any known class")
    table = np.array([_of_class([_match(truth, claims, number) for truth, claims in images]) for number in wanted])
    return AveragePrecision(
        ap=float(table.mean()),
        ap50=float(table[:, 0].mean()),
        of_class={number: float(row.mean()) for number, row in zip(wanted, table, strict=True)},
    )


def _match(truth: Truth, claims: Claims, class_id: int) -> _Matched:
    claimed = np.flatnonzero(claims.class_ids == class_id)
    best = claimed[by_score(claims.scores[claimed])[:_MAX_DETECTIONS]]
    of_class = np.flatnonzero(truth.class_ids == class_id)
    of_class = of_class[np.argsort(truth.crowd[of_class], kind="stable")]  # crowds last: real objects go first
    crowd = truth.crowd[of_class]
    overlaps = _overlaps(claims.boxes[best], truth.boxes[of_class], crowd)
    hits = np.zeros((len(IOU_THRESHOLDS), len(best)), dtype=np.bool_)
    ignored = np.zeros_like(hits)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(of_class), dtype=np.bool_)
        for claim, overlap in enumerate(overlaps):
            objects = np.where(free & ~crowd & (overlap >= threshold), overlap, -1.0)
            if len(objects) and objects.max() >= 0.0:
                hits[row, claim] = True
                free[objects.argmax()] = False
            else:
                ignored[row, claim] = bool((overlap[crowd] >= threshold).any())
    return _Matched(claims.scores[best], hits, ignored, int((~crowd).sum()))


def _overlaps(boxes: FloatArray, truths: FloatArray, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """f64[n, m]: IoU, and with a crowd the part of the box that lies in it."""
    corners = boxes.astype(np.float64), truths.astype(np.float64)
    size = np.minimum(corners[0][:, None, 2:], corners[1][None, :, 2:]) - np.maximum(
        corners[0][:, None, :2], corners[1][None, :, :2]
    )
    shared = np.clip(size, 0.0, None).prod(axis=2)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in corners]
    whole = np.where(crowd[None, :], areas[0][:, None], areas[0][:, None] + areas[1][None, :] - shared)
    overlaps: NDArray[np.float64] = shared / np.maximum(whole, 1e-9)
    return overlaps


def _of_class(images: Sequence[_Matched]) -> list[float]:
    """AP of one class at each threshold."""
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    hits = np.concatenate([image.hits for image in images], axis=1)[:, order]
    ignored = np.concatenate([image.ignored for image in images], axis=1)[:, order]
    truths = sum(image.truths for image in images)
    return [_interpolated(hit[~skip], truths) for hit, skip in zip(hits, ignored, strict=True)]


def _interpolated(hits: NDArray[np.bool_], truths: int) -> float:
    """Mean of the best precision at or beyond each of 101 recalls."""
    right = np.cumsum(hits)
    recall = right / truths
    precision = right / np.arange(1, len(hits) + 1)
    best_beyond = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best_beyond[np.searchsorted(recall, _RECALL_POINTS, side="left")].mean())
