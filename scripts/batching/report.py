"""What the simulation found: a table, a result that `vidette compare` reads, and a drawing."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from app.commands.columns import in_columns
from app.measure.results import Better, Figure
from scripts.batching.simulation import Outcome

# By load in percent, then by policy.
Outcomes = Mapping[float, Mapping[str, Outcome]]
_COLUMNS = ("policy", "p50 ms", "p99 ms", "mean batch", "busy", "fairness", "dropped")
_FIGURES: Mapping[str, tuple[str, str, Better]] = {
    "age_ms.p50": ("age_p50_ms", "ms", "lower"),
    "age_ms.p99": ("age_p99_ms", "ms", "lower"),
    "served_fps": ("served_fps", "fps", "higher"),
    "dropped_share": ("dropped_share", "1", "lower"),
    "fairness": ("fairness", "1", "higher"),
    "mean_batch": ("mean_batch", "1", "neither"),
    "busy_share": ("busy_share", "1", "neither"),
}
# Results that are this much younger are worth a frame in a thousand, and no more.
_DROPS = 0.001
_COLOURS = ("#1b6ef3", "#d1495b", "#2a9d8f", "#e9a23b", "#7b52ab", "#5c677d", "#8c5a2b", "#c45ab3", "#202020")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _KEY = 760, 420, 60, 40, 50, 150


def best(outcomes: Mapping[str, Outcome]) -> str:
    """The policy whose p99 is the lowest of those that drop, within a thousandth, the fewest frames."""
    fewest = min(outcome.dropped_share for outcome in outcomes.values())
    rest = {name: of for name, of in outcomes.items() if of.dropped_share <= fewest + _DROPS}
    return min(rest, key=lambda name: rest[name].age_p99_ms)


def table(outcomes: Mapping[str, Outcome]) -> str:
    """One load's table; a star is at the best policy."""
    winner = best(outcomes)
    lines = [_COLUMNS]
    for name, of in outcomes.items():
        row = f"{of.age_p50_ms:.1f}", f"{of.age_p99_ms:.1f}", f"{of.mean_batch:.2f}", f"{of.busy_share:.0%}"
        lines.append((f"{name} *" if name == winner else name, *row, f"{of.fairness:.4f}", f"{of.dropped_share:.1%}"))
    return in_columns(lines, right=range(1, len(_COLUMNS)))


def figures(outcomes: Outcomes) -> dict[str, Figure]:
    """As `load_70.greedy.age_ms.p99`."""
    return {
        f"load_{load:g}.{name.replace(' ', '_')}.{figure}": Figure(
            unit=unit, better=better, samples=(float(getattr(of, field)),)
        )
        for load, each in outcomes.items()
        for name, of in each.items()
        for figure, (field, unit, better) in _FIGURES.items()
    }


def drawing(outcomes: Outcomes, title: str) -> str:
    """p99 of age over load as an SVG, a line for each policy; the age is drawn by its logarithm."""
    loads = sorted(outcomes)
    names = list(outcomes[loads[0]])
    ages = [of.age_p99_ms for each in outcomes.values() for of in each.values() if of.age_p99_ms > 0]
    low, high = math.floor(math.log10(min(ages))), math.ceil(math.log10(max(ages)))
    high += high == low
    width = _WIDTH - _LEFT - _KEY - 20

    def x(load: float) -> float:
        share = (load - loads[0]) / (loads[-1] - loads[0]) if len(loads) > 1 else 0.5
        return _LEFT + share * width

    def y(ms: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(ms) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 22, title, size=14), _text(_LEFT - 48, _TOP - 6, "p99 ms")]
    parts.append(_text(_LEFT + width / 2 - 12, _HEIGHT - 10, "load %"))
    for ms in [digit * 10.0**power for power in range(low, high) for digit in (1, 2, 5)] + [10.0**high]:
        parts.append(_line([(_LEFT, y(ms)), (_LEFT + width, y(ms))], "#dddddd", 1))
        parts.append(_text(_LEFT - 34, y(ms) + 4, f"{ms:g}"))
    parts += [_text(x(load) - 8, _HEIGHT - _BOTTOM + 18, f"{load:g}") for load in loads]
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [
            (x(load), y(outcomes[load][name].age_p99_ms)) for load in loads if outcomes[load][name].age_p99_ms > 0
        ]
        parts.append(_line(points, colour, 2))
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
        parts.append(_text(_LEFT + width + 20, _TOP + 12 + 20 * number, name, colour=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, size: int = 12, colour: str = "#202020") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{html.escape(text)}</text>'


def _line(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
