"""Decoded frames into the model's input: scaled, letterboxed, in the model's colour order, as u8."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from app.backends.ffmpeg.surface import HostSurface, YuvPlanes
from app.inference.colour import yuv_to_rgb
from app.inference.geometry import Letterbox, letterbox
from app.inference.model import ModelSpec


class Preprocessor:
    """Fills one context's batch buffer. Belongs to that context's thread.

    The buffer `images` is u8[capacity, height, width, 3]; mean, std and the channel order of the tensor are applied
    by the model's own graph, which measured the same as doing it here and saves a float copy of every frame.

    YUV frames are scaled plane by plane and only then turned into RGB, with the matrix and the range of the stream: a
    fifth to a half cheaper than turning the whole frame into RGB first, within 5 levels of it for 99 % of the pixels.
    Chroma at half of the input's size would save a quarter more, and costs yolov8n 0.01 AP (`scripts/routes.py`).
    """

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        self.images: NDArray[np.uint8] = np.full(
            (capacity, spec.input_height, spec.input_width, 3), spec.pad, dtype=np.uint8
        )
        self._spec = spec
        self._scratch = np.empty(6 * spec.input_height * spec.input_width, dtype=np.uint8)
        self._painted: list[Letterbox | None] = [None] * capacity

    def write(self, surfaces: Sequence[HostSurface]) -> list[Letterbox]:
        """Write one frame into each of the first slots; returns where each frame lies in its slot."""
        return [self._write(slot, surface) for slot, surface in enumerate(surfaces)]

    def _write(self, slot: int, surface: HostSurface) -> Letterbox:
        spec = self._spec
        box = letterbox(surface.width, surface.height, spec.input_width, spec.input_height, spec.letterbox)
        image = self.images[slot]
        if box != self._painted[slot]:  # the padding of the last frame here is in other places
            image[:] = spec.pad
            self._painted[slot] = box
        content = image[box.y : box.y + box.height, box.x : box.x + box.width]
        planes = surface.planes()
        if planes is not None:
            self._from_yuv(planes, content)
        else:
            self._from_bgr(surface, content)
        return box

    def _from_yuv(self, planes: YuvPlanes, content: NDArray[np.uint8]) -> None:
        height, width = content.shape[:2]
        pixels = height * width
        scaled = self._scratch[: 3 * pixels].reshape(3, height, width)
        for plane, target in zip((planes.y, planes.u, planes.v), scaled, strict=True):
            cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        merged = self._scratch[3 * pixels : 6 * pixels].reshape(height, width, 3)
        cv2.merge(list(scaled), merged)
        cv2.transform(merged, yuv_to_rgb(planes.matrix, planes.full_range, self._spec.colour), dst=content)

    def _from_bgr(self, surface: HostSurface, content: NDArray[np.uint8]) -> None:
        height, width = content.shape[:2]
        if self._spec.colour == "bgr":
            cv2.resize(surface.to_bgr(), (width, height), dst=content, interpolation=cv2.INTER_LINEAR)
            return
        scaled = self._scratch[: 3 * height * width].reshape(height, width, 3)
        cv2.resize(surface.to_bgr(), (width, height), dst=scaled, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB, dst=content)
