"""Who and what is in a drawn scene, and how each of them moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sin

from app.simulator import figures, vehicles
from app.simulator.backdrops import Place, View
from app.simulator.figures import Figure, Rng
from app.simulator.props import PROPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """From beyond one edge to beyond the other, `laps` times a period."""

    y: float
    start_x: float
    end_x: float
    laps: int
    offset: float

    def at(self, turn: float) -> tuple[float, float, bool]:
        done = (self.laps * turn + self.offset) % 1.0
        return self.start_x + (self.end_x - self.start_x) * done, self.y, self.end_x < self.start_x


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """Around a spot on an ellipse, once a period; a radius of zero stands still."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    offset: float
    leftward: bool

    def at(self, turn: float) -> tuple[float, float, bool]:
        angle = 2 * pi * (turn + self.offset)
        left = cos(angle) < 0 if self.radius_x > 0 else self.leftward
        return self.x + self.radius_x * sin(angle), self.y + self.radius_y * cos(angle), left


class Actor:
    """Figures that move together along one path, drawn once at the largest scale of that path."""

    def __init__(self, cast: tuple[Figure, ...], path: Crossing | Pacing, px_per_m: float) -> None:
        self.path, self.px_per_m = path, px_per_m
        self.parts = [(f, tuple(s.flipped() for s in f.phases)) for f in cast]


