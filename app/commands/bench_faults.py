"""`vidette bench --faults`: cameras that fail in every way, and whether everything else stands it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.commands.progress import Progress
from app.errors import ConfigError
from app.measure.chaos.cases import chosen
from app.measure.chaos.report import as_result, as_text
from app.measure.chaos.run import ChaosOptions, run_chaos
from app.measure.machine import this_machine

CAMERAS, SECONDS = 8, 60.0


def faults(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Run it; the JSON, whose `holds` says whether every invariant held, and the table.

    Half of the cameras fail, at most four at a time; nothing is done to the others. Raises `ConfigError` (2).
    """
    cases = chosen(arguments.faults)
    if arguments.cameras < 2:
        raise ConfigError("--cameras must be at least 2 with --faults: one that fails, and one beside it")
    victims = min(4, arguments.cameras // 2)
    options = ChaosOptions(
        cases=cases,
        steady=arguments.cameras - victims,
        victims=victims,
        seconds=float(arguments.seconds),
        seed=arguments.seed,
    )
    run = run_chaos(
        options,
        folder,
        on_stage=lambda name, seconds: progress.step(name, total=seconds or None),
        on_tick=progress.done,
    )
    return as_result(run, this_machine()), as_text(run)
