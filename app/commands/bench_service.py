"""The service beside its limit, once or in many cases: the loads and engines of `vidette bench`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.backends.cpu.backend import CpuBackend
from app.backends.cpu.detector import CpuDetector, open_runners
from app.backends.cpu.runner import BatchRunner
from app.backends.select import FITS, Choice
from app.commands.clips import render_clip
from app.commands.progress import Progress
from app.cores import available_cores
from app.errors import BackendUnavailable
from app.inference.model import resolve_model
from app.measure.cameras import start_cameras
from app.measure.figures import LimitRun, budget_fps
from app.measure.limit import LimitPlan, measure_limit
from app.measure.load import Load, saturating_fps
from app.measure.machine import Machine
from app.measure.report import Report
from app.measure.retime import clip_fps, retimed
from app.measure.still import keyframe_interval_s
from app.measure.workload import OpenedBackend, WorkloadPlan, WorkloadRun, measure_service, run_on_loop
from app.service import Service
from app.settings import Settings, load_settings
from app.simulator.process import SimulatorProcess
from app.types import EngineInfo

DEFAULT_SCENE = "plaza"
# Results kept for each camera: more than any camera has in the quarter of a second between two looks.
_HISTORY = 256
_CALIBRATION_S = 1.5
_LONGEST_JOIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedEngine:
    """One model, loaded once; the limit and every service run in its execution contexts."""

    info: EngineInfo
    runners: Sequence[BatchRunner]

    def detector(self) -> CpuDetector:
        return CpuDetector(self.info, self.runners, name="cpu-detector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured at once. `name` leads its figures' names; empty when there is no other case."""

    name: str
    load: Load
    engine: OpenedEngine
    max_size: int | None = None  # None: as configured


