"""The models' pre- and postprocessing written a second time, plainly, to hold the service's own against.

One image at a time, float32, swscale's BGR, greedy NMS in a loop: slow, obvious, and sharing no code with `app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray

import app.backends.cpu  # noqa: F401  keeps OpenVINO's telemetry off before OpenVINO is imported

Array = NDArray[np.float32]
Found = list[tuple[int, float, tuple[float, float, float, float]]]  # class id, score, box in source pixels


@dataclass(frozen=True)
class Recipe:
    size: int
    rgb: bool
    centred: bool
    pad: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    decode: Callable[[list[Array], int], tuple[Array, Array]]  # boxes xyxy in input pixels, scores [n, classes]
    nms: bool = True


def _yolox(outputs: list[Array], size: int) -> tuple[Array, Array]:
    raw = outputs[0][0]
    cells, strides = [], []
    for stride in (8, 16, 32):
        n = size // stride
        ys, xs = np.mgrid[:n, :n]
        cells.append(np.stack([xs.ravel(), ys.ravel()], 1))
        strides.append(np.full((n * n, 1), stride))
    grid, stride_of = np.concatenate(cells), np.concatenate(strides)
    centre, extent = (raw[:, :2] + grid) * stride_of, np.exp(raw[:, 2:4]) * stride_of
    return np.concatenate([centre - extent / 2, centre + extent / 2], 1), raw[:, 4:5] * raw[:, 5:]


def _yolov8(outputs: list[Array], size: int) -> tuple[Array, Array]:
    raw = outputs[0][0].T
    return np.concatenate([raw[:, :2] - raw[:, 2:4] / 2, raw[:, :2] + raw[:, 2:4] / 2], 1), raw[:, 4:]


def _end_to_end(outputs: list[Array], size: int) -> tuple[Array, Array]:
    raw = outputs[0][0]
    scores = np.zeros((len(raw), 80), np.float32)
    scores[np.arange(len(raw)), raw[:, 5].astype(int)] = raw[:, 4]
    return raw[:, :4], scores


def _nanodet(outputs: list[Array], size: int) -> tuple[Array, Array]:
    flat = [output.reshape(-1, output.shape[-1]) for output in outputs]
    boxes, scores = [], []
    for stride in (8, 16, 32):
        n = size // stride
        one_class = next(part for part in flat if part.shape == (n * n, 80))
        distance = next(part for part in flat if part.shape == (n * n, 32)).reshape(-1, 4, 8)
        share = np.exp(distance - distance.max(2, keepdims=True))
        left, top, right, bottom = ((share / share.sum(2, keepdims=True)) @ np.arange(8) * stride).T
        ys, xs = np.mgrid[:n, :n]
        cx, cy = xs.ravel() * stride + 0.5 * (stride - 1), ys.ravel() * stride + 0.5 * (stride - 1)
        boxes.append(np.stack([cx - left, cy - top, cx + right, cy + bottom], 1))
        scores.append(one_class)
    return np.concatenate(boxes), np.concatenate(scores)


_NONE, _UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
_NANODET = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
RECIPES = {
    "yolox_nano_416": Recipe(416, False, False, 114, *_NONE, decode=_yolox),
    "light_person_detector_yolox": Recipe(192, False, False, 114, *_NONE, decode=_yolox),
    "nanodet_m_320": Recipe(320, False, True, 0, *_NANODET, decode=_nanodet),
    "yolov8n_640_dyn": Recipe(640, True, True, 114, *_UNIT, decode=_yolov8),
    "yolov10n_640_dyn": Recipe(640, True, True, 114, *_UNIT, decode=_end_to_end, nms=False),
}


class Reference:
    """One model, run in float32 on one image at a time."""

    def __init__(self, path: Path) -> None:
        self.recipe = RECIPES[path.stem]
        core: Any = ov.Core()
        model = core.read_model(path)
        model.reshape({model.input(0): [1, 3, self.recipe.size, self.recipe.size]})
        self._compiled = core.compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        )

    def detect(self, image: NDArray[np.uint8], *, min_score: float = 0.3, iou: float = 0.45) -> Found:
        recipe, (height, width) = self.recipe, image.shape[:2]
        scale = min(recipe.size / width, recipe.size / height)
        new_w, new_h = round(width * scale), round(height * scale)
        left, top = ((recipe.size - new_w) // 2, (recipe.size - new_h) // 2) if recipe.centred else (0, 0)
        canvas = np.full((recipe.size, recipe.size, 3), recipe.pad, np.uint8)
        canvas[top : top + new_h, left : left + new_w] = cv2.resize(image, (new_w, new_h))
        pixels = canvas[:, :, ::-1] if recipe.rgb else canvas
        tensor = (pixels.astype(np.float32) - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
        result = self._compiled([np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])])
        boxes, scores = recipe.decode([np.asarray(out) for out in result.values()], recipe.size)
        boxes = (boxes - [left, top, left, top]) / scale
        boxes = boxes.clip(0, [width, height, width, height])
        return _best(boxes, scores, min_score, iou if recipe.nms else 1.0)


def _best(boxes: Array, scores: Array, min_score: float, iou: float) -> Found:
    classes, best = scores.argmax(1), scores.max(1)
    kept: Found = []
    for index in np.argsort(-best, kind="stable"):
        if best[index] < min_score:
            break
        box = tuple(float(v) for v in boxes[index])
        if all(other != classes[index] or overlap(box, kept_box) <= iou for other, _, kept_box in kept):
            kept.append((int(classes[index]), float(best[index]), box))  # type: ignore[arg-type]
    return kept


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def pictures(video: Path, limit: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """(seconds from the start, BGR picture) of the first `limit` frames."""
    with av.open(str(video)) as container, closing(container.decode(container.streams.video[0])) as frames:
        first = None
        for number, frame in enumerate(frames):
            if number == limit:
                return
            first = frame.time if first is None else first
            yield float(frame.time or 0) - float(first or 0), frame.to_ndarray(format="bgr24")
