"""`vidette bench`: how much of what this machine can do is left when it is done as a service.

Three measurements follow each other in one process: the limit (see `app.measure.limit`), the service with simulated
RTSP cameras (see `app.measure.workload`), and the limit again. The same execution contexts run in all three. The
simulator is a child process; what it costs is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from app.backends.select import Choice
from app.commands.clips import render_clip
from app.commands.progress import Progress
from app.errors import AppError, BackendUnavailable, ConfigError
from app.logs import configure_logging
from app.measure.figures import LimitRun, budget_fps
from app.measure.limit import LimitPlan, measure_limit
from app.measure.machine import this_machine
from app.measure.report import Report, as_json, as_text
from app.measure.workload import OpenedBackend, WorkloadPlan, WorkloadRun, measure_service
from app.service import Service
from app.settings import Settings, load_settings
from app.simulator.process import SimulatorProcess

T = TypeVar("T")
DEFAULT_SCENE = "plaza"
MOST_CAMERAS = 256
# Results kept for each camera: more than any camera has in the quarter of a second between two looks.
_HISTORY = 256
# Cameras are switched on at odd moments of a second, so that their keyframes do not come all at once.
_GOLDEN = (math.sqrt(5) - 1) / 2


def bench(arguments: argparse.Namespace) -> int:
    """Measure, print, write `--out`. 0 when it was measured, whatever the figures; raises `ConfigError` (2)."""
    _check(arguments)
    configure_logging("error")
    with tempfile.TemporaryDirectory(prefix="vidette-bench-") as folder, Progress() as progress:
        report = _measure(arguments, Path(folder), progress)
    result = as_json(report)
    if arguments.out is not None:
        _write(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else as_text(report))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be measured, with a sentence that names the option."""
    if not 1 <= arguments.cameras <= MOST_CAMERAS:
        raise ConfigError(f"--cameras must be from 1 to {MOST_CAMERAS}, not {arguments.cameras}")
    if not 0 < arguments.seconds < math.inf:
        raise ConfigError(f"--seconds must be more than 0, not {arguments.seconds:g}")
    if arguments.max_size is not None and not 1 <= arguments.max_size <= 16:
        raise ConfigError(f"--max-size must be from 1 to 16, not {arguments.max_size}")
    if arguments.fps is not None and not 0 < arguments.fps <= 240:
        raise ConfigError(f"--fps must be more than 0 and at most 240, not {arguments.fps:g}")
    if arguments.clip is not None and not arguments.clip.is_file():
        raise ConfigError(f"--clip: there is no file {arguments.clip}")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {arguments.out.parent}")


def _settings(arguments: argparse.Namespace, folder: Path) -> Settings:
    overrides: dict[str, Any] = {
        "data_dir": folder / "data",
        "model": arguments.model,
        "history": {"size": _HISTORY},
        "cameras": {"declared": ()},  # the user's cameras are not what is measured
    }
    if arguments.max_size is not None:
        overrides["batching"] = {"max_size": arguments.max_size}
    if arguments.models_dir is not None:
        overrides["models_dir"] = arguments.models_dir
    settings = load_settings(overrides=overrides)
    if settings.backend.device not in ("auto", "cpu"):
        raise BackendUnavailable(settings.backend.device, "the benchmark measures the cpu backend")
    return settings


def _measure(arguments: argparse.Namespace, folder: Path, progress: Progress) -> Report:
    # Late, as everywhere: only who uses a backend needs its packages.
    from app.backends.cpu.backend import CpuBackend
    from app.backends.cpu.detector import CpuDetector, open_runners
    from app.measure.retime import clip_fps, retimed

    settings = _settings(arguments, folder)
    progress.step("preparing the cameras and the engine")
    clip = arguments.clip or render_clip(folder / f"{DEFAULT_SCENE}.mp4", DEFAULT_SCENE)
    if arguments.fps is not None:
        clip = retimed(clip, folder / f"{clip.stem}-retimed.mp4", fps=arguments.fps)
    fps = clip_fps(clip)
    contexts = settings.backend.contexts
    info, runners = open_runners(
        settings.model,
        settings.models_dir,
        max_batch=settings.batching.max_size,
        iou=settings.iou,
        contexts=None if contexts == "auto" else contexts,
        batch=arguments.max_size,
    )
    backend = CpuBackend(settings)
    phases_s = tuple(number * _GOLDEN % 1.0 for number in range(arguments.cameras))
    batch = min(info.best_batch, settings.batching.max_size, arguments.cameras)
    limit_plan = LimitPlan(clip=clip, phases_s=phases_s, batch=batch)

    def limit(when: str) -> LimitRun:
        progress.step(f"measuring the limit {when} the service", total=limit_s)
        return measure_limit(
            limit_plan,
            open_source=backend.open_source,
            runs=[runner.run for runner in runners],
            seconds=limit_s,
            on_tick=progress.done,
        )

    limit_s = arguments.seconds / 2
    before = limit("before")
    opened = OpenedBackend(backend, lambda: CpuDetector(info, runners, name="cpu-detector"))
    run = _run_service(arguments, settings, clip, phases_s, opened, progress)
    after = limit("after")
    runs = (before, after)
    return Report(
        cameras=arguments.cameras,
        clip=clip.name,
        camera_fps=fps,
        batching={"max_size": settings.batching.max_size, "max_age_ms": settings.batching.max_age_ms},
        machine=(machine := this_machine()),
        engine=info,
        service=run.figures,
        ledger=run.ledger,
        limit_runs=runs,
        limit_fps=sum(each.inferred_fps for each in runs) / len(runs),
        budget_fps=budget_fps(runs, cores=machine.cores, offered_fps=run.figures.decoded_fps),
    )


def _run_service(
    arguments: argparse.Namespace,
    settings: Settings,
    clip: Path,
    phases_s: tuple[float, ...],
    backend: OpenedBackend,
    progress: Progress,
) -> WorkloadRun:
    with SimulatorProcess() as simulator:
        urls = {
            f"cam-{number}": simulator.add_camera(f"cam-{number}", clip, phase_s=phase_s)
            for number, phase_s in enumerate(phases_s)
        }
        plan = WorkloadPlan(
            urls=urls,
            warm_up_s=max(1.0, min(5.0, arguments.seconds / 4)),
            seconds=arguments.seconds,
            simulator_pid=simulator.pid,
        )
        progress.step("measuring the service", total=arguments.seconds)
        service = Service(settings, choice=Choice(backend=backend, reason="measured", availability=()))
        return _run(measure_service(service, plan, on_tick=progress.done))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """On the event loop that the service has in production."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _write(path: Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise AppError(f"--out: {path} cannot be written: {exc.strerror}") from None
