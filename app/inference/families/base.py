"""What a model family is: how its raw outputs become boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.inference.geometry import Placement
from app.types import FloatArray, IntArray

Colour: TypeAlias = Literal["bgr", "rgb"]
Rgb: TypeAlias = tuple[float, float, float]

STRIDES = (8, 16, 32)
MAX_CANDIDATES = 1000  # of a frame; NMS takes n² time and memory. At usual scores a frame has tens
_BLOCK = 65_536  # scores that are compared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """How a family wants its pixels: (pixel - mean) / std per channel, in the order that `colour` names."""

    colour: Colour
    letterbox: Placement
    pad: int  # pixel value of the padding, before mean and std
    mean: Rgb
    std: Rgb


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What one frame's outputs claim, unsorted. boxes: f32[n, 4] x1 y1 x2 y2 in input pixels; scores: f32[n]."""

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray


class Decoder(Protocol):
    """Turns the outputs of one frame into candidates. Immutable, so any thread may use it."""

    @property
    def needs_nms(self) -> bool: ...

    def decode(self, outputs: Sequence[FloatArray], min_score: float) -> Candidates:
        """The best `MAX_CANDIDATES` with a score of at least `min_score`. `outputs` lack the batch axis."""
        ...


def reached(scores: FloatArray, min_score: float) -> NDArray[np.intp]:
    """Indices, rising, of the f32[n] scores that reach `min_score`: the best `MAX_CANDIDATES`, of equal ones the first.

    However low a score is asked for, what follows has little to do.
    """
    found = hits(scores, min_score)
    return found[strongest(scores[found])] if len(found) > MAX_CANDIDATES else found


def hits(scores: FloatArray, min_score: float) -> NDArray[np.intp]:
    """Indices, rising, of all f32[n] scores that reach `min_score`."""
    # Block by block, since a mask of every score of a large model would go to memory and back: a third faster.
    found = [
        start + np.flatnonzero(mask)
        for start in range(0, len(scores), _BLOCK)
        if (mask := scores[start : start + _BLOCK] >= min_score).any()
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.intp)


def strongest(scores: FloatArray) -> NDArray[np.bool_]:
    """Which of more than `MAX_CANDIDATES` scores, f32[n], are the best of them; of equal ones the first."""
    last = np.partition(scores, -MAX_CANDIDATES)[-MAX_CANDIDATES]
    taken: NDArray[np.bool_] = scores > last
    taken[np.flatnonzero(scores == last)[: MAX_CANDIDATES - np.count_nonzero(taken)]] = True
    return taken


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of all strides, row by row, finest stride first. cells: f32[n, 2] as x, y; strides: f32[n, 1]."""

    cells: FloatArray
    strides: FloatArray


def grid(input_width: int, input_height: int, strides: Sequence[int] = STRIDES) -> Grid:
    """One cell per stride x stride pixels, the last ones cut off by the border."""
    cells, of_cell = [], []
    for stride in strides:
        columns, rows = -(-input_width // stride), -(-input_height // stride)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        cells.append(np.stack((x, y), axis=-1).reshape(-1, 2))
        of_cell.append(np.full((columns * rows, 1), stride))
    return Grid(np.concatenate(cells).astype(np.float32), np.concatenate(of_cell).astype(np.float32))


def cell_count(input_width: int, input_height: int, strides: Sequence[int] = STRIDES) -> int:
    """How many cells `grid` has."""
    return sum(-(-input_width // stride) * -(-input_height // stride) for stride in strides)


def corners(centres: FloatArray, sizes: FloatArray) -> FloatArray:
    """f32[n, 2] centres and f32[n, 2] sizes -> f32[n, 4] x1 y1 x2 y2."""
    half = sizes * np.float32(0.5)
    boxes = np.empty((len(centres), 4), dtype=np.float32)
    np.subtract(centres, half, out=boxes[:, :2])
    np.add(centres, half, out=boxes[:, 2:])
    return boxes
