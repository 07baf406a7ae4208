"""Where the drawn scenes happen: a street, a plaza, a yard and a shop, each painted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np

from app.simulator.canvas import Colour, Point, shade
from app.simulator.figures import CLOTH, PAINT, Rng, pick
from app.types import BgrImage

Place: TypeAlias = Literal["street", "plaza", "yard", "shop"]
PLACES: tuple[Place, ...] = ("street", "plaza", "yard", "shop")

_OVERSAMPLE = 2
_FACADES: tuple[Colour, ...] = (
    (150, 176, 204), (120, 140, 176), (186, 196, 206), (112, 128, 150), (170, 182, 178), (136, 160, 196),
    (104, 112, 146), (196, 200, 196), (160, 150, 142),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = ((70, 128, 84), (60, 110, 62), (84, 146, 112), (66, 132, 150))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How the flat ground is seen: a point at `y` pixels is `scale_at(y)` pixels to the metre."""

    width: int
    height: int
    horizon_y: float
    camera_m: float  # height of the camera above the ground

    def scale_at(self, y: float) -> float:
        return (y - self.horizon_y) / self.camera_m


class _Painter:
    """Paints a background larger than it will be; coordinates are fractions of the frame."""

    def __init__(self, view: View, rng: Rng) -> None:
        self.view, self.rng = view, rng
        self.w, self.h = view.width * _OVERSAMPLE, view.height * _OVERSAMPLE
        self.image: BgrImage = np.zeros((self.h, self.w, 3), np.uint8)

    def px(self, x: float, y: float) -> tuple[int, int]:
        return (round(x * self.w), round(y * self.h))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        cv2.rectangle(self.image, self.px(x0, y0), self.px(x1, y1), colour, -1)

    def poly(self, points: Sequence[Point], colour: Colour) -> None:
        cv2.fillPoly(self.image, [np.array([self.px(*p) for p in points], np.int32)], colour)

    def line(self, a: Point, b: Point, colour: Colour, width: float = 0.003) -> None:
        cv2.line(self.image, self.px(*a), self.px(*b), colour, max(1, round(width * self.h)), cv2.LINE_AA)

    def gradient(self, y0: float, y1: float, top: Colour, bottom: Colour) -> None:
        a, b = round(y0 * self.h), max(round(y1 * self.h), round(y0 * self.h) + 1)
        mix = np.linspace(0, 1, b - a)[:, None, None]
        self.image[a:b] = (np.array(top) * (1 - mix) + np.array(bottom) * mix).astype(np.uint8)

    def across(self, x: float, y: float) -> float:
        """Where the ground point that is `x` metres right of the middle lies at the height `y`: a fraction."""
        return 0.5 + x * self.view.scale_at(y * self.view.height) / self.view.width

    def floor_lines(self, y0: float, y1: float, step_m: float, colour: Colour, *, depth: bool = True) -> None:
        """Joints of square slabs between two heights, in perspective."""
        view = self.view
        focal = 0.9 * view.width
        reach = 0.5 * view.width / max(view.scale_at(y0 * view.height), 1e-3) + step_m
        for x in np.arange(-reach, reach, step_m):
            self.line((self.across(x, y0), y0), (self.across(x, y1), y1), colour, 0.0015)
        nearest, farthest = (focal / view.scale_at(y * view.height) for y in (y1, y0))
        for z in np.arange(nearest, farthest, step_m) if depth else ():
            y = (view.horizon_y + view.camera_m * focal / z) / view.height
            self.line((0, y), (1, y), colour, 0.0015)

    def finish(self) -> BgrImage:
        """The background at its final size, with blotches and grain."""
        size = (self.view.width, self.view.height)
        small = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        blotches = self.rng.normal(0, 1, (9, 16)).astype(np.float32)
        small *= 1 + 0.03 * cv2.resize(blotches, size, interpolation=cv2.INTER_CUBIC)[..., None]
        small += self.rng.normal(0, 1.6, (size[1], size[0], 1)).astype(np.float32)
        return np.asarray(np.clip(small, 0, 255), np.uint8)


