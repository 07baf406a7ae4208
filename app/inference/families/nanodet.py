"""NanoDet and NanoDet-Plus: distances to the four sides, each a distribution over eight bins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.families.base import MAX_CANDIDATES, STRIDES, Candidates, grid, hits, strongest
from app.types import FloatArray

BINS = 8  # reg_max 7: distances of 0..7 strides
PLUS_STRIDES = (8, 16, 32, 64)


class NanoDet:
    """Class scores (sigmoid already) f32[cells, classes] and side logits f32[cells, 4 x 8].

    Either one pair of tensors per stride, all class tensors first, or a single f32[cells, classes + 32]. A distance
    is the mean of softmax(logits) in strides; a cell's centre is x * s + 0.5 (s - 1), or x * s in NanoDet-Plus, which
    is told by its fourth stride. The classes are independent: a cell gives a candidate for each that reaches the
    score. Source: Generalized Focal Loss, arXiv:2006.04388, and the priors in NanoDet's heads.
    """

    needs_nms = True

    def __init__(self, input_width: int, input_height: int, *, plus: bool = False) -> None:
        cells = grid(input_width, input_height, PLUS_STRIDES if plus else STRIDES)
        shift = np.zeros_like(cells.strides) if plus else np.float32(0.5) * (cells.strides - np.float32(1.0))
        self._centres = cells.cells * cells.strides + shift
        self._strides = cells.strides

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        found = [_reaching(scores, logits, min_score) for scores, logits in _of_strides(outputs)]
        values = np.concatenate([each.scores for each in found])
        first_rows = itertools.accumulate([each.cells for each in found[:-1]], initial=0)
        rows = np.concatenate([first + each.rows for first, each in zip(first_rows, found, strict=True)])
        class_ids = np.concatenate([each.class_ids for each in found])
        logits = np.concatenate([each.logits for each in found])
        if len(values) > MAX_CANDIDATES:
            taken = strongest(values)
            values, rows, class_ids, logits = values[taken], rows[taken], class_ids[taken], logits[taken]
        sides = _mean_bin(logits.reshape(-1, 4, BINS)) * self._strides[rows]
        centres = self._centres[rows]
        return Candidates(
            boxes=np.concatenate((centres - sides[:, :2], centres + sides[:, 2:]), axis=1),
            scores=values,
            class_ids=class_ids.astype(np.int32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reaching:
    """What reaches the score in the tensors of a stride, which have `cells` rows."""

    cells: int
    rows: NDArray[np.intp]
    class_ids: NDArray[np.intp]
    scores: FloatArray
    logits: FloatArray  # f32[n, 32]


def _reaching(scores: FloatArray, logits: FloatArray, min_score: float) -> _Reaching:
    cells, classes = scores.shape
    rows, class_ids = np.divmod(hits(scores.reshape(-1), min_score), classes)
    return _Reaching(cells=cells, rows=rows, class_ids=class_ids, scores=scores[rows, class_ids], logits=logits[rows])


def _of_strides(outputs: Sequence[FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
    """Class scores and side logits, as they come: for each stride, or one pair for all. Nothing large is copied."""
    if len(outputs) == 1:
        return [(outputs[0][:, : -4 * BINS], outputs[0][:, -4 * BINS :])]
    half = len(outputs) // 2
    return list(zip(outputs[:half], outputs[half:], strict=True))


def _mean_bin(logits: FloatArray) -> FloatArray:
    """f32[n, 4, 8] -> f32[n, 4], the expected bin."""
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    mean: FloatArray = weights @ np.arange(BINS, dtype=np.float32) / weights.sum(axis=2)
    return mean
