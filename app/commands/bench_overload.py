"""`vidette bench --overload`: what is left of shares, ages and the API at several times what the machine can infer."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app.backends.base import Backend
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.commands.bench_service import Bench, Case, OpenedEngine
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.cores import available_cores
from app.measure.cameras import start_cameras
from app.measure.figures import Percentiles
from app.measure.load import Load, saturating_fps
from app.measure.machine import this_machine
from app.measure.overload import PRIORITIES, OverloadPlan, OverloadRun, measure_overload
from app.measure.results import result
from app.measure.samples import Sample, figures
from app.measure.workload import OpenedBackend, run_on_loop
from app.settings import AuthSettings, ServerSettings, Settings, load_settings
from app.simulator.process import SimulatorProcess

SYNTHETIC, REAL = "synthetic", "real"
# The ladder has climbed by then, as far as it has to.
_WARM_UP_S = 12.0
_CALIBRATION_S, _TRIAL_S = 1.5, 4.0
_SYNTHETIC_BATCH_S = 0.004, 0.016  # a batch, and each of its frames
DEFINITIONS = {
    SYNTHETIC: "cameras and a detector that cost no CPU time worth mentioning: what the rules do",
    REAL: "RTSP cameras of the simulator, decoded and inferred: what the machine does",
    "overload": "frames a second that came out of the decoders, against those that were inferred",
    "share_off": "the camera that is farthest from its due by priority: how far, as a share of its due",
    "age_to_bound": "the p99 of ages against two batch times and decoding, each at its own p99",
    "age": "from a packet's arrival to its result's message",
    "age_in_batches": "a result's age, less its decoding, in times of what its own batch took in its context",
    "api": "the answers to another process that asks for /livez, /cameras, /capacity, a snapshot and /metrics in turn",
}


def overload(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure the synthetic and the real overload; the result's JSON and its tables."""
    machine = this_machine()
    # First, since it knows whether there is such a model; and one for all repetitions, each with a folder of its own.
    bench = None if arguments.only == SYNTHETIC else Bench(arguments, folder, progress, machine)
    runs: dict[str, list[OverloadRun]] = {}
    for _ in range(arguments.repeat):
        if arguments.only != REAL:
            runs.setdefault(SYNTHETIC, []).append(_synthetic(arguments, folder, progress))
        if bench is not None:
            runs.setdefault(REAL, []).append(_real(bench, arguments, progress))
    samples = {}
    for name, repetitions in runs.items():
        samples.update(figures([_samples(run) for run in repetitions], name))
    details = {"runs": {name: [asdict(run) for run in each] for name, each in runs.items()}}
    text = "\n\n".join(f"{name}: {DEFINITIONS[name]}\n{_text(each[-1])}" for name, each in runs.items())
    return result("overload", machine, samples, definitions=DEFINITIONS, **details), text


def _synthetic(arguments: argparse.Namespace, folder: Path, progress: Progress) -> OverloadRun:
    base_s, frame_s = _SYNTHETIC_BATCH_S
    detector = SyntheticDetector(contexts=2, max_batch=4, base_s=base_s, frame_s=frame_s)
    assert detector.info.capacity_fps is not None
    fps = arguments.times * detector.info.capacity_fps / arguments.cameras
    urls = {f"cam-{number}": f"rtsp://synthetic/{number}?fps={fps:.6g}" for number in range(arguments.cameras)}
    settings = load_settings(
        overrides={
            "data_dir": folder / f"synthetic-{len(list(folder.glob('synthetic-*')))}",
            "server": {"port": 0},
            "backend": {"device": "synthetic"},
            "cameras": {"declared": ()},
            "overload": {"ladder": arguments.ladder},
        }
    )
    seconds = float(arguments.seconds)
    progress.step(f"measuring the {SYNTHETIC} overload", total=seconds)
    return _measured(settings, SyntheticBackend(detector), urls, seconds=seconds, on_tick=progress.done)


def _real(bench: Bench, arguments: argparse.Namespace, progress: Progress) -> OverloadRun:
    engine = bench.open_engine(batch=arguments.max_size)
    fps = arguments.fps or _overloading_fps(bench, engine, arguments, progress)
    progress.step(f"measuring the {REAL} overload", total=float(arguments.seconds))
    return _beside_simulator(bench, engine, arguments, fps, seconds=float(arguments.seconds), on_tick=progress.done)


def _overloading_fps(bench: Bench, engine: OpenedEngine, arguments: argparse.Namespace, progress: Progress) -> float:
    """Frames a second that each camera has to send.

    The limit says what decoding and inferring cost alone. A short run of the service says what a frame costs there
    until it is decoded, on this machine, the simulator's part included.
    """
    cameras, times = arguments.cameras, arguments.times
    progress.step(f"finding {times:g} times what can be inferred", total=_CALIBRATION_S)
    load = Load(cameras=cameras, clip=bench.clip.name, fps=bench.clip_fps)
    limit = bench.limit(Case(name="", load=load, engine=engine), bench.clip, _CALIBRATION_S)
    cores = available_cores()
    fps = saturating_fps(limit, cores=cores, cameras=cameras, times=times)
    tried = _beside_simulator(bench, engine, arguments, fps, seconds=_TRIAL_S, warm_up_s=_TRIAL_S)
    inferring = tried.inferred_fps * limit.infer_cpu_ms / 1e3
    per_frame_ms = 1e3 * max(0.0, cores - inferring) / max(1.0, tried.offered_fps)
    seen = replace(limit, decode_cpu_ms=per_frame_ms)
    return saturating_fps(seen, cores=cores, cameras=cameras, times=times)


