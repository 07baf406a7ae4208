"""`vidette bench --savings`: what a camera costs at full rate, at `max_fps` 1, and while its motion gate is closed."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.backends.select import Choice
from app.commands.bench_service import Bench
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.measure.machine import this_machine
from app.measure.results import result
from app.measure.samples import Sample, figures, median
from app.measure.savings import CameraCase, CameraCost, SavingsRun, measure_cameras
from app.measure.still import keyframe_interval_s, still_clip
from app.measure.threads import CONTEXTS, LOOP, OTHERS, READERS
from app.measure.workload import OpenedBackend, run_on_loop
from app.service import Service
from app.simulator.process import SimulatorProcess

FULL, SLOW, BUSY, STILL = "full", "max_fps_1", "gate_busy", "gate_still"
_NAMES = (FULL, SLOW, BUSY, STILL)
_THREADS = (READERS, LOOP, CONTEXTS, OTHERS)
RATIOS = {"max_fps_1_ratio": (SLOW, FULL), "still_ratio": (STILL, BUSY)}
DEFINITIONS = {
    FULL: "a camera at its own rate, without a motion gate",
    SLOW: "the same camera with max_fps 1: where keyframes come at least once a second, only they are decoded",
    BUSY: "the same camera with the motion gate, motion: {}",
    STILL: "a camera with the motion gate that shows the first picture of the same clip for ever, with new noise",
    "cores": "CPU seconds a second of this process, less those of the service without a camera (idle.cores); the "
    "simulator is another process",
    "threads": "cores by thread, those of the idle service included; an inference library's own are among the others",
    "max_fps_1_ratio": "cores of max_fps_1 against full",
    "still_ratio": "cores of gate_still against gate_busy",
}


def savings(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure a camera in each of the four ways; the result's JSON and its table."""
    machine = this_machine()
    bench = Bench(arguments, folder, progress, machine)
    engine = bench.open_engine(batch=arguments.max_size)
    busy = bench.clip_at(arguments.fps or bench.clip_fps)
    still = still_clip(busy, folder / "still.mp4")
    backend, seconds = OpenedBackend(bench.backend, engine.detector), float(arguments.seconds)
    runs = [_run(bench, backend, busy, still, progress, seconds) for _ in range(arguments.repeat)]
    repetitions = [_samples(run) for run in runs]
    keyframe_s = keyframe_interval_s(busy)
    details = {
        "clip": bench.clip.name,
        "keyframe_interval_s": keyframe_s,
        "engine": {key: value for key, value in asdict(engine.info).items() if key != "classes"},
        "runs": [asdict(run) for run in runs],
        "definitions": DEFINITIONS,
    }
    lines: list[tuple[str, ...]] = [("", "cores", *_THREADS, "decoded fps", "inferred fps", "dropped")]
    lines += [_line(name, [cost for run in runs for cost in run.cameras if cost.name == name]) for name in _NAMES]
    idle = median(repetitions, "idle.cores")
    text = [
        in_columns(lines, right=range(1, 8)),
        f"idle service: {idle:.4f} cores, taken off every line; keyframes every {keyframe_s:g} s",
        f"max_fps 1 costs {median(repetitions, 'max_fps_1_ratio'):.1%} of full rate",
        f"a still camera with the motion gate costs {median(repetitions, 'still_ratio'):.1%} of a busy one",
    ]
    return result("savings", machine, figures(repetitions), **details), "\n".join(text)


def _run(
    bench: Bench, backend: OpenedBackend, busy: Path, still: Path, progress: Progress, seconds: float
) -> SavingsRun:
    options: dict[str, dict[str, Any]] = {FULL: {}, SLOW: {"max_fps": 1.0}, BUSY: {"motion": {}}, STILL: {"motion": {}}}
    with SimulatorProcess() as simulator:
        urls = {name: simulator.add_camera(name, still if name == STILL else busy) for name in options}
        cases = [CameraCase(name=name, url=url, options=options[name]) for name, url in urls.items()]
        service = Service(bench.fresh_settings(), choice=Choice(backend=backend, reason="measured", availability=()))
        work = measure_cameras(
            service,
            cases,
            seconds=seconds,
            on_case=lambda name: progress.step(f"measuring {name.replace('_', ' ')}", total=seconds),
            on_tick=progress.done,
        )
        return run_on_loop(work)


def _samples(run: SavingsRun) -> dict[str, Sample]:
    cores = {cost.name: cost.cores for cost in run.cameras}
    ratios = {name: cores[saving] / cores[against] for name, (saving, against) in RATIOS.items()}
    return {
        "idle.cores": Sample(value=run.idle_cores, unit="cores", better="lower"),
        **{f"{name}.cores": Sample(value=value, unit="cores", better="lower") for name, value in cores.items()},
        **{name: Sample(value=value, unit="1", better="lower") for name, value in ratios.items()},
    }


def _line(name: str, costs: Sequence[CameraCost]) -> tuple[str, ...]:
    last = costs[-1]
    dropped = ", ".join(f"{reason} {count}" for reason, count in last.dropped.items() if count) or "none"
    cores = statistics.median(cost.cores for cost in costs)
    threads = (f"{last.threads[group]:.4f}" for group in _THREADS)
    rates = f"{last.decoded_fps:.1f}", f"{last.published_fps:.1f}"
    return name.replace("_", " "), f"{cores:.4f}", *threads, *rates, dropped
