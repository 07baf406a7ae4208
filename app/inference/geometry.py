"""Where a frame lies in the model's input, and the way back from input pixels to source pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.types import FloatArray

Placement: TypeAlias = Literal["top_left", "centre"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letterbox:
    """A frame's rectangle in the model's input: the whole frame, aspect ratio kept, the rest is padding."""

    source_width: int
    source_height: int
    x: int
    y: int
    width: int
    height: int


@lru_cache(maxsize=256)
def letterbox(
    source_width: int, source_height: int, input_width: int, input_height: int, placement: Placement
) -> Letterbox:
    """Fit a frame into the input, in whole pixels. All sizes at least 1.

    Rounds to the nearest pixel, which bends the aspect ratio least. (YOLOX's own code truncates.)
    """
    scale = min(input_width / source_width, input_height / source_height)
    width, height = (max(1, round(size * scale)) for size in (source_width, source_height))
    centred = placement == "centre"
    return Letterbox(
        source_width=source_width,
        source_height=source_height,
        x=(input_width - width) // 2 if centred else 0,
        y=(input_height - height) // 2 if centred else 0,
        width=width,
        height=height,
    )


def to_source(boxes: FloatArray, letterbox: Letterbox) -> FloatArray:
    """Map a frame's boxes back to its source, clipped to the frame.

    boxes: f32[n, 4] x1 y1 x2 y2 in input pixels. Returns f32[n, 4] in source pixels. The scale is each axis' own: a
    size rounded to whole pixels stretched the frame a bit.
    """
    origin, scale, limit = _way_back(letterbox)
    corners: FloatArray = boxes - origin
    corners *= scale
    np.maximum(corners, np.float32(0.0), out=corners)
    np.minimum(corners, limit, out=corners)
    return corners


@lru_cache(maxsize=256)
def _way_back(letterbox: Letterbox) -> NDArray[np.float32]:
    """Origin, scale and limit of x1 y1 x2 y2: f32[3, 4], not to be written to."""
    b = letterbox
    rows = [(b.x, b.y), (b.source_width / b.width, b.source_height / b.height), (b.source_width, b.source_height)]
    return np.tile(np.array(rows, dtype=np.float32), 2)
