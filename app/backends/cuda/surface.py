"""A decoded picture in device memory, as the CUDA backend's sources give it and its detector reads it."""

from __future__ import annotations

from dataclasses import dataclass

from app.inference.colour import ColorMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlanes:
    """Where a picture's samples lie in device memory: NV12, P016 and planar YUV of any chroma subsampling.

    Addresses and pitches are in bytes. `chroma_step` counts samples between two neighbours of one chroma component:
    1 when u and v have planes of their own, 2 when they alternate (then v is one sample behind u).
    """

    y: int
    u: int
    v: int
    y_pitch: int
    chroma_pitch: int
    chroma_step: int
    chroma_width: int  # chroma samples in a row, of each component
    chroma_height: int
    sample_bytes: int  # 1 or 2
    white: float  # a sample of this value is 255 in 8 bits: 255 for 8 bits, 255 x 256 for P016
    full_range: bool  # 0..255 (JPEG) instead of 16..235
    matrix: ColorMatrix