def backdrop(place: Place, view: View, rng: Rng) -> BgrImage:
    """Paint the empty place. Returns u8[height, width, 3] BGR."""
    painter = _Painter(view, rng)
    _PAINTERS[place](painter)
    return painter.finish()


def _sky(p: _Painter, until: float) -> None:
    top, low = [
        ((226, 178, 120), (240, 222, 196)),
        ((214, 206, 198), (228, 224, 220)),
        ((210, 150, 130), (190, 206, 240)),
    ][int(p.rng.integers(3))]
    p.gradient(0, until, top, low)
    for _ in range(int(p.rng.integers(2, 6))):
        x, y = p.rng.uniform(0, 1), p.rng.uniform(0.02, until * 0.5)
        for puff in range(4):
            axes = (round(p.rng.uniform(0.03, 0.07) * p.w), round(p.rng.uniform(0.012, 0.03) * p.h))
            cv2.ellipse(p.image, p.px(x + 0.035 * puff, y), axes, 0, 0, 360, shade(low, 1.5), -1, cv2.LINE_AA)


def _windows(p: _Painter, x0: float, y0: float, x1: float, y1: float, wall: Colour) -> None:
    columns, rows = max(1, round((x1 - x0) / 0.042)), max(1, round((y1 - y0) / 0.105))
    cell_w, cell_h = (x1 - x0) / columns, (y1 - y0) / rows
    pane = pick(p.rng, ((120, 96, 70), (150, 130, 104), (96, 84, 76)))
    for row in range(rows):
        for column in range(columns):
            x, y = x0 + (column + 0.26) * cell_w, y0 + (row + 0.2) * cell_h
            lit = p.rng.random() < 0.12
            p.rect(x - 0.003, y - 0.005, x + 0.48 * cell_w + 0.003, y + 0.62 * cell_h + 0.005, shade(wall, 1.4))
            p.rect(x, y, x + 0.48 * cell_w, y + 0.62 * cell_h, (170, 214, 240) if lit else pane)
            p.line((x + 0.24 * cell_w, y), (x + 0.24 * cell_w, y + 0.62 * cell_h), shade(wall, 1.2), 0.002)


def _buildings(p: _Painter, base: float, *, shops: bool) -> None:
    x = -float(p.rng.uniform(0, 0.1))
    while x < 1:
        x1 = x + float(p.rng.uniform(0.13, 0.27))
        top = float(p.rng.uniform(-0.05, base * 0.45))
        wall = pick(p.rng, _FACADES)
        p.rect(x, top, x1, base, wall)
        p.rect(x, top, x1, top + 0.012, shade(wall, 0.7))
        ground = base - 0.13
        _windows(p, x + 0.008, top + 0.02, x1 - 0.008, ground, wall)
        if shops:
            _shop_front(p, x + 0.006, x1 - 0.006, ground + 0.005, base)
        p.line((x1, top), (x1, base), shade(wall, 0.6), 0.004)
        x = x1


def _shop_front(p: _Painter, x0: float, x1: float, y0: float, y1: float) -> None:
    sign, stripes = pick(p.rng, CLOTH), int(p.rng.integers(7, 13))
    p.rect(x0, y0, x1, y1, shade(sign, 0.5))
    p.rect(x0 + 0.006, y0 + 0.045, x1 - 0.04, y1 - 0.012, (176, 196, 206))
    p.rect(x1 - 0.034, y0 + 0.04, x1 - 0.006, y1, shade(sign, 0.75))
    step = (x1 - x0) / stripes
    for i in range(stripes):
        left = x0 + i * step
        colour = sign if i % 2 else (232, 232, 230)
        p.poly([(left, y0), (left + step, y0), (left + step, y0 + 0.04), (left, y0 + 0.04)], colour)
        cv2.ellipse(
            p.image,
            p.px(left + step / 2, y0 + 0.04),
            (round(step / 2 * p.w), round(0.008 * p.h)),
            0,
            0,
            180,
            colour,
            -1,
        )


