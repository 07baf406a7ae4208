"""A drawing surface in metres, and the sprites that come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import cv2
import numpy as np

from app.types import BgrImage, FloatArray

Colour: TypeAlias = tuple[int, int, int]  # BGR
Point: TypeAlias = tuple[float, float]  # metres: x to the right of the anchor, y up from the ground

SUPERSAMPLE = 4  # drawn this much larger without anti-aliasing, then averaged down
SHADOW_ALPHA = 0.34  # below SOLID_ALPHA, so a shadow never counts as part of its object
SOLID_ALPHA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """A cut-out picture. bgr: u8[h, w, 3]; alpha: f32[h, w] in 0..1; the anchor is where it touches the ground."""

    bgr: BgrImage
    alpha: FloatArray
    anchor_x: float
    anchor_y: float
    solid_pixels: int  # how many are the object itself, not its shadow

    def flipped(self) -> Sprite:
        """The same, facing the other way."""
        return Sprite(
            bgr=np.ascontiguousarray(self.bgr[:, ::-1]),
            alpha=np.ascontiguousarray(self.alpha[:, ::-1]),
            anchor_x=self.bgr.shape[1] - self.anchor_x,
            anchor_y=self.anchor_y,
            solid_pixels=self.solid_pixels,
        )


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor below 1) or lighter (above 1)."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    mix = factor - 1
    b, g, r = (int(c + (255 - c) * mix) for c in colour)
    return (b, g, r)


class Canvas:
    """Transparent, `left_m` to `right_m` wide and `top_m` high above the ground."""

    def __init__(self, left_m: float, right_m: float, top_m: float, *, px_per_m: float, below_m: float = 0.25) -> None:
        self._scale = px_per_m * SUPERSAMPLE
        self._left_m, self._top_m = left_m, top_m
        width = max(2, round((right_m - left_m) * px_per_m))
        height = max(2, round((top_m + below_m) * px_per_m))
        self._size = (width, height)
        self._bgr = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 3), np.uint8)
        self._alpha = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        corners = np.array([self._px(p) for p in points], np.int32)
        cv2.fillPoly(self._bgr, [corners], colour)
        cv2.fillPoly(self._alpha, [corners], (255,))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, *, radius: float = 0.0) -> None:
        r = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
        if r <= 0:
            self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)
            return
        self.polygon([(x0 + r, y0), (x1 - r, y0), (x1 - r, y1), (x0 + r, y1)], colour)
        self.polygon([(x0, y0 + r), (x1, y0 + r), (x1, y1 - r), (x0, y1 - r)], colour)
        for x, y in ((x0 + r, y0 + r), (x1 - r, y0 + r), (x0 + r, y1 - r), (x1 - r, y1 - r)):
            self.ellipse((x, y), r, r, colour)

    def limb(self, points: Sequence[Point], thickness_m: float, colour: Colour) -> None:
        """A thick line through the points with round joints and ends."""
        thickness = max(1, round(thickness_m * self._scale))
        for a, b in pairwise(points):
            cv2.line(self._bgr, self._px(a), self._px(b), colour, thickness)
            cv2.line(self._alpha, self._px(a), self._px(b), (255,), thickness)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour, *, arc: tuple[int, int] = (0, 360)) -> None:
        """A filled ellipse, or the part of it between two angles in degrees (clockwise from the right)."""
        axes = (max(1, round(rx * self._scale)), max(1, round(ry * self._scale)))
        cv2.ellipse(self._bgr, self._px(centre), axes, 0, arc[0], arc[1], colour, -1)
        cv2.ellipse(self._alpha, self._px(centre), axes, 0, arc[0], arc[1], (255,), -1)

    def ring(self, centre: Point, radius: float, thickness_m: float, colour: Colour) -> None:
        thickness = max(1, round(thickness_m * self._scale))
        cv2.circle(self._bgr, self._px(centre), round(radius * self._scale), colour, thickness)
        cv2.circle(self._alpha, self._px(centre), round(radius * self._scale), (255,), thickness)

    def sprite(self, *, shadow_m: tuple[float, float] | None = None) -> Sprite:
        """What was drawn, averaged down, lit from above, with a shadow from x to x on the ground."""
        weight = cv2.resize(self._alpha, self._size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        colour = cv2.resize(self._bgr, self._size, interpolation=cv2.INTER_AREA).astype(np.float32)
        # Undrawn pixels are black, so an edge pixel has been darkened by its share of them; divide that out.
        colour /= np.maximum(weight, 1e-3)[..., None]
        height = len(weight)
        colour *= np.linspace(1.1, 0.86, height, dtype=np.float32)[:, None, None]
        alpha = weight if shadow_m is None else np.maximum(weight, self._shadow(*shadow_m))
        return Sprite(
            bgr=np.clip(colour, 0, 255).astype(np.uint8),
            alpha=alpha.astype(np.float32),
            anchor_x=-self._left_m * self._scale / SUPERSAMPLE,
            anchor_y=self._top_m * self._scale / SUPERSAMPLE,
            solid_pixels=int(np.count_nonzero(weight > SOLID_ALPHA)),
        )

    def _shadow(self, x0_m: float, x1_m: float) -> FloatArray:
        ground = np.zeros_like(self._alpha)
        centre = self._px(((x0_m + x1_m) / 2, 0.0))
        axes = (max(1, round((x1_m - x0_m) / 2 * self._scale)), max(1, round(0.1 * self._scale)))
        cv2.ellipse(ground, centre, axes, 0, 0, 360, (255,), -1)
        soft = cv2.blur(cv2.resize(ground, self._size, interpolation=cv2.INTER_AREA), (3, 3))
        return np.asarray(soft, np.float32) * (SHADOW_ALPHA / 255)

    def _px(self, point: Point) -> tuple[int, int]:
        return (round((point[0] - self._left_m) * self._scale), round((self._top_m - point[1]) * self._scale))
