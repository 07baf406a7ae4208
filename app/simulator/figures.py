"""What moves on foot in the drawn scenes, people and dogs seen from the side, and what every figure is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import TypeAlias

import numpy as np

from app.simulator.canvas import Canvas, Colour, Point, Sprite, shade

CLASS_NAMES = ("person", "bicycle", "car", "bus", "truck", "dog")
PERSON, BICYCLE, CAR, BUS, TRUCK, DOG = range(6)
Rng: TypeAlias = np.random.Generator

SKIN: tuple[Colour, ...] = ((178, 205, 240), (150, 182, 226), (110, 145, 198), (72, 100, 150), (48, 66, 104))
HAIR: tuple[Colour, ...] = ((30, 34, 40), (38, 58, 92), (70, 120, 176), (120, 190, 222), (150, 152, 156), (40, 60, 140))
CLOTH: tuple[Colour, ...] = (
    (60, 66, 196), (196, 120, 40), (84, 152, 62), (46, 178, 236), (150, 78, 132), (222, 222, 216),
    (58, 52, 50), (146, 160, 88), (112, 116, 220), (170, 150, 140), (40, 120, 222), (128, 62, 44),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((92, 64, 44), (52, 50, 52), (130, 140, 150), (70, 96, 120), (120, 92, 66), (44, 62, 60))
PAINT: tuple[Colour, ...] = (
    (52, 48, 190), (176, 96, 32), (232, 232, 228), (64, 62, 60), (160, 160, 158), (70, 132, 60),
    (40, 170, 232), (150, 130, 40), (60, 110, 214), (110, 60, 100),
)  # fmt: skip
FUR: tuple[Colour, ...] = ((60, 92, 140), (40, 44, 50), (150, 186, 214), (84, 110, 128), (206, 214, 220), (50, 66, 104))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One object, drawn in each phase of its gait or wheel turn, facing right.

    A new phase begins every `cycle_m / len(phases)` metres. `class_id` is None for things that are not detected.
    """

    class_id: int | None
    phases: tuple[Sprite, ...]
    cycle_m: float = 1.0


def pick(rng: Rng, colours: Sequence[Colour]) -> Colour:
    """One of the colours."""
    return colours[int(rng.integers(len(colours)))]


