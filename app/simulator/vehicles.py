"""What moves on wheels in the drawn scenes: bicycles, cars, buses and trucks, all seen from the side."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from app.simulator.canvas import Canvas, Colour, Sprite, shade
from app.simulator.figures import (
    BICYCLE,
    BUS,
    CAR,
    CLOTH,
    PAINT,
    PERSON,
    TRUCK,
    Figure,
    Looks,
    Rng,
    draw_head,
    looks,
    pick,
    walk_phases,
)

GLASS: Colour = (150, 122, 84)
TYRE: Colour = (34, 32, 32)


def _wheel(canvas: Canvas, x: float, radius: float, turn: float, rim: Colour) -> None:
    canvas.ellipse((x, radius), radius, radius, TYRE)
    canvas.ellipse((x, radius), 0.62 * radius, 0.62 * radius, rim)
    for spoke in range(5):
        angle = turn + 2 * pi * spoke / 5
        tip = (x + 0.55 * radius * cos(angle), radius - 0.55 * radius * sin(angle))
        canvas.limb([(x, radius), tip], 0.13 * radius, shade(rim, 0.55))


def _on_wheels(class_id: int, radius: float, draw: Callable[[float], Sprite], *, turns: int = 4) -> Figure:
    step = 2 * pi / 5 / turns
    return Figure(class_id=class_id, phases=tuple(draw(i * step) for i in range(turns)), cycle_m=2 * pi * radius / 5)


def cyclist(rng: Rng, px_per_m: float) -> tuple[Figure, Figure]:
    """A bicycle and who rides it: two figures that share an anchor."""
    look, frame = looks(rng, worker=False), pick(rng, PAINT)
    phases = walk_phases(8)
    bicycle = tuple(_bicycle_phase(frame, phase, px_per_m) for phase in phases)
    rider = tuple(_rider_phase(look, phase, px_per_m) for phase in phases)
    cycle_m = 2 * pi * 0.34 * 1.6
    return (
        Figure(class_id=BICYCLE, phases=bicycle, cycle_m=cycle_m),
        Figure(class_id=PERSON, phases=rider, cycle_m=cycle_m),
    )


def _bicycle_phase(frame: Colour, phase: float, px_per_m: float) -> Sprite:
    canvas = Canvas(-1.05, 1.05, 1.3, px_per_m=px_per_m)
    for x in (-0.53, 0.55):
        for spoke in range(4):
            angle = 1.6 * phase + pi * spoke / 4
            dx, dy = 0.3 * cos(angle), 0.3 * sin(angle)
            canvas.limb([(x - dx, 0.34 + dy), (x + dx, 0.34 - dy)], 0.012, (150, 150, 150))
        canvas.ring((x, 0.34), 0.31, 0.07, TYRE)
    saddle, crank, head = (-0.2, 0.86), (-0.05, 0.32), (0.4, 0.84)
    canvas.limb([(-0.53, 0.34), crank, head, (-0.16, 0.76), (-0.53, 0.34)], 0.06, frame)
    canvas.limb([crank, saddle], 0.055, frame)
    canvas.limb([(0.55, 0.34), head, (0.36, 1.0)], 0.055, frame)
    canvas.limb([(0.34, 1.02), (0.46, 1.06)], 0.05, (40, 40, 40))
    canvas.limb([(-0.3, 0.9), (-0.08, 0.89)], 0.08, (40, 40, 40))
    canvas.ring(crank, 0.09, 0.03, (70, 70, 70))
    return canvas.sprite(shadow_m=(-0.8, 0.85))


def _rider_phase(look: Looks, phase: float, px_per_m: float) -> Sprite:
    canvas = Canvas(-1.05, 1.05, 2.0, px_per_m=px_per_m)
    hip, neck, grip = (-0.18, 0.98), (0.17, 1.48), (0.4, 1.05)
    for turn, colour in ((phase + pi, shade(look.legs, 0.72)), (phase, look.legs)):
        pedal = (-0.05 + 0.15 * cos(turn), 0.32 - 0.15 * sin(turn) + 0.04)
        knee = ((hip[0] + pedal[0]) / 2 + 0.24, (hip[1] + pedal[1]) / 2 + 0.1)
        canvas.limb([hip, knee], 0.16, colour)
        canvas.limb([knee, pedal], 0.12, colour)
        canvas.limb([pedal, (pedal[0] + 0.1, pedal[1])], 0.09, look.shoes)
    canvas.limb([hip, (neck[0] - 0.04, neck[1] - 0.1)], 0.27, look.top)
    draw_head(canvas, look, neck)
    canvas.limb([(neck[0], neck[1] - 0.1), (0.22, 1.12), grip], 0.1, shade(look.top, 0.85))
    canvas.ellipse(grip, 0.05, 0.05, look.skin)
    return canvas.sprite()


def car(rng: Rng, px_per_m: float) -> Figure:
    """A saloon, a hatchback, an estate or a pick-up-free SUV; one in eight is a taxi."""
    paint = pick(rng, PAINT)
    taxi = bool(rng.random() < 0.12)
    if taxi:
        paint = (30, 190, 240)
    kind = int(rng.integers(3))
    long = float(rng.uniform(0.95, 1.08))
    roof = (1.42, 1.5, 1.68)[kind]
    rim = (170, 170, 172)

    def draw(turn: float) -> Sprite:
        canvas = Canvas(-2.6, 2.6, 2.1, px_per_m=px_per_m)
        _car_body(canvas, paint, kind, long, roof)
        if taxi:
            canvas.rectangle(-0.45, roof, 0.05, roof + 0.16, (235, 235, 235), radius=0.05)
        for x in (-1.32 * long, 1.3 * long):
            canvas.ellipse((x, 0.36), 0.42, 0.42, shade(paint, 0.45))
            _wheel(canvas, x, 0.34, turn, rim)
        return canvas.sprite(shadow_m=(-2.3 * long, 2.3 * long))

    return _on_wheels(CAR, 0.34, draw)


def _car_body(canvas: Canvas, paint: Colour, kind: int, k: float, roof: float) -> None:
    tail = (-1.75, -2.05, -2.1)[kind]  # where the rear window meets the body: a saloon has a boot behind it
    roof_back = (-0.95, -1.5, -1.85)[kind]
    cabin = [(tail * k, 0.9), (roof_back * k, roof), (0.25 * k, roof), (1.05 * k, 0.9)]
    canvas.polygon(cabin, shade(paint, 0.92))
    glass = [((tail + 0.3) * k, 0.93), ((roof_back + 0.12) * k, roof - 0.1), (0.2 * k, roof - 0.1), (0.88 * k, 0.93)]
    canvas.polygon(glass, GLASS)
    canvas.polygon(
        [(0.45 * k, 0.93), (0.12 * k, roof - 0.1), (0.2 * k, roof - 0.1), (0.88 * k, 0.93)], shade(GLASS, 1.3)
    )
    canvas.limb([(-0.42 * k, 0.9), (-0.42 * k, roof - 0.06)], 0.09, shade(paint, 0.8))
    canvas.rectangle(-2.2 * k, 0.28, 2.2 * k, 0.95, paint, radius=0.24)
    canvas.rectangle(0.9 * k, 0.28, 2.2 * k, 0.86, paint, radius=0.2)
    canvas.rectangle(-2.18 * k, 0.26, 2.18 * k, 0.42, shade(paint, 0.55), radius=0.07)
    canvas.limb([(-2.0 * k, 0.78), (2.0 * k, 0.74)], 0.035, shade(paint, 1.35))
    canvas.limb([(-0.42 * k, 0.9), (-0.42 * k, 0.45)], 0.025, shade(paint, 0.7))
    canvas.rectangle(-0.7 * k, 0.76, -0.52 * k, 0.8, shade(paint, 0.5))
    canvas.ellipse((2.08 * k, 0.7), 0.13, 0.09, (190, 245, 255))
    canvas.rectangle(-2.22 * k, 0.62, -2.08 * k, 0.8, (40, 40, 210), radius=0.03)


def bus(rng: Rng, px_per_m: float) -> Figure:
    """A city bus with a row of windows and two doors."""
    paint = pick(rng, PAINT)
    band = pick(rng, CLOTH)
    half = float(rng.uniform(4.2, 5.0))
    top = 3.0
    deck = bool(rng.random() < 0.18)

    def draw(turn: float) -> Sprite:
        canvas = Canvas(-half - 0.4, half + 0.4, 4.6, px_per_m=px_per_m)
        if deck:
            canvas.rectangle(-half, 2.2, half, 4.3, paint, radius=0.3)
            canvas.rectangle(-half + 0.25, 3.25, half - 0.1, 3.95, GLASS, radius=0.1)
            _posts(canvas, -half + 0.25, half - 0.1, 3.2, 4.0, paint)
        canvas.rectangle(-half, 0.35, half, top, paint, radius=0.28)
        canvas.rectangle(-half, 0.62, half, 0.95, band)
        canvas.rectangle(-half + 0.25, 1.5, half - 0.05, 2.55, GLASS, radius=0.1)
        _posts(canvas, -half + 0.25, half - 0.5, 1.45, 2.6, paint)
        for x in (half - 1.25, -0.5):
            canvas.rectangle(x, 0.5, x + 0.95, 2.5, shade(paint, 0.6))
            canvas.rectangle(x + 0.06, 0.6, x + 0.44, 2.42, shade(GLASS, 1.2))
            canvas.rectangle(x + 0.51, 0.6, x + 0.89, 2.42, shade(GLASS, 1.2))
        canvas.rectangle(half - 2.6, 2.64, half - 0.2, 2.9, (30, 30, 30))
        canvas.rectangle(half - 2.4, 2.7, half - 1.1, 2.84, (40, 170, 250))
        canvas.rectangle(half - 0.22, 0.7, half, 0.95, (190, 245, 255), radius=0.05)
        canvas.rectangle(-half, 0.8, -half + 0.14, 1.2, (40, 40, 210), radius=0.03)
        for x in (-half + 2.0, half - 2.2):
            canvas.ellipse((x, 0.5), 0.6, 0.6, shade(paint, 0.4))
            _wheel(canvas, x, 0.48, turn, (150, 150, 150))
        return canvas.sprite(shadow_m=(-half, half))

    return _on_wheels(BUS, 0.48, draw)


def _posts(canvas: Canvas, x0: float, x1: float, y0: float, y1: float, paint: Colour) -> None:
    count = int((x1 - x0) / 1.25)
    for i in range(1, count):
        x = x0 + (x1 - x0) * i / count
        canvas.limb([(x, y0), (x, y1)], 0.09, shade(paint, 0.8))


def truck(rng: Rng, px_per_m: float) -> Figure:
    """A lorry: a cab in front and a box, a tank or a tipper behind it."""
    paint, load = pick(rng, PAINT), pick(rng, (*CLOTH, (228, 228, 226), (228, 228, 226)))
    kind = int(rng.integers(3))
    half = float(rng.uniform(3.1, 3.9))

    def draw(turn: float) -> Sprite:
        canvas = Canvas(-half - 0.4, half + 0.4, 3.9, px_per_m=px_per_m)
        canvas.rectangle(-half, 0.55, half - 0.4, 0.85, (52, 50, 50))
        _truck_load(canvas, load, kind, half)
        _truck_cab(canvas, paint, half)
        for x in (-half + 0.8, -half + 1.85, half - 0.95):
            _wheel(canvas, x, 0.5, turn, (165, 165, 165))
        return canvas.sprite(shadow_m=(-half, half))

    return _on_wheels(TRUCK, 0.5, draw)


def _truck_load(canvas: Canvas, load: Colour, kind: int, half: float) -> None:
    back, front = -half, half - 2.05
    if kind == 0:
        canvas.rectangle(back, 0.85, front, 3.45, load)
        canvas.rectangle(back, 0.85, front, 1.0, shade(load, 0.7))
        for i in range(1, 6):
            x = back + (front - back) * i / 6
            canvas.limb([(x, 1.0), (x, 3.4)], 0.04, shade(load, 0.85))
    elif kind == 1:
        canvas.rectangle(back, 0.95, front, 2.75, load, radius=0.85)
        canvas.rectangle(back + 0.3, 2.1, front - 0.3, 2.3, shade(load, 1.5), radius=0.1)
        canvas.limb([(back + 0.6, 2.82), (front - 0.6, 2.82)], 0.08, (60, 60, 60))
    else:
        canvas.polygon([(back - 0.1, 2.3), (back + 0.35, 0.85), (front, 0.85), (front, 2.3)], load)
        middle = (back + front) / 2
        canvas.polygon(
            [(back + 0.2, 2.3), (middle - 0.4, 2.95), (middle + 0.5, 2.75), (front - 0.15, 2.3)], (70, 96, 120)
        )
        for i in range(1, 5):
            x = back + 0.2 + (front - back - 0.2) * i / 5
            canvas.limb([(x, 0.95), (x, 2.25)], 0.09, shade(load, 0.75))


def _truck_cab(canvas: Canvas, paint: Colour, half: float) -> None:
    x0, x1 = half - 1.95, half
    canvas.polygon([(x0, 0.5), (x1, 0.5), (x1, 1.5), (x1 - 0.22, 2.75), (x0, 2.75)], paint)
    canvas.polygon([(x0 + 0.55, 1.55), (x1 - 0.14, 1.55), (x1 - 0.32, 2.5), (x0 + 0.55, 2.5)], GLASS)
    canvas.limb([(x0 + 0.4, 0.7), (x0 + 0.4, 2.5)], 0.04, shade(paint, 0.7))
    canvas.rectangle(x0, 0.5, x1, 0.72, shade(paint, 0.5))
    canvas.rectangle(x1 - 0.16, 0.82, x1, 1.05, (190, 245, 255), radius=0.04)
    canvas.limb([(x1 - 0.02, 1.9), (x1 + 0.14, 1.9), (x1 + 0.14, 1.6)], 0.07, (40, 40, 40))
