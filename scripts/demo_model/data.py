"""Pictures and boxes for training and evaluation, drawn when they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from app.simulator.scenes import Scene
from app.types import BgrImage, FloatArray, IntArray

# Seeds below 1,000 are the demo's and the tests'.
EVALUATION_SEEDS = range(10_000, 10_100)
FIRST_TRAINING_SEED = 100_000
PAD = 114
FRAME_SIZES = ((640, 360), (640, 360), (640, 360), (640, 480))
MIN_SIDE_PX = 3  # in input pixels: smaller objects are not taught
MIN_LEFT = 0.35  # the least share of a box that must remain after cropping


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A picture u8[h, w, 3] BGR with its boxes f32[n, 4] x1 y1 x2 y2 and class ids i32[n]."""

    image: BgrImage
    boxes: FloatArray
    class_ids: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """images: f32[n, 3, h, w] BGR 0..255; boxes: f32[n, g, 4] in input pixels; classes: i64[n, g], -1 where empty."""

    images: FloatArray
    boxes: FloatArray
    classes: np.ndarray[tuple[int, int], np.dtype[np.int64]]


def letterbox(image: BgrImage, size: int) -> tuple[BgrImage, float]:
    """Scale to fit a square, picture at the top left, the rest grey. Returns it and the scale."""
    scale = min(size / image.shape[1], size / image.shape[0])
    width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
    square = np.full((size, size, 3), PAD, np.uint8)
    square[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return square, scale


def evaluation_samples(per_scene: int = 3) -> Iterator[Sample]:
    """Frames of scenes that the training never saw, at the sizes that cameras have."""
    for i, seed in enumerate(EVALUATION_SEEDS):
        width, height = FRAME_SIZES[i % len(FRAME_SIZES)]
        scene = Scene(seed, width, height)
        for k in range(per_scene):
            image, boxes, class_ids = scene.render(scene.period_s * (k + 0.5) / per_scene)
            yield Sample(image=image, boxes=boxes, class_ids=class_ids)


class Stream:
    """An endless stream of training batches out of a pool that new scenes keep renewing."""

    def __init__(self, *, seed: int, size: int, pool: int = 1000, per_scene: int = 5) -> None:
        self._rng = np.random.default_rng(seed)
        self._size, self._per_scene, self._drawn = size, per_scene, 0
        self._pools: dict[tuple[int, int], deque[Sample]] = {s: deque(maxlen=pool // 2) for s in set(FRAME_SIZES)}
        self._next_seed = FIRST_TRAINING_SEED + seed * 1_000_000
        for _ in range(pool // per_scene // 4):
            self._draw_scene()

    def batch(self, count: int) -> Batch:
        """`count` augmented samples of one frame size; an eighth of the batches is square, the rest is cut short."""
        self._drawn += 1
        if self._drawn % 2:
            self._draw_scene()
        width, height = FRAME_SIZES[int(self._rng.integers(len(FRAME_SIZES)))]
        pool = self._pools[(width, height)]
        used = round(height * self._size / width)
        rows = self._size if self._rng.random() < 0.125 else -(-used // 32) * 32
        images = np.full((count, rows, self._size, 3), PAD, np.uint8)
        taken: list[Sample] = []
        for i in range(count):
            taken.append(self._augment(pool[int(self._rng.integers(len(pool)))], used))
            images[i, :used] = taken[-1].image
        most = max(1, *(len(s.class_ids) for s in taken))
        boxes, classes = np.zeros((count, most, 4), np.float32), np.full((count, most), -1, np.int64)
        for i, sample in enumerate(taken):
            boxes[i, : len(sample.boxes)], classes[i, : len(sample.class_ids)] = sample.boxes, sample.class_ids
        return Batch(images=images.transpose(0, 3, 1, 2).astype(np.float32), boxes=boxes, classes=classes)

    def _draw_scene(self) -> None:
        size = FRAME_SIZES[self._next_seed % len(FRAME_SIZES)]
        scene = Scene(self._next_seed, *size)
        self._next_seed += 1
        for t_s in self._rng.uniform(0, scene.period_s, self._per_scene):
            image, boxes, class_ids = scene.render(float(t_s))
            self._pools[size].append(Sample(image=image, boxes=boxes, class_ids=class_ids))

    def _augment(self, sample: Sample, used: int) -> Sample:
        """Zoom, shift, mirror, recolour, and compress as a camera would."""
        rng, width = self._rng, self._size
        base = width / sample.image.shape[1]
        scale = base * (float(np.exp(rng.uniform(-0.2, 0.5))) if rng.random() < 0.7 else 1.0)
        spare = np.array([width, used]) - np.array([sample.image.shape[1], sample.image.shape[0]]) * scale
        shift = spare * rng.random(2)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        left = shift[0] if mirror > 0 else width - shift[0]
        matrix = np.array([[mirror * scale, 0, left], [0, scale, shift[1]]], np.float32)
        way = cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR
        image = cv2.warpAffine(sample.image, matrix, (width, used), flags=way, borderValue=(PAD, PAD, PAD))
        corners = sample.boxes.reshape(-1, 2, 2) * np.array([mirror * scale, scale]) + np.array([left, shift[1]])
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
        clipped = np.clip(boxes, 0, [width, used, width, used])
        area, left_area = np.prod(boxes[:, 2:] - boxes[:, :2], 1), np.prod(clipped[:, 2:] - clipped[:, :2], 1)
        keep = (left_area > MIN_LEFT * area) & ((clipped[:, 2:] - clipped[:, :2]).min(1, initial=1e9) >= MIN_SIDE_PX)
        return Sample(
            image=self._recolour(image), boxes=clipped[keep].astype(np.float32), class_ids=sample.class_ids[keep]
        )

    def _recolour(self, image: BgrImage) -> BgrImage:
        rng = self._rng
        if rng.random() < 0.3:
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(-90, 91))) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if rng.random() < 0.5:
            image = cv2.convertScaleAbs(image, alpha=float(rng.uniform(0.7, 1.3)), beta=float(rng.uniform(-20, 20)))
        if rng.random() < 0.2:
            image = cv2.blur(image, (2, 2))
        if rng.random() < 0.5:
            quality = int(rng.integers(35, 95))
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return np.asarray(image)