def walk_phases(count: int) -> list[float]:
    """The angles of a gait or a turn, evenly spaced."""
    return [2 * pi * i / count for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What tells one person from another. Height in metres."""

    height: float
    build: float
    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    long_hair: bool
    skirt: bool
    hat: Colour | None
    bag: Colour | None
    vest: bool


def looks(rng: Rng, *, worker: bool) -> Looks:
    """Someone new."""
    skirt = not worker and rng.random() < 0.22
    return Looks(
        height=float(rng.uniform(1.55, 1.9)) * (0.7 if not worker and rng.random() < 0.1 else 1.0),
        build=float(rng.uniform(0.9, 1.25)),
        skin=pick(rng, SKIN),
        hair=pick(rng, HAIR),
        top=pick(rng, CLOTH),
        legs=pick(rng, CLOTH if skirt else TROUSERS),
        shoes=pick(rng, ((40, 40, 44), (220, 220, 220), (60, 70, 110))),
        long_hair=bool(rng.random() < 0.4),
        skirt=skirt,
        hat=(40, 190, 245) if worker else pick(rng, CLOTH) if rng.random() < 0.18 else None,
        bag=None if worker or rng.random() < 0.6 else pick(rng, CLOTH),
        vest=worker,
    )


def _draw_leg(canvas: Canvas, look: Looks, hip: Point, swing: float, lift: float, colour: Colour) -> None:
    h = look.height
    knee = (hip[0] + 0.235 * h * sin(swing), hip[1] - 0.235 * h * cos(swing))
    bend = swing - lift
    foot = (knee[0] + 0.235 * h * sin(bend), knee[1] - 0.235 * h * cos(bend))
    skin_below = look.skirt
    canvas.limb([hip, knee], 0.095 * h * look.build, shade(look.skin, 0.9) if skin_below else colour)
    canvas.limb([knee, foot], 0.075 * h * look.build, shade(look.skin, 0.95) if skin_below else colour)
    canvas.limb([foot, (foot[0] + 0.06 * h, foot[1] - 0.01)], 0.055 * h, look.shoes)


def _draw_arm(canvas: Canvas, look: Looks, shoulder: Point, swing: float, colour: Colour) -> None:
    h = look.height
    elbow = (shoulder[0] + 0.16 * h * sin(swing), shoulder[1] - 0.16 * h * cos(swing))
    hand = (elbow[0] + 0.15 * h * sin(swing + 0.35), elbow[1] - 0.15 * h * cos(swing + 0.35))
    canvas.limb([shoulder, elbow, hand], 0.062 * h * look.build, colour)
    canvas.ellipse(hand, 0.028 * h, 0.028 * h, look.skin)


def draw_head(canvas: Canvas, look: Looks, neck: Point) -> None:
    """Head, hair and hat on a neck."""
    h = look.height
    head = (neck[0] + 0.012 * h, neck[1] + 0.088 * h)
    r = 0.068 * h
    if look.long_hair:
        canvas.limb([(head[0] - 0.5 * r, head[1]), (head[0] - 0.7 * r, head[1] - 1.7 * r)], 1.1 * r, look.hair)
    canvas.limb([neck, head], 0.06 * h, shade(look.skin, 0.85))
    canvas.ellipse(head, r, 1.12 * r, look.skin)
    canvas.ellipse((head[0] - 0.16 * r, head[1] + 0.2 * r), 1.02 * r, 1.02 * r, look.hair, arc=(150, 345))
    canvas.ellipse((head[0] - 0.5 * r, head[1]), 0.55 * r, 0.8 * r, look.hair)
    if look.hat is not None:
        canvas.ellipse((head[0], head[1] + 0.35 * r), 1.15 * r, 0.95 * r, look.hat, arc=(180, 360))
        canvas.limb([(head[0], head[1] + 0.38 * r), (head[0] + 1.35 * r, head[1] + 0.38 * r)], 0.25 * r, look.hat)


def _draw_torso(canvas: Canvas, look: Looks, hip: Point, neck: Point) -> None:
    h = look.height
    chest = (neck[0], neck[1] - 0.055 * h)
    canvas.limb([hip, chest], 0.17 * h * look.build, look.top)
    canvas.limb(
        [(hip[0] - 0.05 * h, hip[1] + 0.05 * h), (chest[0] - 0.05 * h, chest[1])], 0.05 * h, shade(look.top, 0.86)
    )
    if look.vest:
        for up in (0.3, 0.7):
            y = hip[1] + up * (chest[1] - hip[1])
            canvas.limb([(hip[0] - 0.07 * h, y), (hip[0] + 0.07 * h, y)], 0.03 * h, (225, 240, 240))


def _walker(look: Looks, phase: float, px_per_m: float) -> Sprite:
    h = look.height
    canvas = Canvas(-0.75, 0.75, 2.15, px_per_m=px_per_m)
    swing = 0.5 * sin(phase)
    bob = 0.018 * h * abs(cos(phase))
    hip = (0.0, 0.475 * h + bob - 0.01)
    neck = (0.025 * h, 0.82 * h + bob)
    shoulder = (neck[0], neck[1] - 0.045 * h)
    _draw_arm(canvas, look, shoulder, 0.75 * swing, shade(look.top, 0.72))
    _draw_leg(canvas, look, hip, -swing, 0.15 + 0.55 * max(0.0, -cos(phase)), shade(look.legs, 0.72))
    _draw_leg(canvas, look, hip, swing, 0.15 + 0.55 * max(0.0, cos(phase)), look.legs)
    if look.bag is not None:
        canvas.rectangle(-0.2 * h, 0.55 * h, -0.05 * h, 0.78 * h, look.bag, radius=0.05 * h)
    if look.skirt:
        x, y = hip
        canvas.polygon(
            [(x - 0.075 * h, y + 0.08 * h), (x + 0.075 * h, y + 0.08 * h), (x + 0.15 * h, y - 0.2 * h),
             (x - 0.15 * h, y - 0.2 * h)], look.legs,
        )  # fmt: skip
    _draw_torso(canvas, look, hip, neck)
    draw_head(canvas, look, neck)
    _draw_arm(canvas, look, shoulder, -0.75 * swing, shade(look.top, 0.9))
    return canvas.sprite(shadow_m=(-0.35, 0.42))


def person(rng: Rng, px_per_m: float, *, worker: bool = False) -> Figure:
    """Someone on foot; a worker wears a helmet and a vest with bright bands."""
    look = looks(rng, worker=worker)
    if worker:
        look = Looks(**{**{s: getattr(look, s) for s in Looks.__slots__}, "top": (30, 130, 245)})
    phases = tuple(_walker(look, phase, px_per_m) for phase in walk_phases(10))
    return Figure(class_id=PERSON, phases=phases, cycle_m=0.85 * look.height)


def dog(rng: Rng, px_per_m: float) -> Figure:
    """A dog at a trot."""
    coat = pick(rng, FUR)
    size = float(rng.uniform(0.85, 1.25))
    ear = shade(coat, 0.6)
    phases = tuple(_dog_phase(coat, ear, size, phase, px_per_m) for phase in walk_phases(8))
    return Figure(class_id=DOG, phases=phases, cycle_m=0.8 * size)


def _dog_phase(coat: Colour, ear: Colour, k: float, phase: float, px_per_m: float) -> Sprite:
    canvas = Canvas(-0.85, 0.95, 1.15, px_per_m=px_per_m)
    for x, offset, near in ((-0.32, pi, False), (0.3, 0.0, False), (-0.36, 0.0, True), (0.26, pi, True)):
        swing = 0.42 * sin(phase + offset)
        foot = (k * (x + 0.34 * sin(swing)), 0.02 + 0.05 * max(0.0, cos(phase + offset)))
        canvas.limb([(k * x, k * 0.42), foot], 0.095 * k, coat if near else shade(coat, 0.7))
    wag = 0.08 * sin(2 * phase)
    canvas.limb([(-0.42 * k, 0.5 * k), (k * (-0.6 + wag), 0.74 * k)], 0.075 * k, coat)
    canvas.limb([(-0.33 * k, 0.46 * k), (0.28 * k, 0.48 * k)], 0.27 * k, coat)
    canvas.limb([(0.3 * k, 0.52 * k), (0.47 * k, 0.7 * k)], 0.19 * k, coat)
    canvas.ellipse((0.5 * k, 0.75 * k), 0.145 * k, 0.13 * k, coat)
    canvas.limb([(0.55 * k, 0.71 * k), (0.71 * k, 0.69 * k)], 0.11 * k, shade(coat, 1.12))
    canvas.ellipse((0.76 * k, 0.71 * k), 0.035 * k, 0.03 * k, (30, 30, 34))
    canvas.limb([(0.43 * k, 0.84 * k), (0.36 * k, 0.68 * k)], 0.1 * k, ear)
    canvas.ellipse((0.56 * k, 0.79 * k), 0.02 * k, 0.02 * k, (20, 20, 24))
    return canvas.sprite(shadow_m=(-0.5 * k, 0.55 * k))