class Casting:
    """Chooses the actors of a scene; heights on the screen are fractions of the frame."""

    def __init__(self, place: Place, view: View, period_s: float, rng: Rng) -> None:
        self._place, self._view, self._period_s, self._rng = place, view, period_s, rng

    def actors(self) -> list[Actor]:
        cast = {"street": self._street, "plaza": self._plaza, "yard": self._yard, "shop": self._shop}[self._place]()
        return cast + [self._prop() for _ in range(self._count(2, 6))]

    def _street(self) -> list[Actor]:
        vehicles = [vehicle for lane in (0.635, 0.755) for vehicle in self._lane(lane, self._count(1, 4))]
        near = [self._walker(self._y(0.86, 0.99)) for _ in range(self._count(1, 4))]
        far = [self._pacer(self._y(0.525, 0.555)) for _ in range(self._count(0, 4))]
        rest = [self._cyclist(self._y(0.77, 0.85)) for _ in range(self._count(0, 3))]
        return vehicles + near + far + rest + [self._dog(self._y(0.84, 0.97)) for _ in range(self._count(0, 3))]

    def _plaza(self) -> list[Actor]:
        walkers = [self._walker(self._y(0.6, 0.98)) for _ in range(self._count(1, 5))]
        pacers = [self._pacer(self._y(0.47, 0.9)) for _ in range(self._count(1, 6))]
        dogs = [self._dog(self._y(0.55, 0.97)) for _ in range(self._count(0, 4))]
        return walkers + pacers + dogs + [self._cyclist(self._y(0.52, 0.95)) for _ in range(self._count(0, 4))]

    def _yard(self) -> list[Actor]:
        moving = self._lane(self._y(0.68, 0.8), self._count(1, 4))
        parked = [self._parked(self._y(0.5, 0.62)) for _ in range(self._count(1, 4))]
        workers = [self._pacer(self._y(0.5, 0.97), worker=True) for _ in range(self._count(1, 5))]
        walkers = [self._walker(self._y(0.8, 1.0), worker=self._chance(0.6)) for _ in range(self._count(0, 3))]
        return moving + parked + workers + walkers + [self._dog(self._y(0.7, 0.97)) for _ in range(self._count(0, 3))]

    def _shop(self) -> list[Actor]:
        walkers = [self._walker(self._y(0.6, 1.05)) for _ in range(self._count(1, 5))]
        pacers = [self._pacer(self._y(0.47, 0.98)) for _ in range(self._count(2, 8))]
        return walkers + pacers + [self._dog(self._y(0.6, 0.98)) for _ in range(self._count(0, 3))]

    def _count(self, low: int, high: int) -> int:
        """At least `low`, below `high`."""
        return int(self._rng.integers(low, high))

    def _y(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _crossing(self, y: float, half_m: float, speed_m_s: float) -> Crossing:
        """The whole number of laps a period that comes nearest to the wanted speed."""
        y *= self._view.height
        scale = self._view.scale_at(y)
        start, end = -half_m * scale, self._view.width + half_m * scale
        if self._chance(0.5):
            start, end = end, start
        laps = max(1, round(speed_m_s * scale * self._period_s / abs(end - start)))
        return Crossing(y=y, start_x=start, end_x=end, laps=laps, offset=float(self._rng.random()))

    def _enter(self, path: Crossing | Pacing, draw: Callable[[Rng, float], tuple[Figure, ...]]) -> Actor:
        nearest = path.y + (path.radius_y if isinstance(path, Pacing) else 0)
        scale = self._view.scale_at(nearest)
        return Actor(draw(self._rng, scale), path, scale)

    def _walker(self, y: float, *, worker: bool = False) -> Actor:
        path = self._crossing(y, 0.8, 1.3)
        return self._enter(path, lambda rng, scale: (figures.person(rng, scale, worker=worker),))

    def _pacer(self, y: float, *, worker: bool = False) -> Actor:
        """Someone who walks up and down; one in four just stands."""
        y *= self._view.height
        scale = self._view.scale_at(y)
        radius = 0.0 if self._chance(0.25) else float(self._rng.uniform(0.7, 1.3)) * scale * self._period_s / 2 / pi
        depth = 0.25 * radius * float(self._rng.random()) if self._place != "street" else 0.0
        depth = min(depth, 0.5 * (y - self._view.horizon_y), max(0.0, self._view.height * 1.02 - y))
        path = Pacing(
            x=float(self._rng.uniform(0.05, 0.95)) * self._view.width,
            y=y,
            radius_x=radius,
            radius_y=depth,
            offset=float(self._rng.random()),
            leftward=self._chance(0.5),
        )
        return self._enter(path, lambda rng, px: (figures.person(rng, px, worker=worker),))

    def _dog(self, y: float) -> Actor:
        path = self._crossing(y, 1.0, 1.8)
        return self._enter(path, lambda rng, scale: (figures.dog(rng, scale),))

    def _cyclist(self, y: float) -> Actor:
        return self._enter(self._crossing(y, 1.2, 3.5), vehicles.cyclist)

    def _lane(self, y: float, count: int) -> list[Actor]:
        """Vehicles that follow each other at one speed, evenly spaced so that none drives through the next."""
        first = self._crossing(y, 5.5, float(self._rng.uniform(4, 7)))
        gap = abs(first.end_x - first.start_x) / self._view.scale_at(first.y)
        count = min(count, int(gap / 11))
        paths = [replace(first, offset=(first.offset + i / count) % 1.0) for i in range(count)]
        return [self._enter(path, self._any_vehicle) for path in paths]

    def _parked(self, y: float) -> Actor:
        y *= self._view.height
        x = float(self._rng.uniform(0.05, 0.95)) * self._view.width
        left = self._chance(0.5)
        path = Pacing(x=x, y=y, radius_x=0, radius_y=0, offset=0, leftward=left)
        return self._enter(path, self._any_vehicle)

    def _any_vehicle(self, rng: Rng, scale: float) -> tuple[Figure, ...]:
        kinds = (vehicles.car, vehicles.car, vehicles.bus, vehicles.truck)
        if self._place == "yard":
            kinds = (vehicles.car, vehicles.truck, vehicles.truck, vehicles.bus)
        return (kinds[int(rng.integers(4))](rng, scale),)

    def _prop(self) -> Actor:
        choice = PROPS[self._place]
        draw, (low, high) = choice[int(self._rng.integers(len(choice)))]
        y, x = self._y(low, high) * self._view.height, float(self._rng.uniform(0, 1)) * self._view.width
        path = Pacing(x=x, y=y, radius_x=0, radius_y=0, offset=0, leftward=False)
        return self._enter(path, lambda rng, scale: (draw(rng, scale),))
