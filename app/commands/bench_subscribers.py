"""`vidette bench --subscribers N`: one busy camera without and with many WebSocket clients."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.api.stream import STAND_STILL_S
from app.commands.bench_service import Bench
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.measure.machine import this_machine
from app.measure.results import Figure, result
from app.measure.samples import Sample, figures
from app.measure.subscribers.crowd import CrowdPlan, CrowdRun, Stretch, crowd

RATES = (15.0, 30.0, 60.0)
_GOAL = 0.97
_OTHER_CONNECTIONS = 64
DEFINITIONS = {
    "without, with": "the same service and camera, by turns: no client, then all of them",
    "fps_ratio": "frames that the ledger counts as published a second, with clients against without; the median turn",
    "service_cores": "CPU seconds a second of the service's process; loop_cores: of its event loop's thread alone",
    "clients_cores": "CPU seconds a second of the process that plays the clients, at niceness 10",
    "delay_ms": "from a result's publication to a client that has read its message; every 16th client takes part",
    "missed": "results that clients did not get, stuck ones included; each is told as a gap",
    "client_bytes": "growth of the service's resident memory for a client more, by least squares over four steps; at "
    "the first rate only, since memory is used again",
    "kernel_bytes": "growth of the machine's TCP buffers for a stuck client, both ends, until the first is evicted",
    "evicted": "stuck clients that the service closed with 1013; first_s, last_s: after the last one had connected",
}


def subscribers(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure the camera at each rate; the result's JSON and its text."""
    machine = this_machine()
    bench = Bench(arguments, folder, progress, machine)
    plan = CrowdPlan(
        settings=_overrides(bench, arguments),
        clients=arguments.subscribers,
        stuck=arguments.subscribers // 5 if arguments.stuck is None else arguments.stuck,
        mode=arguments.delivery,
        seconds=float(arguments.seconds),
        turns=arguments.repeat,
        stand_still_s=arguments.stand_still or STAND_STILL_S,
    )
    rates = RATES if arguments.fps is None else (arguments.fps,)
    clips = {fps: bench.clip_at(fps) for fps in rates}
    progress.step("starting the service")
    with crowd(plan) as running:
        runs = [running.run(clip, fps, progress.step, progress.done) for fps, clip in clips.items()]
    found: dict[str, Figure] = {}
    for run in runs:
        found.update(figures([_samples(run, turn) for turn in range(plan.turns)], f"fps_{run.fps:g}"))
    details = {
        "clients": plan.clients,
        "stuck": plan.stuck,
        "mode": plan.mode,
        "clip": bench.clip.name,
        "runs": [{**asdict(run), "fps_ratio": statistics.median(run.ratios)} for run in runs],
        "definitions": DEFINITIONS,
    }
    return result("subscribers", machine, found, **details), _text(runs, plan, machine.cores)


