"""The table that tells the kernels about a batch: where each picture is, how it is laid out, where it goes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.backends.cuda.surface import DevicePlanes
from app.inference.colour import ColorMatrix, yuv_to_rgb
from app.inference.geometry import letterbox
from app.inference.model import ModelSpec

# `Picture` in kernels/picture.cuh. Tests compare the offsets with _HEAD and _LAYOUT.
PICTURE = np.dtype(
    [
        ("y", "<u8"),
        ("u", "<u8"),
        ("v", "<u8"),
        ("min_score", "<f4"),
        ("width", "<i4"),  # 0: the row is blank
        ("height", "<i4"),
        ("left", "<i4"),
        ("top", "<i4"),
        ("box_width", "<i4"),
        ("box_height", "<i4"),
        ("scale_x", "<f4"),
        ("scale_y", "<f4"),
        ("y_pitch", "<i4"),
        ("chroma_pitch", "<i4"),
        ("chroma_step", "<i4"),
        ("chroma_width", "<i4"),
        ("chroma_height", "<i4"),
        ("sample_bytes", "<i4"),
        ("colour", "<f4", (3, 4)),
        ("reserved", "<i4"),
    ]
)
# The same in two parts: what changes with every picture, and what stays as long as a stream keeps its format.
_HEAD = struct.Struct("<3Qf")
_LAYOUT = struct.Struct("<6i2f6i12f4x")
_BLANK = bytes(PICTURE.itemsize)


class DevicePicture(Protocol):
    """What the kernels read of a surface."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def planes(self) -> DevicePlanes: ...


class PictureTable:
    """Rows of `PICTURE`, one for each image of a batch, in memory that the device copies from. Not thread-safe."""

    def __init__(self, spec: ModelSpec, array: NDArray[np.uint8], capacity: int) -> None:
        """`array` is u8[nbytes(capacity)], pinned memory that outlives the table. All rows start blank."""
        if len(array) < self.nbytes(capacity):
            raise ValueError(f"a table of {capacity} rows has {self.nbytes(capacity)} bytes, not {len(array)}")
        self._capacity = capacity
        self._memory = array.data
        self._memory[: self.nbytes(capacity)] = bytes(self.nbytes(capacity))

        @lru_cache(maxsize=256)  # cameras of a few formats; making a row anew takes ten times as long
        def layout(*key: object) -> bytes:
            return _layout(spec, *key)  # type: ignore[arg-type]

        self._layout = layout

    @staticmethod
    def nbytes(capacity: int) -> int:
        """Bytes of a table of `capacity` rows."""
        return capacity * PICTURE.itemsize

    def write(self, pictures: Sequence[DevicePicture], min_scores: Sequence[float], *, rows: int) -> None:
        """Describe the pictures in the first rows; up to `rows` (>= len(pictures)) the rest is blank.

        The kernels skip a blank row: its input keeps what it had, its slab says that nothing was found.
        """
        if not len(pictures) == len(min_scores) <= rows <= self._capacity:
            raise ValueError(
                f"a table of {self._capacity} rows takes no {len(pictures)} pictures "
                f"with {len(min_scores)} scores in {rows} rows"
            )
        size, memory = PICTURE.itemsize, self._memory
        at = 0
        for picture, min_score in zip(pictures, min_scores, strict=True):
            p = picture.planes
            _HEAD.pack_into(memory, at, p.y, p.u, p.v, min_score)
            memory[at + _HEAD.size : at + size] = self._layout(
                picture.width,
                picture.height,
                p.y_pitch,
                p.chroma_pitch,
                p.chroma_step,
                p.chroma_width,
                p.chroma_height,
                p.sample_bytes,
                p.white,
                p.full_range,
                p.matrix,
            )
            at += size
        for blank in range(at, rows * size, size):
            memory[blank : blank + size] = _BLANK


def _layout(
    spec: ModelSpec,
    width: int,
    height: int,
    y_pitch: int,
    chroma_pitch: int,
    chroma_step: int,
    chroma_width: int,
    chroma_height: int,
    sample_bytes: int,
    white: float,
    full_range: bool,
    matrix: ColorMatrix,
) -> bytes:
    """A row from `width` on. The colour map takes samples as they are, whatever their depth."""
    if sample_bytes not in (1, 2) or min(width, height, chroma_width, chroma_height) < 1:
        raise ValueError(
            f"a picture of {width}x{height} with {chroma_width}x{chroma_height} chroma samples "
            f"of {sample_bytes} bytes cannot be scaled"
        )
    box = letterbox(width, height, spec.input_width, spec.input_height, spec.letterbox)
    colour = yuv_to_rgb(matrix, full_range, spec.colour) * ([255.0 / white] * 3 + [1.0])
    return _LAYOUT.pack(
        width,
        height,
        box.x,
        box.y,
        box.width,
        box.height,
        width / box.width,
        height / box.height,
        y_pitch,
        chroma_pitch,
        chroma_step,
        chroma_width,
        chroma_height,
        sample_bytes,
        *colour.ravel().tolist(),
    )
