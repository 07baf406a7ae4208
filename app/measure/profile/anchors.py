"""Postprocessing 16 x 8400 anchors x 84, twice: ours on whole arrays, and a Python loop over anchors, the usual way.

Both do the same: of every anchor, each class whose score reaches the floor is a candidate; boxes go from centre and
size to corners, the best overlapping one of a class stays, and what stays is mapped back to the picture. The loop is
ours, written as such loops are written, with the scores of one anchor in numpy and all else in plain Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from app.backends.cpu.postprocess import postprocess
from app.inference.families.base import STRIDES, grid
from app.inference.families.yolo import YoloV8
from app.inference.found import MAX_BOXES, Found
from app.inference.geometry import Letterbox, letterbox
from app.types import FloatArray

IMAGES, CLASSES, SIZE = 16, 80, 640
MIN_SCORE, IOU = 0.25, 0.45
SOURCE = (1920, 1080)
TOLERANCE_PX = 1e-4
_OBJECTS = (20, 51)  # in an image: from, below
_ANCHORS = (4, 13)  # that see one object
_FAST_RUNS, _SLOW_RUNS = 25, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Times of a whole batch in ms, one a run. `identical`: the same boxes, in the same order."""

    images: int
    anchors: int
    rows: int  # 4 of the box and the classes
    boxes: int
    vectorised_ms: tuple[float, ...]
    loop_ms: tuple[float, ...]
    identical: bool
    largest_difference_px: float

    @property
    def ratio(self) -> float:
        return median(self.loop_ms) / median(self.vectorised_ms)


def compare_postprocessing(
    images: int = IMAGES, *, size: int = SIZE, seed: int = 0, runs: int = _FAST_RUNS
) -> Comparison:
    """Both ways on the same made-up outputs. Blocking, a few seconds at the usual size."""
    outputs = synthetic_outputs(images, size=size, seed=seed)
    boxes = [letterbox(*SOURCE, size, size, "centre")] * images
    decoder, scores = YoloV8(), [MIN_SCORE] * images

    def vectorised() -> list[Found]:
        return postprocess([outputs], boxes, decoder=decoder, min_scores=scores, iou=IOU)

    def loop() -> list[Found]:
        return [_loop(image, box) for image, box in zip(outputs, boxes, strict=True)]

    fast, fast_ms = _timed(vectorised, runs)
    slow, slow_ms = _timed(loop, min(runs, _SLOW_RUNS))
    same, difference = identical(fast, slow)
    return Comparison(
        images=images,
        anchors=outputs.shape[2],
        rows=outputs.shape[1],
        boxes=sum(len(found.scores) for found in fast),
        vectorised_ms=fast_ms,
        loop_ms=slow_ms,
        identical=same,
        largest_difference_px=difference,
    )


def synthetic_outputs(images: int, *, size: int = SIZE, seed: int = 0) -> FloatArray:
    """What a YOLOv8 of 80 classes might give: f32[images, 84, anchors], made up, the same for the same seed.

    Every image has 20 to 50 objects, each seen by 4 to 12 neighbouring anchors with boxes and scores that differ a
    little; one anchor in ten of them is also sure of a second class. All else is background, with scores below 0.05.
    """
    random = np.random.default_rng(seed)
    cells = grid(size, size, STRIDES)
    centres = (cells.cells + np.float32(0.5)) * cells.strides
    anchors = len(centres)
    outputs = np.empty((images, 4 + CLASSES, anchors), dtype=np.float32)
    outputs[:, :2] = centres.T + random.normal(0.0, 2.0, (images, 2, anchors))
    outputs[:, 2:4] = random.uniform(4.0, 0.5 * size, (images, 2, anchors))
    outputs[:, 4:] = 0.05 * random.random((images, CLASSES, anchors), dtype=np.float32) ** 4
    for image in outputs:
        for _ in range(random.integers(*_OBJECTS)):
            _place(image, centres, random)
    return outputs