class Bench:
    """Makes clips, engines and measurements from a command's arguments. Blocking, one thread."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, progress: Progress, machine: Machine) -> None:
        """Raises `BackendUnavailable` where another device than the CPU is configured."""
        self._arguments = arguments
        self._folder = folder
        self._progress = progress
        self._machine = machine
        self._services = 0
        self.settings = self.settings_for()
        backend = self.settings.backend
        if backend.device not in ("auto", "cpu"):
            raise BackendUnavailable(backend.device, "the benchmark measures the cpu backend")
        if backend.engine != "auto" and backend.engine not in FITS["cpu"]["engine"]:
            raise BackendUnavailable("cpu", f"backend.engine is {backend.engine}, which the cpu backend does not have")
        resolve_model(self.settings.model, self.settings.models_dir)  # else it is missed after seconds of drawing
        self.backend = CpuBackend(self.settings)
        progress.step("preparing the cameras and the engine")
        self.clip = arguments.clip or render_clip(folder / f"{DEFAULT_SCENE}.mp4", DEFAULT_SCENE)
        self.clip_fps = clip_fps(self.clip)

    def settings_for(self, *, max_size: int | None = None) -> Settings:
        """The service's settings: the user's, in a data folder of its own, without the user's cameras."""
        arguments = self._arguments
        overrides: dict[str, Any] = {
            "data_dir": self._folder / f"data-{self._services}",
            "model": arguments.model,
            "history": {"size": _HISTORY},
            "cameras": {"declared": ()},
        }
        if (size := max_size or arguments.max_size) is not None:
            overrides["batching"] = {"max_size": size}
        if arguments.precision is not None:
            overrides["backend"] = {"precision": arguments.precision}
        if arguments.models_dir is not None:
            overrides["models_dir"] = arguments.models_dir
        return load_settings(overrides=overrides)

    def open_engine(self, *, batch: int | None) -> OpenedEngine:
        """Load the model for batches of up to `batch`. None: as configured, or measured."""
        wanted = self.settings.backend
        return self._opened(
            batch=batch,
            contexts=None if wanted.contexts == "auto" else wanted.contexts,
            precision=None if wanted.precision == "auto" else wanted.precision,
            engine=None if wanted.engine == "auto" else wanted.engine,
        )

    def open_sequential(self, like: OpenedEngine) -> OpenedEngine:
        """The same model, engine and precision for one frame at a time, with every core at work on that frame."""
        info = like.info
        return self._opened(batch=1, contexts=1, precision=info.precision, engine=info.backend)

    def _opened(
        self, *, batch: int | None, contexts: int | None, precision: str | None, engine: str | None
    ) -> OpenedEngine:
        settings = self.settings
        info, runners = open_runners(
            settings.model,
            settings.models_dir,
            max_batch=max(settings.batching.max_size, batch or 1),
            iou=settings.iou,
            contexts=contexts,
            batch=batch,
            precision=precision,
            engine=engine,
            engines_dir=self._engines_dir(),
        )
        return OpenedEngine(info=info, runners=runners)

    def _engines_dir(self) -> Path:
        """The user's, where there is one: a quantised copy of the model may lie there, and what was measured before."""
        engines = (self._arguments.data_dir or load_settings().data_dir) / "engines"
        return Path(engines) if engines.is_dir() else self._folder / "engines"

    def load(self, engine: OpenedEngine, *, cameras: int, max_size: int | None = None) -> Load:
        """The load that the arguments ask for: paced as told, or so fast that the engine cannot follow."""
        arguments = self._arguments
        plain = Load(
            cameras=cameras,
            clip=self.clip.name,
            fps=arguments.fps or self.clip_fps,
            mode=arguments.mode,
            phase=arguments.phase,
            seed=arguments.seed,
            max_fps=arguments.max_fps,
        )
        if arguments.fps is not None or arguments.mode == "paced" or arguments.max_fps is not None:
            return plain
        self._progress.step(f"finding the rate at which {cameras} cameras saturate it", total=_CALIBRATION_S)
        case = Case(name="", load=plain, engine=engine, max_size=max_size)
        run = self.limit(case, self.clip, _CALIBRATION_S)
        fps = saturating_fps(run, cores=available_cores(), cameras=cameras)
        # A camera that is joined between two keyframes shows nothing until the next one.
        slowest = self.clip_fps * min(1.0, keyframe_interval_s(self.clip) / _LONGEST_JOIN_S)
        return replace(plain, fps=round(max(fps, slowest), 1))

    def measure(self, case: Case) -> Report:
        """The limit, the service, the limit again."""
        load, engine = case.load, case.engine
        clip = self.clip_at(load.fps)
        settings = self.fresh_settings(case.max_size)
        seconds = float(self._arguments.seconds)
        called = f"{case.name.replace('_', ' ')}: " if case.name else ""
        self._progress.step(f"{called}measuring the limit before the service", total=seconds / 2)
        before = self.limit(case, clip, seconds / 2)
        run = self._service(settings, case, clip, called)
        self._progress.step(f"{called}measuring the limit after the service", total=seconds / 2)
        runs = (before, self.limit(case, clip, seconds / 2))
        return Report(
            load=load,
            batching={"max_size": settings.batching.max_size, "max_age_ms": settings.batching.max_age_ms},
            machine=self._machine,
            engine=engine.info,
            service=run.figures,
            ledger=run.ledger,
            limit_runs=runs,
            limit_fps=sum(each.inferred_fps for each in runs) / len(runs),
            budget_fps=budget_fps(runs, cores=self._machine.cores, offered_fps=run.figures.decoded_fps),
        )

    def fresh_settings(self, max_size: int | None = None) -> Settings:
        self._services += 1  # each service has a database of its own, without the last one's cameras
        return self.settings_for(max_size=max_size)

    def clip_at(self, fps: float) -> Path:
        if fps == self.clip_fps:
            return self.clip
        path = self._folder / f"{self.clip.stem}-{fps:g}.mp4"
        return path if path.is_file() else retimed(self.clip, path, fps=fps)

    def limit(self, case: Case, clip: Path, seconds: float) -> LimitRun:
        """What this machine can do of a case without the service."""
        info = case.engine.info
        largest = min(info.best_batch, case.max_size or self.settings.batching.max_size)
        return measure_limit(
            LimitPlan(clip=clip, phases_s=case.load.phases_s, batch=min(largest, case.load.cameras)),
            open_source=self.backend.open_source,
            runs=[runner.run for runner in case.engine.runners],
            seconds=seconds,
            on_tick=self._progress.done,
        )

    def _service(self, settings: Settings, case: Case, clip: Path, called: str) -> WorkloadRun:
        seconds, max_fps = float(self._arguments.seconds), case.load.max_fps
        with SimulatorProcess() as simulator:
            plan = WorkloadPlan(
                urls=start_cameras(simulator, clip, case.load.phases_s),
                warm_up_s=max(1.0, min(5.0, seconds / 4)),
                seconds=seconds,
                simulator_pid=simulator.pid,
                options={} if max_fps is None else {"max_fps": max_fps},
            )
            self._progress.step(f"{called}measuring the service", total=seconds)
            backend = OpenedBackend(self.backend, case.engine.detector)
            service = Service(settings, choice=Choice(backend=backend, reason="measured", availability=()))
            return run_on_loop(measure_service(service, plan, on_tick=self._progress.done))
