"""Opening a detector on the CPU: which engine and precision, how many contexts, which batch, by measuring."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2

from app.backends.cpu import remembered, tuning
from app.backends.cpu.engine import Context, in_own_thread
from app.backends.cpu.openvino_engine import processor_name
from app.backends.cpu.preprocess import Preprocessor
from app.backends.cpu.runner import BatchRunner
from app.backends.cpu.variants import Variants
from app.backends.ffmpeg.surface import HostSurface
from app.cores import available_cores
from app.errors import EngineError, ModelError, map_errors
from app.inference.families.identify import decoder_for
from app.inference.int8_file import MAX_AP_COST, Int8Model, find_int8
from app.inference.model import resolve_model
from app.inference.pool import PooledDetector
from app.inference.timing import time_streams
from app.types import EngineInfo

log = logging.getLogger(__name__)

TUNING_BUDGET_S = 2.5
_MEASUREMENT_S = 0.1
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
    engine: str | None = None,
    engines_dir: Path | None = None,
    tune: bool = True,
    tuning_budget_s: float = TUNING_BUDGET_S,
) -> CpuDetector:
    """Load a model and choose how to run it, by measuring for 2 to 3 s unless `tune` is False. Blocking.

    `contexts`, `batch` (what `best_batch` will be), `precision` (fp32, bf16, int8) and `engine` (openvino, onnxruntime)
    fix what would else be chosen. Batches of up to `max_batch` (1..16) are accepted whatever batch size is best.
    `engines_dir` holds the model's quantised copy, and what an earlier start measured; None uses and keeps neither.
    Raises `ModelError`, `ConfigError`.
    """
    info, runners = open_runners(
        model,
        models_dir,
        max_batch=max_batch,
        iou=iou,
        contexts=contexts,
        batch=batch,
        precision=precision,
        engine=engine,
        engines_dir=engines_dir,
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
    engine: str | None = None,
    engines_dir: Path | None = None,
    tune: bool = True,
    tuning_budget_s: float = TUNING_BUDGET_S,
) -> tuple[EngineInfo, list[BatchRunner]]:
    """What a detector consists of: one runner for each context. `vidette bench` also runs them without a service."""
    cv2.setNumThreads(1)  # of the whole process: parallel work is one frame per context, not threads inside a frame
    spec = resolve_model(model, models_dir)
    copy = None if engines_dir is None else find_int8(spec, engines_dir)
    int8 = copy.path if copy is not None and (copy.affordable or precision == "int8") else None
    variants = Variants(spec, int8, engine=engine, precision=precision)
    batch_1_reason, cores = variants.graphs.batch_1_reason, available_cores()
    space = tuning.Space(
        cores=cores,
        variants=variants.all,
        streams=(contexts,) if contexts else tuning.stream_counts(cores),
        max_batch=1 if batch_1_reason or batch is not None else max_batch,
        budget_s=tuning_budget_s,
    )
    if tune:
        choice, reason, notes = _chosen(variants, space, int8, engines_dir)
    else:
        choice, reason = tuning.Tuning(plan=space.first), batch_1_reason
        notes = (choice.note(),)
    if batch is not None and reason is None:
        reason = None if batch == 1 else variants.mismatch(choice.plan, batch)
        choice = choice if reason else replace(choice, batch=batch)
    info = EngineInfo(
        model=spec.name,
        sha256=spec.sha256,
        family=spec.family,
        input_width=spec.input_width,
        input_height=spec.input_height,
        classes=spec.classes,
        precision="int8" if variants.quantised(choice.plan.variant) else choice.plan.precision,
        backend=choice.plan.engine,
        device=processor_name(),
        max_batch=max_batch,
        best_batch=choice.batch,
        contexts=choice.plan.streams,
        parallel=True,
        capacity_fps=choice.fps,
        notes=(*notes, *_about(copy), *([f"runs at batch {choice.batch} at most: {reason}"] if reason else [])),
    )
    for note in info.notes:
        log.info("model %s: %s", info.model, note)
    return info, [_runner(variants, choice, max_batch=max_batch, iou=iou) for _ in range(choice.plan.streams)]


def _runner(variants: Variants, choice: tuning.Tuning, *, max_batch: int, iou: float) -> BatchRunner:
    spec = variants.graphs.spec
    preprocessor = Preprocessor(spec, max_batch)
    sizes = [size for size in _BATCH_SIZES if size <= choice.batch]
    context = variants.context(choice.plan, sizes, preprocessor.images)
    with map_errors({EngineError: ModelError}):
        for size in context.sizes:  # the first run of each is the slowest, and the one that shows what cannot run
            context.infer(0, size)
    return BatchRunner(context, preprocessor, decoder_for(spec.family, spec.input_width, spec.input_height), iou)


def _about(copy: Int8Model | None) -> tuple[str, ...]:
    """What the quantised copy costs, and so whether it may be chosen."""
    if copy is None:
        return ()
    cost = "an unknown cost in AP" if copy.ap_cost is None else f"{copy.ap_cost:.3f} less AP"
    rule = "" if copy.affordable else f", and at most {MAX_AP_COST} is given away unless backend.precision is int8"
    return (f"its int8 copy ({copy.calibration}) means {cost}{rule}", *copy.notes)


def _chosen(
    variants: Variants, space: tuning.Space, int8: Path | None, folder: Path | None
) -> tuple[tuning.Tuning, str | None, tuple[str, ...]]:
    """What to run, why batches are no larger if there is a reason beyond speed, and notes. Raises `ModelError`."""
    if folder is None:
        choice, reason = _measured(variants, space)
        return choice, reason, (choice.note(),)
    spec = variants.graphs.spec
    conditions = remembered.conditions(spec, int8, processor_name(), space)
    path = remembered.path_for(folder, spec, conditions)
    found = remembered.recall(path, conditions)
    if found is None:
        choice, reason = _measured(variants, space)
        if not choice.complete:  # the next start may have more time, and figures of two starts do not compare
            return choice, reason, (choice.note(),)
        today = datetime.now(timezone.utc).date().isoformat()
        found = remembered.Remembered(conditions=conditions, measured_on=today, tuning=choice, batch_reason=reason)
        remembered.remember(path, found)
    kept = f"measured on {found.measured_on}; to measure anew at the next start, delete {path}"
    return found.tuning, found.batch_reason, (found.tuning.note(), kept)


def _measured(variants: Variants, space: tuning.Space) -> tuple[tuning.Tuning, str | None]:
    """What to run, and why batches are no larger if there is a reason beyond speed. Raises `ModelError`."""
    reasons = [variants.graphs.batch_1_reason]
    opened: dict[tuple[tuning.Plan, int], list[Context]] = {}

    def measure(plan: tuning.Plan, batch: int) -> float | None:
        if (plan, batch) not in opened:
            if batch > 1 and (reason := variants.mismatch(plan, batch)):
                reasons.append(reason)
                return None
            opened[plan, batch] = [variants.context(plan, (batch,)) for _ in range(plan.streams)]
        runs = [partial(context.infer, 0, batch) for context in opened[plan, batch]]
        return time_streams(runs, duration_s=_MEASUREMENT_S, clock=time.perf_counter)

    def measure_if_it_runs(plan: tuning.Plan, batch: int) -> float | None:
        try:
            return measure(plan, batch)
        except (ModelError, EngineError) as exc:
            if plan == space.first:
                raise
            log.warning("%s is left out: %s", plan, exc)
            return None

    with map_errors({EngineError: ModelError}):
        return tuning.tune(measure_if_it_runs, space, clock=time.monotonic), reasons[-1]
