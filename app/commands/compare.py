"""`vidette compare`: two results of the same measurement side by side, or one beside this machine's baseline."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from app.commands.columns import in_columns
from app.errors import AppError, ConfigError
from app.measure.baselines import baseline_path, hardware, save_baseline, software
from app.measure.compare import Change, Comparison, Measurement, compare, differences, joined, parse
from app.measure.significance import ENOUGH_PAIRS

_COLUMNS = ("figure", "unit", "base", "new", "change", "", "pairs")


def run_compare(arguments: argparse.Namespace, data_dir: Callable[[], Path]) -> int:
    """Compare and print. 0, or 1 when a figure is worse by more than the threshold. Raises `ConfigError` (2).

    `data_dir` holds the baselines and is asked for only when one is needed.
    """
    if not 0 <= arguments.threshold < math.inf:
        raise ConfigError(f"--threshold must be a percentage of at least 0, not {arguments.threshold:g}")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {arguments.out.parent}")
    if len(arguments.files) > 2:
        raise ConfigError(f"compare takes one or two files, not {len(arguments.files)}")
    if arguments.save:
        return _save(arguments.files, data_dir)
    *before, new_path = arguments.files
    new = _series([new_path, *(after for _, after in arguments.pair)])
    base_path = before[0] if before else _baseline(data_dir(), new)
    base = _series([base_path, *(earlier for earlier, _ in arguments.pair)])
    if base.kind != new.kind:
        raise ConfigError(
            f"{base_path} is a result of {base.kind} and {new_path} one of {new.kind}: they measure different things"
        )
    wanted = _wanted(arguments.only, base)
    found = compare(base, new, threshold_percent=arguments.threshold, wanted=wanted)
    notes = _notes(base, new, found)
    whole = _as_json(base_path, new_path, base, found, notes, arguments.threshold)
    if arguments.out is not None:
        _write(arguments.out, whole)
    if arguments.json:
        print(json.dumps(whole, indent=2))
    else:
        print(_as_text(base_path, new_path, found, notes, arguments.threshold))
    return 1 if found.regressions else 0


def _save(files: Sequence[Path], data_dir: Callable[[], Path]) -> int:
    if len(files) != 1:
        raise ConfigError(f"--save takes one file, not {len(files)}")
    whole = _read(files[0])
    measured = parse(whole, str(files[0]))
    kept = baseline_path(data_dir(), measured.machine, measured.kind)
    save_baseline(kept, whole)
    print(f"{files[0]} is now this machine's baseline of kind {measured.kind}: {kept}")
    return 0


def _baseline(data_dir: Path, new: Measurement) -> Path:
    path = baseline_path(data_dir, new.machine, new.kind)
    if not path.is_file():
        raise ConfigError(
            f"this machine has no baseline of kind {new.kind} ({path}): name two files, or store one with "
            "`vidette compare --save FILE`"
        )
    return path


def _series(paths: Sequence[Path]) -> Measurement:
    """Repetitions of one measurement, as one."""
    first, *more = [parse(_read(path), str(path)) for path in paths]
    for path, each in zip(paths[1:], more, strict=True):
        if each.kind != first.kind:
            raise ConfigError(f"{path} is a result of {each.kind}, not of {first.kind} as {paths[0]}")
    return joined(first, more)


def _wanted(patterns: Sequence[str], base: Measurement) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    if base.figures and not any(map(wanted, base.figures)):
        some = ", ".join(list(base.figures)[:5])
        raise ConfigError(f"--only: no figure is called {' or '.join(patterns)}; there are {some} ...")
    return wanted


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except (ValueError, RecursionError):  # what is no text is a ValueError, too
        raise ConfigError(f"{path}: is not JSON, so it is no result of a measurement") from None


def _notes(base: Measurement, new: Measurement, found: Comparison) -> list[str]:
    """What a reader must know before believing the table."""
    notes = []
    if other := differences(hardware(base.machine), hardware(new.machine)):
        notes.append(f"the machines differ, so the changes need not be the code's: {'; '.join(other)}")
    if other := differences(base.conditions, new.conditions):
        notes.append(f"not the same was measured: {'; '.join(other)}")
    if other := differences(software(base.machine), software(new.machine)):
        notes.append(f"software: {'; '.join(other)}")
    for which, names in (("base", found.only_in_base), ("new", found.only_in_new)):
        if names:
            notes.append(f"only in {which}, or in other units: {', '.join(names[:5])}{_more(len(names) - 5)}")
    single = sum(change.pairs == 1 for change in found.changes)
    few = sum(1 < change.pairs < ENOUGH_PAIRS for change in found.changes)
    if single:
        notes.append(f"{_of(single, found)} one sample each: nothing tells their changes from chance")
    if few:
        notes.append(f"{_of(few, found)} fewer pairs than the {ENOUGH_PAIRS} that significance needs: all must agree")
    return notes


def _of(count: int, found: Comparison) -> str:
    if count == len(found.changes):
        return "all figures have"
    return "1 figure has" if count == 1 else f"{count} figures have"


def _as_text(base: Path, new: Path, found: Comparison, notes: Sequence[str], threshold: float) -> str:
    lines = [_COLUMNS, *(_row(change) for change in found.changes)]
    heading = in_columns([("base", str(base)), ("new", str(new)), *(("note", note) for note in notes)])
    worse = found.regressions
    if worse:
        names = ", ".join(change.name for change in worse[:5]) + _more(len(worse) - 5)
        verdict = f"{len(worse)} of {len(found.changes)} figures worse by more than {threshold:g} %: {names}"
    else:
        verdict = f"no figure of {len(found.changes)} is worse by more than {threshold:g} %"
    return f"{heading}\n\n{in_columns(lines, right=(2, 3, 4))}\n\n{verdict}"


def _row(change: Change) -> tuple[str, ...]:
    unit = "" if change.unit == "1" else change.unit
    direction = f"{change.direction.upper()} !" if change.regression else change.direction
    cells = change.name, unit, _number(change.base), _number(change.new), _percent(change.percent)
    return (*cells, direction, _evidence(change))


def _evidence(change: Change) -> str:
    if change.chance is not None:
        return f"{change.pairs}, p {change.chance:.3f}"
    if change.pairs <= 1:
        return "one sample each" if change.pairs else "not measured"
    if change.base == change.new:
        return f"{change.pairs}"
    return f"{change.pairs}, {'all agree' if change.agree else 'they disagree'}"


def _as_json(
    base: Path, new: Path, base_measured: Measurement, found: Comparison, notes: Sequence[str], threshold: float
) -> dict[str, Any]:
    changes = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in each.items()}
        for each in map(asdict, found.changes)
    ]
    return {
        "kind": base_measured.kind,
        "base": str(base),
        "new": str(new),
        "threshold_percent": threshold,
        "regressions": [change.name for change in found.regressions],
        "changes": changes,
        "only_in_base": list(found.only_in_base),
        "only_in_new": list(found.only_in_new),
        "notes": list(notes),
    }


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _percent(percent: float) -> str:
    if math.isinf(percent):
        return "from 0"
    return "-" if math.isnan(percent) else f"{percent:+.1f} %"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _write(path: Path, whole: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise AppError(f"--out: {path} cannot be written: {exc.strerror}") from None
