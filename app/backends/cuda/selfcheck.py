"""Whether an engine finds what its ONNX file finds: no engine is published before it has been held against OpenVINO.

What makes a detector speak without a photo? A model that was trained on anything sees something in random shapes on a
smooth background, though it is seldom sure: over 16 such frames five models gave 3 to 13 boxes above 0.4, a sixth gave
none. So in FP32 and FP16 the ten best boxes of each frame are compared, however low their scores. Engines that are
right repeat them: 95 to 100 % of FP16's. With weights 10 % off, or frames mixed up, 0 to 21 % are left; with red and
blue swapped 13 to 59 %.

INT8 scales are measured on the calibration images and mean nothing elsewhere: of yolox_nano's best boxes on drawn
shapes half are left. So INT8 is compared on the calibration images, by the boxes that count (score 0.4 and more): 90 to
100 % of them are found again in six models that kept their AP, 0 to 2 % in two that lost it (yolox_nano from 0.348 to
0.027). All figures are OpenVINO's and ONNX Runtime's; TensorRT's own have not been measured yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from app.backends.cpu.postprocess import postprocess
from app.errors import ModelError
from app.inference.families.identify import decoder_for
from app.inference.found import Found
from app.inference.geometry import letterbox
from app.inference.model import ModelSpec
from app.inference.nms import iou_matrix
from app.types import FloatArray

# Letterboxed images u8[n, height, width, 3] in the model's colour order in; the outputs that the spec names, in its
# order, f32[n, ...] out.
Infer: TypeAlias = Callable[[NDArray[np.uint8]], Sequence[FloatArray]]

DRAWN_FRAMES = 12
CALIBRATION_FRAMES = 24
_LEAST_BOXES = 10  # fewer prove nothing
_IOU = 0.45  # of NMS; what it is matters less than that it is the same for both
_FLOOR = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which boxes must be found again, and what counts as the same box (besides the class)."""

    best: int  # boxes of a frame at most, best first
    min_score: float
    iou: float
    score_within: float  # of the score, plus `score_share` of it
    score_share: float = 0.0
    share: float = 0.9  # of the boxes that must be found again


EXACT = Rule(best=10, min_score=_FLOOR, iou=0.9, score_within=0.02, score_share=0.1)
QUANTISED = Rule(best=300, min_score=0.4, iou=0.75, score_within=0.3, share=0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many boxes were looked for, how many were found again, how far the worst of these was off."""

    boxes: int
    found: int
    least_iou: float
    largest_score_step: float

    @property
    def share(self) -> float:
        return self.found / self.boxes if self.boxes else 1.0


def hold_against(reference: Infer, engine: Infer, spec: ModelSpec, images: NDArray[np.uint8], rule: Rule) -> str:
    """Run both on the images and compare what they find. Blocking.

    `images` are in the model's size and colour order. Returns a sentence with the numbers. Raises `ModelError` when
    the engine disagrees, or gives outputs of other shapes, or something that is no number.
    """
    wanted, given = reference(images), engine(images)
    for name, one, other in zip(spec.output_names, wanted, given, strict=True):
        if one.shape != other.shape:
            problem = f"output {name} is {list(other.shape)}, not {list(one.shape)}"
        elif np.isfinite(one).all() and not np.isfinite(other).all():
            problem = f"output {name} holds values that are no numbers"
        else:
            continue
        raise ModelError(f"the engine disagrees with {spec.path.name}: {problem}")
    # A box that just reaches the floor in one may just miss it in the other, and is the same box all the same.
    return judge(agreement(_boxes(spec, wanted, _FLOOR), _boxes(spec, given, _FLOOR / 2), rule), spec, rule)


def agreement(reference: Sequence[Found], other: Sequence[Found], rule: Rule) -> Agreement:
    """Look for the reference's boxes, frame by frame, among the other's. A box may be found for two that are alike."""
    boxes = found = 0
    least_iou, largest_step = 1.0, 0.0
    for one, two in zip(reference, other, strict=True):
        count = min(rule.best, int((one.scores >= rule.min_score).sum()))
        overlaps = iou_matrix(one.boxes[:count], two.boxes)
        steps = np.abs(one.scores[:count, None] - two.scores[None, :])
        allowed = rule.score_within + rule.score_share * one.scores[:count, None]
        same = (one.class_ids[:count, None] == two.class_ids[None, :]) & (overlaps >= rule.iou) & (steps <= allowed)
        for row in np.flatnonzero(same.any(axis=1)):
            best = int(np.where(same[row], overlaps[row], -1.0).argmax())
            least_iou = min(least_iou, float(overlaps[row, best]))
            largest_step = max(largest_step, float(steps[row, best]))
        boxes += count
        found += int(same.any(axis=1).sum())
    return Agreement(boxes=boxes, found=found, least_iou=least_iou, largest_score_step=largest_step)


def judge(result: Agreement, spec: ModelSpec, rule: Rule) -> str:
    """A sentence about an engine that may be used. Raises `ModelError` about one that may not."""
    if result.boxes < _LEAST_BOXES:
        return f"could not be held against {spec.path.name}: it finds only {result.boxes} boxes to compare"
    if result.share < rule.share:
        raise ModelError(
            f"the engine disagrees with {spec.path.name}: of {result.boxes} boxes only {result.found} are found again "
            f"({result.share:.0%}; same class, IoU of {rule.iou} or more, a like score), {rule.share:.0%} are wanted"
        )
    return (
        f"agrees with {spec.path.name} on {result.found} of {result.boxes} boxes "
        f"(IoU at least {result.least_iou:.2f}, scores within {result.largest_score_step:.3f})"
    )


def drawn_frames(count: int, width: int, height: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """u8[count, height, width, 3]: rectangles and ellipses of random colours before a smooth, mottled background."""
    random = np.random.default_rng(seed)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for frame in frames:
        background = np.full((height, width, 3), random.uniform(60, 190), dtype=np.float32)
        for cells, contrast in ((4, 60), (16, 40), (64, 20)):
            noise = random.normal(0, contrast, (cells, cells, 3)).astype(np.float32)
            background += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        frame[:] = np.clip(background, 0, 255)
        for _ in range(random.integers(3, 9)):
            _draw_shape(frame, random)
    return frames


def _draw_shape(frame: NDArray[np.uint8], random: np.random.Generator) -> None:
    height, width = frame.shape[:2]
    colour = [int(value) for value in random.integers(0, 256, 3)]
    x, y = int(random.integers(width)), int(random.integers(height))
    size = int(random.integers(width // 20, width // 4)), int(random.integers(height // 20, height // 3))
    if random.random() < 0.5:
        cv2.rectangle(frame, (x, y), (x + size[0], y + size[1]), colour, thickness=-1)
    else:
        cv2.ellipse(frame, (x, y), size, float(random.uniform(0, 180)), 0, 360, colour, thickness=-1)


def _boxes(spec: ModelSpec, outputs: Sequence[FloatArray], floor: float) -> list[Found]:
    width, height = spec.input_width, spec.input_height
    whole = letterbox(width, height, width, height, spec.letterbox)
    count = len(outputs[0])
    decoder = decoder_for(spec.family, width, height)
    return postprocess(outputs, [whole] * count, decoder=decoder, min_scores=[floor] * count, iou=_IOU)