def _place(image: FloatArray, centres: FloatArray, random: np.random.Generator) -> None:
    """One object into f32[84, anchors]."""
    size = centres.max()
    middle, extent = random.uniform(0.05, 0.95, 2) * size, random.uniform(0.03, 0.35, 2) * size
    seen_by = np.argsort(((centres - middle) ** 2).sum(axis=1), kind="stable")[: random.integers(*_ANCHORS)]
    class_id, second = random.integers(0, CLASSES, 2)
    jitter = random.normal(0.0, 0.03, (2, 2, len(seen_by))) * extent[None, :, None]
    image[:2, seen_by] = middle[:, None] + jitter[0]
    image[2:4, seen_by] = extent[:, None] + jitter[1]
    image[4 + class_id, seen_by] = random.uniform(0.2, 0.97, len(seen_by))
    unsure = seen_by[random.random(len(seen_by)) < 0.1]
    image[4 + second, unsure] = random.uniform(0.2, 0.6, len(unsure))


def identical(ours: Sequence[Found], theirs: Sequence[Found]) -> tuple[bool, float]:
    """Whether both found the same boxes in every image: as many, of the same classes, scores and corners.

    Also the largest difference between two corners, in pixels; infinite when there are not as many.
    """
    largest, same = 0.0, len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=False):
        if len(one.scores) != len(other.scores):
            return False, float("inf")
        same = same and np.array_equal(one.class_ids, other.class_ids) and np.array_equal(one.scores, other.scores)
        largest = max(largest, float(np.abs(one.boxes - other.boxes).max(initial=0.0)))
    return same and largest <= TOLERANCE_PX, largest


@dataclass(frozen=True, slots=True)
class _Box:
    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_id: int


def _loop(output: FloatArray, place: Letterbox) -> Found:
    """f32[84, anchors] of one image, anchor by anchor."""
    candidates: list[_Box] = []
    for anchor in range(output.shape[1]):
        scores = output[4:, anchor]
        if scores[np.argmax(scores)] < MIN_SCORE:
            continue
        # In the outputs' own precision, so that not even the last bit differs.
        x, y, width, height = output[:4, anchor]
        half_width, half_height = width * np.float32(0.5), height * np.float32(0.5)
        corners = float(x - half_width), float(y - half_height), float(x + half_width), float(y + half_height)
        candidates += [
            _Box(*corners, float(score), class_id) for class_id, score in enumerate(scores) if score >= MIN_SCORE
        ]
    kept = _loop_nms(sorted(candidates, key=lambda box: -box.score))[:MAX_BOXES]
    mapped = [(_mapped(box, place), box) for box in kept]
    visible = [(corners, box) for corners, box in mapped if corners[2] > corners[0] and corners[3] > corners[1]]
    return Found(
        boxes=np.array([corners for corners, _ in visible], dtype=np.float32).reshape(-1, 4),
        scores=np.array([box.score for _, box in visible], dtype=np.float32),
        class_ids=np.array([box.class_id for _, box in visible], dtype=np.int32),
    )


def _loop_nms(boxes: list[_Box]) -> list[_Box]:
    """Best first: a box stays unless a better one of its class that stays overlaps it."""
    kept: list[_Box] = []
    for box in boxes:
        for better in kept:
            if better.class_id == box.class_id and _iou(better, box) > IOU:
                break
        else:
            kept.append(box)
    return kept


def _iou(one: _Box, other: _Box) -> float:
    width = max(0.0, min(one.x2, other.x2) - max(one.x1, other.x1))
    height = max(0.0, min(one.y2, other.y2) - max(one.y1, other.y1))
    shared = width * height
    both = (one.x2 - one.x1) * (one.y2 - one.y1) + (other.x2 - other.x1) * (other.y2 - other.y1) - shared
    return shared / both if both > 0 else 0.0


def _mapped(box: _Box, place: Letterbox) -> tuple[float, float, float, float]:
    """Corners in the picture, in the outputs' own precision."""
    scale_x, scale_y = np.float32(place.source_width / place.width), np.float32(place.source_height / place.height)

    def on(value: float, offset: int, scale: np.float32, limit: int) -> float:
        return min(max(float((np.float32(value) - np.float32(offset)) * scale), 0.0), float(limit))

    return (
        on(box.x1, place.x, scale_x, place.source_width),
        on(box.y1, place.y, scale_y, place.source_height),
        on(box.x2, place.x, scale_x, place.source_width),
        on(box.y2, place.y, scale_y, place.source_height),
    )


def _timed(work: Callable[[], list[Found]], runs: int) -> tuple[list[Found], tuple[float, ...]]:
    """Run once to warm up, then `runs` times."""
    found, took = work(), []
    for _ in range(runs):
        began = time.perf_counter()
        found = work()
        took.append(1e3 * (time.perf_counter() - began))
    return found, tuple(took)
