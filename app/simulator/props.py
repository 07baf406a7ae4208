"""The things that stand in the drawn scenes and hide what passes behind them. None of them is detected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from app.simulator.backdrops import LEAVES, Place
from app.simulator.canvas import Canvas, shade
from app.simulator.figures import CLOTH, PAINT, Figure, Rng, pick


def _thing(canvas: Canvas, half_m: float) -> Figure:
    return Figure(class_id=None, phases=(canvas.sprite(shadow_m=(-half_m, half_m)),))


def lamp(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-0.8, 0.8, 5.2, px_per_m=px_per_m)
    post = pick(rng, ((70, 66, 60), (90, 96, 96), (60, 80, 60)))
    canvas.limb([(0, 0.05), (0, 4.6)], 0.13, post)
    canvas.limb([(0, 0.05), (0, 0.7)], 0.22, post)
    canvas.limb([(0, 4.6), (0.35, 4.85)], 0.09, post)
    canvas.ellipse((0.4, 4.75), 0.28, 0.14, (200, 244, 255))
    return _thing(canvas, 0.3)


def tree(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.7, 1.7, 5.0, px_per_m=px_per_m)
    leaves = pick(rng, LEAVES)
    canvas.limb([(0, 0), (0.04, 2.4)], 0.3, (62, 84, 104))
    for _ in range(16):
        x, y = rng.normal(0, 0.55), rng.normal(3.3, 0.5)
        radius = float(rng.uniform(0.4, 0.75))
        x, y = float(np.clip(x, -1, 1)), float(np.clip(y, 2.5, 4.2))
        canvas.ellipse((x, y), radius, radius, shade(leaves, float(rng.uniform(0.75, 1.2))))
    return _thing(canvas, 0.9)


def planter(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.2, 1.2, 1.5, px_per_m=px_per_m)
    leaves = pick(rng, LEAVES)
    for _ in range(12):
        spot = (float(rng.uniform(-0.75, 0.75)), float(rng.uniform(0.65, 0.95)))
        canvas.ellipse(spot, 0.24, 0.24, shade(leaves, float(rng.uniform(0.8, 1.25))))
    for _ in range(8):
        spot = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.75, 1.1)))
        canvas.ellipse(spot, 0.07, 0.07, pick(rng, CLOTH))
    canvas.polygon([(-0.95, 0.6), (0.95, 0.6), (0.85, 0), (-0.85, 0)], (118, 140, 160))
    canvas.rectangle(-1.0, 0.52, 1.0, 0.64, (140, 160, 178))
    return _thing(canvas, 1.0)


def bench(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.2, 1.2, 1.1, px_per_m=px_per_m)
    wood = pick(rng, ((60, 96, 140), (80, 120, 160), (70, 70, 76)))
    for x in (-0.8, 0.8):
        canvas.limb([(x, 0), (x, 0.85)], 0.07, (50, 50, 50))
    for y in (0.45, 0.62, 0.78):
        canvas.rectangle(-1.0, y, 1.0, y + 0.1, shade(wood, 0.8 + 0.3 * y))
    return _thing(canvas, 1.0)


def bin_(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-0.5, 0.5, 1.2, px_per_m=px_per_m)
    colour = pick(rng, PAINT)
    canvas.rectangle(-0.28, 0, 0.28, 0.9, shade(colour, 0.8), radius=0.08)
    canvas.rectangle(-0.32, 0.8, 0.32, 1.0, shade(colour, 0.55), radius=0.08)
    return _thing(canvas, 0.35)


def crates(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.3, 1.3, 2.2, px_per_m=px_per_m)
    for row in range(int(rng.integers(1, 4))):
        for column in range(3 - row):
            x, y = -0.95 + 0.64 * column + 0.32 * row, 0.62 * row
            wood = shade((96, 142, 186), float(rng.uniform(0.85, 1.1)))
            canvas.rectangle(x, y, x + 0.6, y + 0.6, wood)
            canvas.limb([(x + 0.05, y + 0.05), (x + 0.55, y + 0.55)], 0.06, shade(wood, 0.75))
            canvas.limb([(x, y + 0.3), (x + 0.6, y + 0.3)], 0.03, shade(wood, 0.7))
    return _thing(canvas, 1.1)


def container(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-3.2, 3.2, 5.4, px_per_m=px_per_m)
    for level in range(int(rng.integers(1, 3))):
        colour, y = pick(rng, PAINT), 2.6 * level
        canvas.rectangle(-3.0, y - 0.06, 3.0, y + 2.55, colour)
        for x in np.arange(-2.8, 2.9, 0.35):
            canvas.limb([(float(x), y + 0.15), (float(x), y + 2.4)], 0.1, shade(colour, 0.82))
        canvas.rectangle(-3.0, y, 3.0, y + 0.12, shade(colour, 0.6))
        canvas.rectangle(-3.0, y + 2.43, 3.0, y + 2.55, shade(colour, 0.6))
    return _thing(canvas, 3.0)


def cone(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-0.5, 0.5, 0.9, px_per_m=px_per_m)
    orange = shade((30, 110, 240), float(rng.uniform(0.85, 1.1)))
    canvas.rectangle(-0.3, 0, 0.3, 0.08, shade(orange, 0.7))
    canvas.polygon([(-0.2, 0.08), (0.2, 0.08), (0.05, 0.75), (-0.05, 0.75)], orange)
    canvas.polygon([(-0.135, 0.3), (0.135, 0.3), (0.09, 0.5), (-0.09, 0.5)], (240, 240, 240))
    return _thing(canvas, 0.32)


def shelf(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.5, 1.5, 1.8, px_per_m=px_per_m)
    canvas.rectangle(-1.3, 0, 1.3, 1.5, (104, 112, 118))
    for y in (0.12, 0.58, 1.04):
        x, colour = -1.22, pick(rng, CLOTH)
        while x < 1.1:
            width = float(rng.uniform(0.1, 0.2))
            colour = pick(rng, CLOTH) if rng.random() < 0.4 else colour
            canvas.rectangle(x, y, x + width, y + float(rng.uniform(0.24, 0.36)), colour)
            x += width + 0.02
        canvas.rectangle(-1.3, y - 0.07, 1.3, y, (190, 196, 200))
    canvas.rectangle(-1.34, 1.45, 1.34, 1.62, pick(rng, PAINT))
    return _thing(canvas, 1.3)


def table(rng: Rng, px_per_m: float) -> Figure:
    canvas = Canvas(-1.1, 1.1, 1.4, px_per_m=px_per_m)
    for _ in range(14):
        spot = (float(rng.uniform(-0.7, 0.7)), float(rng.uniform(0.8, 1.0)))
        canvas.ellipse(spot, 0.11, 0.11, pick(rng, ((40, 60, 220), (50, 190, 240), (70, 170, 80), (40, 140, 240))))
    canvas.rectangle(-0.9, 0, 0.9, 0.82, (86, 124, 160), radius=0.05)
    canvas.rectangle(-0.95, 0.7, 0.95, 0.86, (120, 156, 186), radius=0.04)
    return _thing(canvas, 0.95)


Prop: TypeAlias = tuple[Callable[[Rng, float], Figure], tuple[float, float]]
"""How to draw a thing, and between which heights on the screen (fractions) it may stand."""

PROPS: dict[Place, tuple[Prop, ...]] = {
    "street": (
        (lamp, (0.84, 1.04)), (tree, (0.84, 1.0)), (planter, (0.87, 1.05)), (bench, (0.9, 1.05)), (bin_, (0.86, 1.05)),
    ),
    "plaza": (
        (tree, (0.46, 0.8)), (planter, (0.5, 1.05)), (bench, (0.5, 1.0)), (lamp, (0.46, 1.0)), (bin_, (0.5, 1.0)),
        (table, (0.55, 1.0)),
    ),
    "yard": (
        (container, (0.45, 0.5)), (crates, (0.5, 1.05)), (cone, (0.5, 1.02)), (cone, (0.5, 1.02)), (crates, (0.5, 1.0)),
    ),
    "shop": (
        (shelf, (0.48, 0.62)), (table, (0.55, 1.08)), (shelf, (0.5, 0.8)), (crates, (0.6, 1.0)), (planter, (0.6, 1.05)),
    ),
}  # fmt: skip
