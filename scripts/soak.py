"""For a long time: cameras that fail, come and go, clients, API calls; and whether anything grows meanwhile.

    python scripts/soak.py --minutes 30 --out soak.json --record docs/reliability.md

Exit code 1 when an invariant of docs/reliability.md broke, or when memory, threads, descriptors or latency drifted.
2 for a bad option.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.commands.bench import MOST_CAMERAS
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.commands.scratch import scratch_folder
from app.errors import AppError, ConfigError
from app.measure.chaos.cases import chosen
from app.measure.chaos.drift import Drift, drifts
from app.measure.chaos.report import as_result, as_text
from app.measure.chaos.run import ChaosOptions, ChaosRun, run_chaos
from app.measure.machine import Machine, this_machine
from app.results.hub import MAX_SUBSCRIBERS

_CLIENTS = 8
_FIRST, _LAST = "<!-- numbers -->", "<!-- /numbers -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="how long cameras fail (30)")
    parser.add_argument("--faults", default="all", metavar="NAME,NAME", help="which (all)")
    parser.add_argument("--cameras", type=int, default=8, metavar="N", help="half of them fail (8)")
    parser.add_argument(
        "--clients", type=int, default=_CLIENTS, metavar="N", help="WebSocket clients that come and go (8)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the plan (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON result there")
    parser.add_argument("--record", type=Path, metavar="FILE", help=f"put the table between {_FIRST} and {_LAST} there")
    arguments = parser.parse_args(argv)
    try:
        _check(arguments)
        run = _run(arguments)
    except ConfigError as exc:
        print(f"soak: {exc}", file=sys.stderr)
        return 2
    except AppError as exc:
        print(f"soak: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    machine, found = this_machine(), drifts(run)
    text = f"{as_text(run)}\n\n{_table(found)}"
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(_result(run, machine, found), indent=2) + "\n", encoding="utf-8")
    if arguments.record is not None:
        record(arguments.record, text, _heading(machine, arguments))
    print(text)
    return 0 if run.holds and all(drift.holds for drift in found) else 1


def _check(arguments: argparse.Namespace) -> None:
    """Before the long run, not after it. Raises `ConfigError`."""
    if not 0 < arguments.minutes < math.inf:
        raise ConfigError(f"--minutes must be more than 0, not {arguments.minutes:g}")
    if not 2 <= arguments.cameras <= MOST_CAMERAS:
        raise ConfigError(f"--cameras must be from 2 to {MOST_CAMERAS}, not {arguments.cameras}")
    if not 0 <= arguments.clients <= MAX_SUBSCRIBERS // 2:
        raise ConfigError(f"--clients must be from 0 to {MAX_SUBSCRIBERS // 2}, not {arguments.clients}")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {arguments.out.parent}")
    if arguments.record is not None:
        _marked(arguments.record)


def _run(arguments: argparse.Namespace) -> ChaosRun:
    victims = min(4, arguments.cameras // 2)
    options = ChaosOptions(
        cases=chosen(arguments.faults),
        steady=arguments.cameras - victims,
        victims=victims,
        seconds=60 * arguments.minutes,
        clients=arguments.clients,
        seed=arguments.seed,
    )
    with scratch_folder("soak") as folder, Progress() as progress:
        return run_chaos(
            options,
            folder,
            on_stage=lambda name, seconds: progress.step(name, total=seconds or None),
            on_tick=progress.done,
        )


def _result(run: ChaosRun, machine: Machine, found: tuple[Drift, ...]) -> dict[str, Any]:
    whole = as_result(run, machine)
    return {
        **whole,
        "kind": "soak",
        "drifts": [{**asdict(drift), "growth": drift.growth, "holds": drift.holds} for drift in found],
        "samples": [
            {"at_s": round(each.at_s, 1), "answer_ms": round(1e3 * each.answer_s, 1), **asdict(each.held)}
            for each in run.samples
        ],
    }


def _table(found: tuple[Drift, ...]) -> str:
    if not found:
        return "too short to tell of any drift"
    lines: list[tuple[str, ...]] = [("drift", "first third", "last third", "growth", "allowed", "an hour", "")]
    lines += [
        (
            drift.name,
            f"{drift.early:.1f}",
            f"{drift.late:.1f}",
            f"{drift.growth:+.1f}",
            f"{drift.allowed:.1f}",
            "-" if drift.an_hour is None else f"{drift.an_hour:+.1f}",
            f"{drift.unit}{'' if drift.holds else ' BROKEN'}",
        )
        for drift in found
    ]
    return in_columns(lines, right=range(1, 6))


def _heading(machine: Machine, arguments: argparse.Namespace) -> str:
    options = f"--minutes {arguments.minutes:g} --cameras {arguments.cameras} --seed {arguments.seed}"
    options += "" if arguments.faults == "all" else f" --faults {arguments.faults}"
    options += "" if arguments.clients == _CLIENTS else f" --clients {arguments.clients}"
    where = f"{machine.cpu}, {machine.cores} cores, {machine.python}, commit {machine.commit or 'unknown'}"
    return f"`python scripts/soak.py {options}` on {where}"


def record(path: Path, text: str, heading: str) -> None:
    """Put a text between the two marks of a document. Raises `ConfigError` when it has none."""
    before, after = _marked(path)
    path.write_text(f"{before}{_FIRST}\n{heading}:\n\n```\n{text}\n```\n{_LAST}{after}", encoding="utf-8")


def _marked(path: Path) -> tuple[str, str]:
    """What stands before and behind the marks."""
    try:
        before, first, rest = path.read_text(encoding="utf-8").partition(_FIRST)
    except OSError as exc:
        raise ConfigError(f"--record: {path} cannot be read: {exc.strerror}") from None
    _old, last, after = rest.partition(_LAST)
    if not first or not last:
        raise ConfigError(f"--record: {path} has no {_FIRST} and {_LAST}")
    return before, after


if __name__ == "__main__":
    sys.exit(main())