def _beside_simulator(
    bench: Bench,
    engine: OpenedEngine,
    arguments: argparse.Namespace,
    fps: float,
    *,
    seconds: float,
    warm_up_s: float | None = None,
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> OverloadRun:
    settings = bench.fresh_settings()
    overload = settings.overload.model_copy(update={"ladder": arguments.ladder})
    # On loopback and without tokens, whatever the user's own service asks for.
    ours = {"server": ServerSettings(port=0), "auth": AuthSettings(), "overload": overload}
    settings = settings.model_copy(update=ours)
    clip = bench.clip_at(round(fps, 1))
    load = Load(cameras=arguments.cameras, clip=clip.name, fps=fps)
    backend = OpenedBackend(bench.backend, engine.detector)
    with SimulatorProcess() as simulator:
        urls = start_cameras(simulator, clip, load.phases_s)
        return _measured(settings, backend, urls, seconds=seconds, warm_up_s=warm_up_s, on_tick=on_tick)


def _measured(
    settings: Settings,
    backend: Backend[Any],
    urls: Mapping[str, str],
    *,
    seconds: float,
    warm_up_s: float | None = None,
    on_tick: Callable[[float], None],
) -> OverloadRun:
    priorities = {camera: PRIORITIES[number % len(PRIORITIES)] for number, camera in enumerate(urls)}
    warm_up_s = min(_WARM_UP_S, 2 * seconds) if warm_up_s is None else warm_up_s
    plan = OverloadPlan(urls=urls, priorities=priorities, warm_up_s=warm_up_s, seconds=seconds)
    return run_on_loop(measure_overload(settings, backend, plan, on_tick=on_tick))


def _samples(run: OverloadRun) -> dict[str, Sample]:
    return {
        "overload": Sample(value=_ratio(run), unit="1", better="neither"),
        "inferred_fps": Sample(value=run.inferred_fps, unit="fps", better="higher"),
        "share_off": Sample(value=run.worst_off, unit="1", better="lower"),
        "age_ms.p50": Sample(value=run.age_ms.p50, unit="ms", better="lower"),
        "age_ms.p99": Sample(value=run.age_ms.p99, unit="ms", better="lower"),
        "age_to_bound": Sample(value=run.age_ms.p99 / run.age_bound_ms, unit="1", better="lower"),
        "batch_ms.p50": Sample(value=run.batch_ms.p50, unit="ms", better="neither"),
        "age_in_batches.p99": Sample(value=run.waited_batches.p99, unit="1", better="lower"),
        "api_ms.p50": Sample(value=run.api_all_ms.p50, unit="ms", better="lower"),
        "api_ms.p99": Sample(value=run.api_all_ms.p99, unit="ms", better="lower"),
        "process_cores": Sample(value=run.process_cores, unit="1", better="neither"),
    }


def _ratio(run: OverloadRun) -> float:
    return run.offered_fps / run.inferred_fps if run.inferred_fps else math.nan


def _text(run: OverloadRun) -> str:
    dropped = ", ".join(f"{reason} {count}" for reason, count in run.dropped.items() if count)
    cores = ", ".join(f"{name} {used:.2f}" for name, used in run.threads_cores.items())
    levels = ", ".join(f"{name} {count}" for name, count in run.levels.items()) or "none"
    durations: list[tuple[str, ...]] = [("ms", "p50", "p95", "p99")]
    durations += [_line("age", run.age_ms), _line("batch", run.batch_ms), _line("decode", run.decode_ms)]
    durations += [_line("age in batches", run.waited_batches), _line("API", run.api_all_ms)]
    durations += [_line(f"  {path}", took) for path, took in run.api_ms.items()]
    lines = [
        in_columns(_shares(run), right=range(1, 7)),
        f"decoded {run.offered_fps:.1f} fps, inferred {run.inferred_fps:.1f}: {_ratio(run):.2f} times",
        in_columns(durations, right=range(1, 4)),
        f"age p99 {run.age_ms.p99:.1f} ms; two batches and decoding, at their p99, are {run.age_bound_ms:.1f} ms",
        f"dropped: {dropped}; cameras degraded at the end: {levels}",
        f"cores: {cores}; {run.process_cores:.2f} together; the ledger {'holds' if run.ledger.holds else 'IS WRONG'}",
    ]
    return "\n".join(lines)


def _shares(run: OverloadRun) -> Sequence[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("camera", "priority", "decoded", "inferred", "due", "off", "age p99 ms")]
    for share in run.shares:
        fps = (f"{each:.1f}" for each in (share.offered_fps, share.inferred_fps, share.due_fps))
        lines.append((share.camera_id, str(share.priority), *fps, f"{share.off:+.1%}", f"{share.age_p99_ms:.1f}"))
    return lines


def _line(name: str, of: Percentiles) -> tuple[str, ...]:
    return name, f"{of.p50:.1f}", f"{of.p95:.1f}", f"{of.p99:.1f}"
