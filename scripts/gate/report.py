"""The gate's result: one JSON for programs, one table for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from app.commands.columns import in_columns
from app.measure.machine import this_machine
from scripts.gate.availability import Found
from scripts.gate.steps import STEPS, Outcome

VERSION = 1
# The better of two known results on an H200-class card, all cameras together, that this service wants to beat tenfold.
BASELINE_FPS = 588.0
LEAST_RATIO = 0.9
MOST_P99_MS = 25.0


def as_json(found: Found, outcomes: Sequence[Outcome], *, seconds: float) -> dict[str, Any]:
    """Everything, numbers rounded; a step that did not run is there with its reason."""
    steps = {outcome.name: asdict(outcome) for outcome in outcomes}
    report = {
        "version": VERSION,
        "gpu": found.gpu,
        "parts": [asdict(part) for part in found.parts],
        "machine": asdict(this_machine()),
        "seconds": seconds,
        "steps": steps,
        "summary": _summary(steps) if steps else None,
    }
    rounded: dict[str, Any] = _rounded(report)
    return rounded


def as_table(report: dict[str, Any]) -> str:
    """One line a finding; a cell that was not measured is a dash."""
    lines = [("step", "result", "figure")]
    for step in STEPS:
        outcome = report["steps"].get(step.name)
        if outcome is None:
            lines.append((step.title, "not run", "-"))
            continue
        figures = list(_figures(step.name, outcome["result"] or {})) or [outcome["reason"] or "-"]
        lines.append((step.title, outcome["state"], figures[0]))
        lines += [("", "", figure) for figure in figures[1:]]
    summary = report["summary"]
    lines += [("", "", ""), *((name, _mark(goal["met"]), goal["text"]) for name, goal in summary.items())]
    return in_columns(lines)


def _mark(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "unknown"}[met]


def _summary(steps: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the design asks of a GPU, and whether this run shows it."""
    results = {name: outcome["result"] or {} for name, outcome in steps.items() if outcome["state"] == "ok"}
    best = results.get("pipeline", {}).get("inferred_fps")
    limits = {
        "NVDEC": results.get("nvdec", {}).get("fps"),
        "engine": results.get("engine", {}).get("images_per_second"),
    }
    known = {name: value for name, value in limits.items() if value}
    binding = min(known, key=lambda name: known[name]) if known else None
    ratio = best / known[binding] if best and binding else None
    p99 = results.get("load", {}).get("p99_ms")
    return {
        "ratio to the binding limit": {
            "value": ratio,
            "met": None if ratio is None else ratio >= LEAST_RATIO,
            "text": "-" if ratio is None else f"{ratio:.3f} of {binding} (goal: {LEAST_RATIO:g})",
        },
        "p99 at 70 % load": {
            "value": p99,
            "met": None if p99 is None else p99 < MOST_P99_MS,
            "text": "-" if p99 is None else f"{p99:.1f} ms (goal: under {MOST_P99_MS:g} ms)",
        },
        "times the baseline": {
            "value": None if best is None else best / BASELINE_FPS,
            "met": None if best is None else best >= 10 * BASELINE_FPS,
            "text": "-"
            if best is None
            else f"{best:.0f} fps are {best / BASELINE_FPS:.1f} x {BASELINE_FPS:.0f} (goal: 10)",
        },
    }


def _figures(name: str, result: dict[str, Any]) -> Iterator[str]:
    """The few figures of a step that belong into the table."""
    if not result:
        return
    if name == "build":
        yield f"{result['precision']}, {result['plan_mib']:.1f} MiB in {result['build_s']:.0f} s; {result['runtime']}"
    elif name == "tests":
        yield f"{result['passed']} passed, {len(result['failed_tests'])} failed, {len(result['skipped'])} skipped"
    elif name == "kernels":
        for kernel in result["kernels"]:
            share = (
                ""
                if kernel.get("of_copy") is None
                else f", {kernel['gb_per_s']:.0f} GB/s = {kernel['of_copy']:.2f} of a copy"
            )
            yield f"{kernel['name']}, batch {kernel['batch']}: {kernel['ms']:.3f} ms{share}"
    elif name == "engine":
        for run in result["runs"]:
            graphs = "graphs" if run["graphs"] else "plain"
            yield (
                f"batch {run['batch']}, {run['contexts']} contexts, {graphs}: "
                f"{run['images_per_second']:.0f} images/s, {run['ms_per_batch']:.2f} ms a batch"
            )
    elif name == "nvdec":
        for run in result["runs"]:
            yield f"{run['decoders']} decoders: {run['fps']:.0f} fps of {result['picture']}"
    elif name in ("pipeline", "batches"):
        yield from (_pipeline(run) for run in result["runs"])
    elif name == "load":
        yield _pipeline(result["run"])
    elif name == "rtsp":
        yield _pipeline(result)
    elif name == "soak":
        yield (
            f"{result['cameras_seen']} cameras came and went; device memory {result['device_growth_mib']:+.1f} MiB, "
            f"process {result['process_growth_mib']:+.1f} MiB, {result['threads_growth']:+d} threads"
        )


def _pipeline(run: dict[str, Any]) -> str:
    latency, gpu = run["latency_ms"], run["gpu"]
    used = ", ".join(
        f"{label} {gpu[key]:.0%}"
        for key, label in (("utilization_ratio", "GPU"), ("decoder_utilization_ratio", "NVDEC"))
        if key in gpu
    )
    size = f", batch {run['max_size']}" if "max_size" in run else ""
    if software := run["decoders"].get("software"):
        used = f"{used}, {software} decoded in software".removeprefix(", ")
    cost = f"{run['cpu_ms_per_frame']:.2f} ms CPU a frame"
    return (
        f"{run['cameras']} cameras{size}: {run['inferred_fps']:.0f} fps, p50/p95/p99 "
        f"{latency['p50']:.1f}/{latency['p95']:.1f}/{latency['p99']:.1f} ms, {cost}" + (f"; {used}" if used else "")
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
