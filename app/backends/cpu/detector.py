"""Opening a detector on the CPU: how many contexts, which batch and precision, by measuring."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2

from app.backends.cpu import tuning
from app.backends.cpu.engine import Engine, in_own_thread
from app.backends.cpu.preprocess import Preprocessor
from app.backends.cpu.runner import BatchRunner
from app.backends.ffmpeg.surface import HostSurface
from app.cores import available_cores
from app.errors import ConfigError, EngineError, ModelError, map_errors
from app.inference.families.identify import decoder_for
from app.inference.model import resolve_model
from app.inference.pool import PooledDetector
from app.inference.timing import time_streams
from app.types import EngineInfo

log = logging.getLogger(__name__)

TUNING_BUDGET_S = 2.5
_MEASUREMENT_S = 0.15
_BATCH_SIZES = (1, 2, 4, 8, 16)


CpuDetector: TypeAlias = PooledDetector[HostSurface]


def open_cpu_detector(
    model: str,
    models_dir: Path,
    *,
    max_batch: int = 16,
    iou: float = 0.45,
    contexts: int | None = None,
    batch: int | None = None,
    precision: str | None = None,
    tune: bool = True,
    tuning_budget_s: float = TUNING_BUDGET_S,
) -> CpuDetector:
    """Load a model and choose how to run it, by measuring for 2 to 3 s unless `tune` is False. Blocking.

    `contexts`, `batch` (what `best_batch` will be) and `precision` (fp32 or bf16) fix what would else be chosen.
    Batches of up to `max_batch` (1..16) are accepted whatever batch size is best. Raises `ModelError`, `ConfigError`.
    """
    info, runners = open_runners(
        model,
        models_dir,
        max_batch=max_batch,
        iou=iou,
        contexts=contexts,
        batch=batch,
        precision=precision,
        tune=tune,
        tuning_budget_s=tuning_budget_s,
    )
    return CpuDetector(info, runners, name="cpu-detector")


@in_own_thread
def open_runners(
    model: str,
    models_dir: Path,
    *,
    max_batch: int,
    iou: float,
    contexts: int | None = None,
    batch: int | None = None,
    precision: str | None = None,
    tune: bool = True,
    tuning_budget_s: float = TUNING_BUDGET_S,
) -> tuple[EngineInfo, list[BatchRunner]]:
    """What a detector consists of: one runner for each context. `vidette bench` also runs them without a service."""
    cv2.setNumThreads(1)  # of the whole process: parallel work is one frame per context, not threads inside a frame
    engine = Engine(resolve_model(model, models_dir))
    cores = available_cores()
    space = tuning.Space(
        cores=cores,
        precisions=_precisions(engine, precision),
        streams=(contexts,) if contexts else tuning.stream_counts(cores),
        max_batch=1 if engine.batch_1_reason or batch is not None else max_batch,
        budget_s=tuning_budget_s,
    )
    choice, reason = _measured(engine, space) if tune else (tuning.Tuning(plan=space.first), engine.batch_1_reason)
    if batch is not None and reason is None:
        reason = None if batch == 1 else engine.mismatch(choice.plan, batch)
        choice = choice if reason else replace(choice, batch=batch)
    info = EngineInfo(
        model=engine.spec.name,
        sha256=engine.spec.sha256,
        family=engine.spec.family,
        input_width=engine.spec.input_width,
        input_height=engine.spec.input_height,
        classes=engine.spec.classes,
        precision="int8" if engine.quantised else choice.plan.precision,
        backend="openvino",
        device=engine.device,
        max_batch=max_batch,
        best_batch=choice.batch,
        contexts=choice.plan.streams,
        capacity_fps=choice.fps,
        notes=(choice.note(), *([f"runs at batch {choice.batch} at most: {reason}"] if reason else [])),
    )
    for note in info.notes:
        log.info("model %s: %s", info.model, note)
    return info, [_runner(engine, choice, max_batch=max_batch, iou=iou) for _ in range(choice.plan.streams)]


def _runner(engine: Engine, choice: tuning.Tuning, *, max_batch: int, iou: float) -> BatchRunner:
    spec = engine.spec
    preprocessor = Preprocessor(spec, max_batch)
    context = engine.context(choice.plan, [size for size in _BATCH_SIZES if size <= choice.batch], preprocessor.images)
    with map_errors({EngineError: ModelError}):
        for size in context.sizes:  # the first run of each is the slowest, and the one that shows what cannot run
            context.infer(0, size)
    return BatchRunner(context, preprocessor, decoder_for(spec.family, spec.input_width, spec.input_height), iou)


def _precisions(engine: Engine, wanted: str | None) -> tuple[str, ...]:
    if wanted is None:
        return engine.precisions
    if wanted not in engine.precisions:
        raise ConfigError(f"backend.precision: {wanted} is not one of {', '.join(engine.precisions)} on this CPU")
    return (wanted,)


def _measured(engine: Engine, space: tuning.Space) -> tuple[tuning.Tuning, str | None]:
    """What to run, and why batches are no larger if there is a reason beyond speed. Raises `ModelError`."""
    reasons = [engine.batch_1_reason]

    def measure(plan: tuning.Plan, batch: int) -> float | None:
        if batch > 1 and (reason := engine.mismatch(plan, batch)):
            reasons.append(reason)
            return None
        runs = [partial(engine.context(plan, (batch,)).infer, 0, batch) for _ in range(plan.streams)]
        return time_streams(runs, duration_s=_MEASUREMENT_S, clock=time.perf_counter)

    with map_errors({EngineError: ModelError}):
        return tuning.tune(measure, space, clock=time.monotonic), reasons[-1]