def _street(p: _Painter) -> None:
    _sky(p, 0.5)
    _buildings(p, 0.5, shops=True)
    slab: Colour = pick(p.rng, ((170, 176, 180), (156, 166, 176), (178, 178, 176)))
    p.gradient(0.5, 0.565, shade(slab, 0.92), slab)
    p.floor_lines(0.5, 0.565, 1.6, shade(slab, 0.85))
    asphalt: Colour = pick(p.rng, ((96, 92, 90), (110, 106, 104), (84, 82, 84)))
    p.gradient(0.565, 0.81, shade(asphalt, 0.95), shade(asphalt, 1.06))
    p.rect(0, 0.562, 1, 0.57, (190, 194, 196))
    for x in np.arange(-30, 30, 4.0):
        dash = [(x, 0.676), (x + 1.8, 0.676), (x + 1.8, 0.684), (x, 0.684)]
        p.poly([(p.across(px, y), y) for px, y in dash], (214, 218, 220))
    if p.rng.random() < 0.6:
        start = float(p.rng.uniform(-6, 5))
        for i in range(7):
            bar = [
                (start + i * 0.95, 0.585),
                (start + i * 0.95 + 0.5, 0.585),
                (start + i * 0.95 + 0.5, 0.795),
                (start + i * 0.95, 0.795),
            ]
            p.poly([(p.across(px, y), y) for px, y in bar], (206, 210, 212))
    p.gradient(0.81, 1.0, slab, shade(slab, 1.08))
    p.floor_lines(0.825, 1.0, 1.0, shade(slab, 0.86))
    p.rect(0, 0.805, 1, 0.826, (196, 200, 202))
    p.line((0, 0.826), (1, 0.826), shade(slab, 0.65))


def _plaza(p: _Painter) -> None:
    _sky(p, 0.42)
    _buildings(p, 0.42, shops=bool(p.rng.random() < 0.5))
    paving: Colour = pick(p.rng, ((166, 184, 198), (176, 182, 186), (150, 170, 192), (178, 192, 190)))
    p.gradient(0.42, 1.0, shade(paving, 0.9), shade(paving, 1.08))
    p.floor_lines(0.42, 1.0, 1.5, shade(paving, 0.86))
    centre, rings = float(p.rng.uniform(0.3, 0.7)), int(p.rng.integers(2, 5))
    for i in range(rings, 0, -1):
        axes = (round(0.09 * i * p.w), round(0.055 * i * p.h))
        colour = shade(paving, 0.8 if i % 2 else 0.92)
        cv2.ellipse(p.image, p.px(centre, 0.7), axes, 0, 0, 360, colour, round(0.012 * p.h), cv2.LINE_AA)
    if p.rng.random() < 0.6:
        grass = pick(p.rng, LEAVES)
        p.poly(
            [(0, 0.42), (1, 0.42), (1, 0.47), (0, 0.5)]
            if p.rng.random() < 0.5
            else [(0, 0.42), (0.35, 0.42), (0, 0.7)],
            grass,
        )


