"""From the model's raw outputs to boxes in source pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.inference.families.base import Decoder
from app.inference.found import MAX_BOXES, Found
from app.inference.geometry import Letterbox, to_source
from app.inference.nms import by_score, nms
from app.types import FloatArray


def postprocess(
    outputs: Sequence[FloatArray],
    letterboxes: Sequence[Letterbox],
    *,
    decoder: Decoder,
    min_scores: Sequence[float],
    iou: float,
) -> list[Found]:
    """The boxes of every frame of a batch. `outputs` have the batch as their first axis and are not kept.

    Only what reaches a frame's `min_score` is ever looked at closely: a loop over frames, and numpy inside of it.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # exp() of a broken model's outputs, and what follows from it
        return [
            _of_frame([output[number] for output in outputs], letterbox, decoder, min_score, iou)
            for number, (letterbox, min_score) in enumerate(zip(letterboxes, min_scores, strict=True))
        ]


def _of_frame(
    outputs: Sequence[FloatArray], letterbox: Letterbox, decoder: Decoder, min_score: float, iou: float
) -> Found:
    """A frame's boxes that reach its score and survive NMS, best first."""
    found = decoder.decode(outputs, min_score)
    best = by_score(found.scores)
    if decoder.needs_nms:
        best = best[nms(found.boxes[best], found.class_ids[best], iou)]
    best = best[:MAX_BOXES]
    boxes = to_source(found.boxes[best], letterbox)
    # Nothing is left of a box that lay in the padding. NaN compares false: a broken model's boxes end here too.
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not visible.all():
        boxes, best = boxes[visible], best[visible]
    return Found(boxes=boxes, scores=found.scores[best], class_ids=found.class_ids[best])
