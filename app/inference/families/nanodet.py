"""NanoDet and NanoDet-Plus: distances to the four sides, each a distribution over eight bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.inference.families.base import STRIDES, Candidates, grid, reached
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
        class_scores, logits = _join(outputs)
        rows, class_ids = np.divmod(reached(class_scores.reshape(-1), min_score), class_scores.shape[1])
        sides = _mean_bin(logits[rows].reshape(-1, 4, BINS)) * self._strides[rows]
        centres = self._centres[rows]
        return Candidates(
            boxes=np.concatenate((centres - sides[:, :2], centres + sides[:, 2:]), axis=1),
            scores=class_scores[rows, class_ids],
            class_ids=class_ids.astype(np.int32),
        )


def _join(outputs: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    if len(outputs) == 1:
        return outputs[0][:, : -4 * BINS], outputs[0][:, -4 * BINS :]
    half = len(outputs) // 2
    return np.concatenate(outputs[:half]), np.concatenate(outputs[half:])


def _mean_bin(logits: FloatArray) -> FloatArray:
    """f32[n, 4, 8] -> f32[n, 4], the expected bin."""
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    mean: FloatArray = weights @ np.arange(BINS, dtype=np.float32) / weights.sum(axis=2)
    return mean
