"""From the model's raw outputs to boxes in source pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.inference.families.base import Candidates, Decoder
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

    0.1 to 0.2 ms a frame at usual scores, more on the cold caches that an inference leaves: only what reaches a
    frame's `min_score` is ever looked at closely.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # exp() of a broken model's outputs, and what follows from it
        return _postprocess(outputs, letterboxes, decoder, min_scores, iou)


def _postprocess(
    outputs: Sequence[FloatArray],
    letterboxes: Sequence[Letterbox],
    decoder: Decoder,
    min_scores: Sequence[float],
    iou: float,
) -> list[Found]:
    kept = [
        _best(decoder, [output[number] for output in outputs], min_score, iou)
        for number, min_score in enumerate(min_scores)
    ]
    frame_index = np.repeat(np.arange(len(kept)), [len(candidates.scores) for candidates in kept])
    boxes = to_source(np.concatenate([candidates.boxes for candidates in kept]), frame_index, letterboxes)
    # Nothing is left of a box that lay in the padding. NaN compares false: a broken model's boxes end here too.
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    ends = np.cumsum([len(candidates.scores) for candidates in kept])[:-1]
    return [
        Found(boxes=box[seen], scores=candidates.scores[seen], class_ids=candidates.class_ids[seen])
        for candidates, box, seen in zip(kept, np.split(boxes, ends), np.split(visible, ends), strict=True)
    ]


def _best(decoder: Decoder, outputs: Sequence[FloatArray], min_score: float, iou: float) -> Candidates:
    """A frame's candidates that reach its score and survive NMS, best first, in input pixels."""
    found = decoder.decode(outputs, min_score)
    found = _pick(found, by_score(found.scores))
    rows = nms(found.boxes, found.class_ids, iou) if decoder.needs_nms else np.arange(len(found.scores))
    return _pick(found, rows[:MAX_BOXES])


def _pick(candidates: Candidates, rows: NDArray[np.intp]) -> Candidates:
    return Candidates(
        boxes=candidates.boxes[rows], scores=candidates.scores[rows], class_ids=candidates.class_ids[rows]
    )
