"""`vidette bench` of the service: one load, a sweep of batch sizes, or one camera against many."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.commands.bench_service import Bench, Case
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.measure.machine import Machine, this_machine
from app.measure.report import DEFINITIONS, Report, as_text, details, heading, samples
from app.measure.results import Figure, result
from app.measure.samples import Sample, figures
from app.measure.table import cases_table, stages_table

BATCHES = (1, 4, 8, 16)
SEQUENTIAL = "sequential"
_SWEEP = {
    "sequential": "one frame at a time: batches of 1 in one context, which has every core to itself",
    "batch_N": "batches of up to N in as many contexts as configured or measured",
    "speed_up": "inferred_fps against sequential, in the same repetition",
}
_CAMERAS = {"cameras_N": "N cameras", "speed_up": "inferred_fps against the first line, in the same repetition"}


def one_load(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure one load; the result's JSON and its text."""
    machine = this_machine()
    bench = Bench(arguments, folder, progress, machine)
    engine = bench.open_engine(batch=arguments.max_size)
    case = Case(name="", load=bench.load(engine, cameras=arguments.cameras), engine=engine)
    reports = [bench.measure(case) for _ in range(arguments.repeat)]
    last = reports[-1]
    found = figures([_samples(report) for report in reports])
    text = as_text(last)
    if len(reports) > 1:
        every = ", ".join(f"{report.service.inferred_fps:.1f}" for report in reports)
        text += f"\n\nThis is the last of {len(reports)} repetitions, which inferred {every} fps."
    return result("bench", machine, found, **details(last), definitions=DEFINITIONS), text


def sweep(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure the same cameras frame by frame and in batches."""
    machine = this_machine()
    bench = Bench(arguments, folder, progress, machine)
    batches = tuple(sorted(set(arguments.batches or BATCHES)))
    batched = bench.open_engine(batch=batches[-1])
    one = bench.open_sequential(batched)
    load = bench.load(batched, cameras=arguments.cameras, max_size=batches[-1])
    cases = [Case(name=SEQUENTIAL, load=load, engine=one, max_size=1)]
    cases += [Case(name=f"batch_{size}", load=load, engine=batched, max_size=size) for size in batches]
    return _table("sweep", bench, cases, machine, repeat=arguments.repeat, meanings=_SWEEP)


def cameras(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure one camera against many, on the same engine."""
    machine = this_machine()
    bench = Bench(arguments, folder, progress, machine)
    engine = bench.open_engine(batch=arguments.max_size)
    counts = tuple(dict.fromkeys(arguments.camera_counts))
    cases = [Case(name=f"cameras_{n}", load=bench.load(engine, cameras=n), engine=engine) for n in counts]
    return _table("cameras", bench, cases, machine, repeat=arguments.repeat, meanings=_CAMERAS)


def _table(
    kind: str, bench: Bench, cases: Sequence[Case], machine: Machine, *, repeat: int, meanings: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    # Round by round, so that a machine which slows down does so for every case.
    rounds = [{case.name: bench.measure(case) for case in cases} for _ in range(repeat)]
    compared = [_against_first(reports) for reports in rounds]
    by_case = {case.name: [each[case.name] for each in compared] for case in cases}
    found: dict[str, Figure] = {}
    for name, repetitions in by_case.items():
        found.update(figures(repetitions, name))
    rows = [{"name": name, **details(report)} for name, report in rounds[-1].items()]
    everything = [report for reports in rounds for report in reports.values()]
    text = "\n\n".join((in_columns(heading(everything)), cases_table(by_case), stages_table(by_case)))
    definitions = {**DEFINITIONS, **meanings}
    return result(kind, machine, found, rows=rows, definitions=definitions), text


def _samples(report: Report) -> dict[str, Sample]:
    used = report.service.usage.process / report.machine.cores
    return {
        **samples(report),
        "utilisation": Sample(value=used, unit="1", better="neither"),
        "others_cores": Sample(value=report.others, unit="cores", better="neither"),
    }


def _against_first(reports: Mapping[str, Report]) -> dict[str, dict[str, Sample]]:
    """The samples of one round, each case's rate against the first case's."""
    first = next(iter(reports.values())).service.inferred_fps
    return {
        name: {
            **_samples(report),
            "speed_up": Sample(value=report.service.inferred_fps / first, unit="1", better="higher"),
            **_batch_samples(name, report),
        }
        for name, report in reports.items()
    }


def _batch_samples(name: str, report: Report) -> dict[str, Sample]:
    """What a batch of the case's own size took; the batching simulator starts from it."""
    size = name.partition("batch_")[2]
    of = report.service.batch_ms.get(int(size)) if size else None
    return {} if of is None else {"batch_ms.p50": Sample(value=of.p50, unit="ms", better="lower")}