def _yard(p: _Painter) -> None:
    _sky(p, 0.4)
    wall = pick(p.rng, ((168, 160, 150), (140, 150, 160), (176, 184, 186)))
    p.rect(0, 0.08, 1, 0.42, wall)
    for x in np.arange(0, 1, 0.012):
        p.line((x, 0.08), (x, 0.42), shade(wall, 0.94), 0.002)
    p.rect(0, 0.065, 1, 0.09, shade(wall, 0.6))
    doors = int(p.rng.integers(2, 5))
    for i in range(doors):
        x = (i + 0.3) / doors
        door = pick(p.rng, PAINT)
        p.rect(x - 0.01, 0.16, x + 0.14, 0.42, shade(wall, 0.5))
        p.rect(x, 0.175, x + 0.13, 0.42, door)
        for y in np.arange(0.19, 0.42, 0.022):
            p.line((x, y), (x + 0.13, y), shade(door, 0.8), 0.003)
    ground: Colour = pick(p.rng, ((128, 130, 132), (112, 118, 124), (140, 148, 154)))
    p.gradient(0.42, 1.0, shade(ground, 0.92), shade(ground, 1.06))
    p.floor_lines(0.42, 1.0, 5.0, shade(ground, 0.85))
    for x in np.arange(-12, 12, 3.2):
        bay = [(x, 0.44), (x + 0.16, 0.44), (x + 0.16, 0.56), (x, 0.56)]
        p.poly([(p.across(px, y), y) for px, y in bay], (60, 190, 226))
    for _ in range(4):
        spot = (float(p.rng.uniform(0, 1)), float(p.rng.uniform(0.5, 0.95)))
        axes = (round(p.rng.uniform(0.02, 0.07) * p.w), round(p.rng.uniform(0.008, 0.02) * p.h))
        cv2.ellipse(p.image, p.px(*spot), axes, 0, 0, 360, shade(ground, 0.84), -1, cv2.LINE_AA)


def _shop(p: _Painter) -> None:
    wall = pick(p.rng, ((206, 214, 216), (196, 206, 190), (210, 200, 192)))
    p.gradient(0, 0.38, shade(wall, 0.85), wall)
    for x in np.arange(0.06, 1, 0.22):
        p.rect(x, 0.02, x + 0.12, 0.035, (250, 252, 252))
    _shelf_wall(p, 0.09, 0.4)
    tile: Colour = pick(p.rng, ((196, 204, 208), (180, 196, 206), (200, 200, 196), (150, 172, 190)))
    p.gradient(0.4, 1.0, shade(tile, 0.9), shade(tile, 1.1))
    p.floor_lines(0.4, 1.0, 0.9, shade(tile, 0.87))
    for x in np.arange(0.1, 1, 0.22):
        p.poly(
            [(x, 0.42), (x + 0.05, 0.42), (0.5 + 1.9 * (x + 0.05 - 0.5), 1), (0.5 + 1.9 * (x - 0.5), 1)],
            shade(tile, 1.16),
        )


def _shelf_wall(p: _Painter, y0: float, y1: float) -> None:
    x = 0.0
    while x < 1:
        x1 = x + float(p.rng.uniform(0.14, 0.2))
        p.rect(x, y0, x1, y1, (92, 104, 112))
        p.rect(x, y0, x1, y0 + 0.03, pick(p.rng, CLOTH))
        for row in range(4):
            top = y0 + 0.035 + row * (y1 - y0 - 0.04) / 4
            bottom = top + (y1 - y0 - 0.04) / 4 - 0.012
            _goods(p, x + 0.006, top, x1 - 0.006, bottom)
        x = x1 + 0.004


def _goods(p: _Painter, x0: float, y0: float, x1: float, y1: float) -> None:
    colour, x = pick(p.rng, CLOTH), x0
    while x < x1 - 0.006:
        width = float(p.rng.uniform(0.007, 0.014))
        if p.rng.random() < 0.3:
            colour = pick(p.rng, CLOTH)
        top = y0 + float(p.rng.uniform(0, 0.35)) * (y1 - y0)
        p.rect(x, top, min(x + width, x1), y1, shade(colour, float(p.rng.uniform(0.85, 1.2))))
        x += width + 0.002
    p.rect(x0, y1, x1, y1 + 0.006, (170, 178, 182))


_PAINTERS: dict[Place, Callable[[_Painter], None]] = {"street": _street, "plaza": _plaza, "yard": _yard, "shop": _shop}