def _overrides(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the service in its own process is told; the environment tells it the rest."""
    settings, places = bench.fresh_settings(), arguments.subscribers + _OTHER_CONNECTIONS
    overrides: dict[str, Any] = {
        "data_dir": str(settings.data_dir),
        "model": str(arguments.model),
        "models_dir": str(settings.models_dir),
        "server": {
            **{"host": "127.0.0.1", "port": 0, "tls_cert_file": None, "tls_key_file": None},
            **{"max_connections": places, "max_connections_per_client": places},
        },
        "auth": {"mode": "none"},
        "cameras": {"declared": ()},
        "history": {"size": settings.history.size},
    }
    if arguments.max_size is not None:
        overrides["batching"] = {"max_size": arguments.max_size}
    if arguments.precision is not None:
        overrides["backend"] = {"precision": arguments.precision}
    return overrides


def _samples(run: CrowdRun, turn: int) -> dict[str, Sample]:
    without, crowded = run.without[turn], run.with_clients[turn]
    return {
        "fps_ratio": Sample(value=run.ratios[turn], unit="1", better="higher"),
        "without.published_fps": Sample(value=without.published_fps, unit="fps", better="higher"),
        "with.published_fps": Sample(value=crowded.published_fps, unit="fps", better="higher"),
        "without.service_cores": Sample(value=without.service_cores, unit="cores", better="lower"),
        "with.service_cores": Sample(value=crowded.service_cores, unit="cores", better="lower"),
        "with.delay_ms.p50": Sample(value=crowded.delay_ms.p50, unit="ms", better="lower"),
        "with.delay_ms.p99": Sample(value=crowded.delay_ms.p99, unit="ms", better="lower"),
        "client_kib": Sample(value=run.client_bytes / 1024, unit="KiB", better="lower"),
    }


def _text(runs: Sequence[CrowdRun], plan: CrowdPlan, cores: int) -> str:
    head = ("camera", "", "published", "decoded", "dropped", "service", "loop", "clients", "simulator", "of cores")
    lines: list[tuple[str, ...]] = [(*head, "sent/s", "results/s each", "delay p50", "p99")]
    for run in runs:
        for name, stretches in (("without", run.without), ("with", run.with_clients)):
            lines += [_line(f"{run.fps:g} fps", name, stretch, cores) for stretch in stretches]
    text = [in_columns(lines, right=range(2, 14)), ""]
    for run in runs:
        ratio, gone = statistics.median(run.ratios), run.eviction
        text.append(
            f"{run.fps:g} fps: {ratio:.1%} of the frames with {plan.clients} clients, {plan.stuck} of them stuck "
            f"({'reached' if ratio >= _GOAL else 'not reached'}: {_GOAL:.0%}); {_binding(run, cores)}"
        )
        when = "" if gone.last_s is None else f", {gone.first_s:.0f} to {gone.last_s:.0f} s after they came"
        text.append(
            f"  evicted with 1013: {gone.evicted} of {plan.stuck}{when}; {gone.saw_1013} read the code when woken; "
            f"{run.disorder} messages out of order; ledger {'exact' if run.ledger_holds else 'NOT EXACT'}"
        )
        kernel = "" if gone.kernel_bytes is None else f"; kernel {gone.kernel_bytes / 1024:.0f} KiB a stuck client"
        if run is not runs[0]:
            continue  # memory that the first rate's clients took is used again
        text.append(f"  memory: {run.client_bytes / 1024:.1f} KiB a client in the service{kernel}")
    return "\n".join(text)


def _binding(run: CrowdRun, cores: int) -> str:
    """What the fastest turn was short of."""
    used = statistics.median(stretch.cores for stretch in run.with_clients)
    loop = statistics.median(stretch.loop_cores for stretch in run.with_clients)
    if used > 0.9 * cores:
        return f"all {cores} cores are busy ({used:.2f}, of them {_crowd_cores(run):.2f} the clients' own)"
    return f"{used:.2f} of {cores} cores are busy" + (", the event loop's thread is the narrow place" * (loop > 0.9))


def _crowd_cores(run: CrowdRun) -> float:
    return statistics.median(stretch.clients_cores for stretch in run.with_clients)


def _line(rate: str, name: str, stretch: Stretch, cores: int) -> tuple[str, ...]:
    busy = (stretch.service_cores, stretch.loop_cores, stretch.clients_cores, stretch.simulator_cores)
    crowded = name == "with"
    return (
        *(rate, name, f"{stretch.published_fps:.2f}", f"{stretch.decoded_fps:.2f}", str(stretch.dropped)),
        *(f"{each:.2f}" for each in busy),
        f"{stretch.cores:.2f}/{cores}",
        *(f"{each:.0f}" if crowded else "" for each in (stretch.sent_per_s, stretch.results_per_s)),
        *(f"{each:.1f}" if crowded else "" for each in (stretch.delay_ms.p50, stretch.delay_ms.p99)),
    )
