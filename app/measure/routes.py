"""Ways to do the same work, timed side by side in turns, so that whatever else the machine does slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.measure.results import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way. `run` does `units` pieces of the work in the calling thread."""

    name: str
    run: Callable[[], object]
    units: int


def time_routes(
    routes: Sequence[Route], *, rounds: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, tuple[float, ...]]:
    """CPU µs a piece of each route, one sample a round. Blocking. Every round starts with another route."""
    samples: dict[str, list[float]] = {route.name: [] for route in routes}
    for route in routes:  # caches and lazily made things
        route.run()
    for number in range(rounds):
        first = number % len(routes)
        for route in [*routes[first:], *routes[:first]]:
            began = clock()
            route.run()
            samples[route.name].append(1e6 * (clock() - began) / route.units)
    return {name: tuple(each) for name, each in samples.items()}


def ratios(samples: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Each route's cost as a share of the first one's in the same round."""
    base = next(iter(samples.values()))
    return {name: tuple(a / b for a, b in zip(each, base, strict=True)) for name, each in samples.items()}


def route_figures(prefix: str, samples: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """`PREFIX.ROUTE.us` and `PREFIX.ROUTE.ratio`."""
    shares = ratios(samples)
    figures: dict[str, Figure] = {}
    for name, each in samples.items():
        dotted = f"{prefix}.{name.replace(' ', '_')}"
        figures[f"{dotted}.us"] = Figure(unit="us", better="lower", samples=tuple(each))
        figures[f"{dotted}.ratio"] = Figure(unit="1", better="lower", samples=shares[name])
    return figures


def route_rows(samples: Mapping[str, Sequence[float]], notes: Mapping[str, str]) -> list[str]:
    """Lines for people: the middle round's µs and ratio, then what else there is to say of a route."""
    shares = ratios(samples)
    width = max(map(len, samples))
    return [
        f"{name:{width}}  {statistics.median(each):8.0f} us  x{statistics.median(shares[name]):.2f}"
        f"  {notes.get(name, '')}".rstrip()
        for name, each in samples.items()
    ]
