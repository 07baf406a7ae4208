"""From a model to an engine file: the one that is there when it fits, else a new one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from onnx import ModelProto

from app.backends.cuda.builder import Job, build_plan, load_runtime, rtx_capabilities, strongly_typed
from app.backends.cuda.engine_file import (
    RUNTIME_NAMES,
    EngineFile,
    Identity,
    Machine,
    Precision,
    Runtime,
    building,
    description_path,
    differences,
    engine_name,
    gpu_slug,
    read_engine_file,
    replace_file,
    write_engine_file,
)
from app.backends.cuda.fp16 import to_fp16
from app.backends.cuda.int8 import OPSET, OPSET_OF_TENSORRT_8, quantise
from app.backends.int8.calibration import CalibrationSet, calibration_set
from app.backends.int8.quantise import is_quantised
from app.errors import BackendUnavailable, ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_batch import make_batchable
from app.inference.onnx_file import load_onnx

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    from nvidia_modules import TensorRt

log = logging.getLogger(__name__)

MAX_BATCH = 16
OPT_BATCH = 8


class NamedGpu(Protocol):
    """What an engine is tied to; `Driver` and `libcuda.Gpu` are such."""

    @property
    def name(self) -> str: ...

    @property
    def compute_capability(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that was built and is not published yet."""

    plan: bytes
    model: ModelProto  # what it was built from: batchable, in its precision
    identity: Identity
    spec: ModelSpec
    images: tuple[Path, ...]  # that its INT8 scales come from


# Tries a candidate and returns a sentence on how that went. Raises `ModelError` when it must not be used.
Check: TypeAlias = Callable[[Candidate], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Which engine is wanted."""

    runtime: Runtime
    precision: Precision = "fp16"
    max_batch: int = MAX_BATCH
    opt_batch: int = OPT_BATCH
    workspace_mib: int | None = None  # most scratch memory of a layer; None: no limit
    calibrate: Path | None = None  # folder of images, for INT8
    compute_capabilities: tuple[str, ...] = ()  # of TensorRT-RTX: build for these instead of the GPU that is here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A request, thought through: all that can be known before anything expensive begins."""

    spec: ModelSpec
    request: EngineRequest
    identity: Identity
    model: ModelProto  # batchable
    calibration: CalibrationSet | None
    uncalibrated: bool  # an engine that is there may be used whatever its images were, but none can be built
    path: Path
    notes: tuple[str, ...]


def machine_of(runtime: Runtime, gpu: NamedGpu) -> Machine:
    """What an engine file is held against before it runs here. Imports the runtime. Raises `BackendUnavailable`."""
    return Machine(
        runtime=runtime,
        runtime_version=str(load_runtime(runtime).__version__),
        gpu=gpu.name,
        compute_capability=_capability(gpu),
    )


def find_or_build(
    spec: ModelSpec,
    request: EngineRequest,
    *,
    folder: Path,
    gpu: NamedGpu | None,
    check: Check | None = None,
    on_progress: Callable[[str], None] = lambda _sentence: None,
    path: Path | None = None,
) -> EngineFile:
    """The engine of a model, built unless `folder` holds it already. Blocking, milliseconds to minutes.

    INT8 without a folder to calibrate with takes the engine that is there, whatever images it came from.
    `gpu` is the one that will run it, and with full TensorRT must be this thread's current device; without one only
    TensorRT-RTX builds. `path` is where the engine goes instead of its own name in `folder`. `check` tries what was
    built; an engine that it refuses is not kept. Raises `ModelError`, `BackendUnavailable`, and whatever `on_progress`
    raises, which ends the build.
    """
    trt = load_runtime(request.runtime)
    plan = _thought_through(trt, spec, request, folder=folder, gpu=gpu, path=path)
    found = _existing(plan, on_progress)
    if found is not None:
        return found
    if plan.uncalibrated:
        raise ModelError(
            f"model {spec.name} cannot be built as int8 without calibration images; "
            f"vidette build-engine {spec.path} --precision int8 --calibrate DIR"
        )
    with building(plan.path.parent, on_wait=lambda: on_progress("waiting for another process that builds an engine")):
        found = _existing(plan, lambda _sentence: None)
        return found or _build(trt, plan, check, on_progress)


def _thought_through(
    trt: TensorRt, spec: ModelSpec, request: EngineRequest, *, folder: Path, gpu: NamedGpu | None, path: Path | None
) -> _Plan:
    capability, gpu_name = _target(trt, request, gpu)
    original = load_onnx(spec.path)
    batchable = make_batchable(original)
    max_batch = 1 if batchable.reason else request.max_batch
    calibration = _calibration(request, original)
    identity = Identity(
        model_sha256=spec.sha256,
        runtime=request.runtime,
        runtime_version=str(trt.__version__),
        gpu=gpu_name,
        compute_capability=capability,
        precision=request.precision,
        min_batch=1,
        opt_batch=min(request.opt_batch, max_batch),
        max_batch=max_batch,
        input_width=spec.input_width,
        input_height=spec.input_height,
        calibration=calibration.sha256 if calibration else None,
    )
    return _Plan(
        spec=spec,
        request=request,
        identity=identity,
        model=batchable.model,
        calibration=calibration,
        uncalibrated=calibration is None and _needs_scales(request, original),
        path=path or folder / engine_name(identity, spec.name),
        notes=(
            *([f"runs at batch 1 only: {batchable.reason}"] if batchable.reason else []),
            *(calibration.notes if calibration else []),
        ),
    )


def _target(trt: TensorRt, request: EngineRequest, gpu: NamedGpu | None) -> tuple[str, str | None]:
    """What the engine is built for: compute capabilities, and the one GPU if it is for one only."""
    name = RUNTIME_NAMES[request.runtime]
    if request.runtime == "tensorrt":
        if request.compute_capabilities:
            raise BackendUnavailable(request.runtime, f"{name} builds for the GPU that is here, and for no other")
        if gpu is None:
            reason = (
                f"{name} builds engines on the GPU that will run them, and there is none; "
                "TensorRT-RTX builds without a GPU (--runtime tensorrt_rtx)"
            )
            raise BackendUnavailable(request.runtime, reason)
        return _capability(gpu), gpu.name
    known = rtx_capabilities(trt)
    wanted = request.compute_capabilities
    if not wanted and gpu is not None:
        if _capability(gpu) not in known:
            reason = f"{name} {trt.__version__} does not run on {gpu.name}, only on {', '.join(known)}"
            raise BackendUnavailable(request.runtime, f"{reason} (compute capabilities)")
        return _capability(gpu), gpu.name
    for each in wanted:
        if each not in known:
            reason = f"{name} {trt.__version__} does not build for compute capability {each}, only for"
            raise BackendUnavailable(request.runtime, f"{reason} {', '.join(known)}")
    # Without a GPU to ask, the engine is for every one that this TensorRT-RTX knows: it grows by no more than a tenth.
    return "+".join(each for each in known if each in (wanted or known)), None


def _capability(gpu: NamedGpu) -> str:
    return ".".join(map(str, gpu.compute_capability))


def _calibration(request: EngineRequest, model: ModelProto) -> CalibrationSet | None:
    if request.calibrate is None or not _needs_scales(request, model):
        return None
    return calibration_set(request.calibrate)


def _needs_scales(request: EngineRequest, model: ModelProto) -> bool:
    """Whether INT8 scales must be measured; a model with Q/DQ pairs of its own brings them."""
    return request.precision == "int8" and not is_quantised(model)


def _existing(plan: _Plan, on_progress: Callable[[str], None]) -> EngineFile | None:
    """The engine that is there already, if it is whole and the one that is wanted."""
    if not plan.path.exists() and not description_path(plan.path).exists():
        return None
    try:
        found = read_engine_file(plan.path)
    except ModelError as exc:
        on_progress(f"{exc}: building it now")
        return None
    wanted = plan.identity
    if plan.uncalibrated:
        wanted = replace(wanted, calibration=found.identity.calibration)
    if wrong := differences(found.identity, wanted):
        on_progress(f"engine {plan.path.name} is not the one that is wanted ({'; '.join(wrong)}): building it now")
        return None
    # The engine holds no mean, no class names, no place of the ONNX file; model.toml may have changed them since.
    return replace(found, spec=plan.spec)


def _build(trt: TensorRt, plan: _Plan, check: Check | None, on_progress: Callable[[str], None]) -> EngineFile:
    identity, spec, request = plan.identity, plan.spec, plan.request
    on_progress(f"preparing {spec.name} as {identity.precision}")
    timings = plan.path.parent / _timing_cache_name(identity)
    job = Job(
        name=spec.name,
        model=_in_precision(trt, plan, on_progress),
        input_name=spec.input_name,
        input_width=spec.input_width,
        input_height=spec.input_height,
        precision=identity.precision,
        opt_batch=identity.opt_batch,
        max_batch=identity.max_batch,
        workspace_bytes=None if request.workspace_mib is None else request.workspace_mib << 20,
        # TensorRT-RTX has to be told even what is here: left alone, it builds for Ampere and later, and not for Turing.
        compute_capabilities=tuple(identity.compute_capability.split("+")) if request.runtime == "tensorrt_rtx" else (),
        timing_cache=_content(timings),
    )
    built = build_plan(trt, job, on_progress=on_progress)
    notes = plan.notes
    if check is not None:
        on_progress("holding the engine against the ONNX file")
        images = plan.calibration.images if plan.calibration else ()
        candidate = Candidate(plan=built.plan, model=job.model, identity=identity, spec=spec, images=images)
        notes = (*notes, check(candidate))
    on_progress(f"writing {plan.path.name}")
    engine = write_engine_file(plan.path, built.plan, identity=identity, spec=spec, notes=notes)
    if built.timing_cache:
        try:
            replace_file(timings, built.timing_cache)
        except OSError as exc:  # only the next build is slower for it
            log.warning("timing cache %s cannot be written: %s", timings, exc.strerror)
    return engine


def _in_precision(trt: TensorRt, plan: _Plan, on_progress: Callable[[str], None]) -> ModelProto:
    model = plan.model
    if plan.calibration is not None:
        opset = OPSET if strongly_typed(trt) else OPSET_OF_TENSORRT_8
        model = quantise(plan.spec, model, plan.calibration, opset=opset, on_progress=on_progress)
    # TensorRT 8 takes FP32 models and chooses by itself where to be FP16.
    if plan.identity.precision != "fp32" and strongly_typed(trt):
        model = to_fp16(model)
    return model


def _timing_cache_name(identity: Identity) -> str:
    return f"{identity.runtime}{identity.runtime_version}-{gpu_slug(identity)}.timings"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
