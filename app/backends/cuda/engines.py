"""Which engine runs a model here: found or built, then loaded. The door to the device's libraries."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from app.backends.base import OnProgress
from app.backends.cuda.build import Candidate, EngineRequest, find_or_build, machine_of
from app.backends.cuda.builder import load_runtime
from app.backends.cuda.driver import Driver
from app.backends.cuda.engine import Engine
from app.backends.cuda.engine_file import (
    SUFFIX,
    EngineFile,
    Precision,
    Runtime,
    load_plan,
    read_engine_file,
    require_fit,
)
from app.backends.cuda.probe import examine, runtime_for
from app.backends.cuda.tensorrt_engine import TensorRtEngine
from app.backends.cuda.trial import check_candidate
from app.backends.int8.quantise import is_quantised
from app.errors import BackendUnavailable
from app.inference.model import ModelSpec, resolve_model
from app.inference.onnx_file import load_onnx
from app.settings import Settings

_USUAL_BATCH = 8  # what a full range of batches is made fastest for


def open_driver(index: int) -> Driver:
    """The GPU of this index. Imports pycuda. Raises `EngineError`, `BackendUnavailable`."""
    try:
        from app.backends.cuda.pycuda_driver import PycudaDriver
    except ImportError as exc:
        raise BackendUnavailable("cuda", f"pycuda cannot be imported: {exc}") from exc
    return PycudaDriver(index)


def find_engine(settings: Settings, driver: Driver, on_progress: OnProgress) -> EngineFile:
    """The engine that the settings mean: the file that they name, or their model's, built now if need be. Blocking.

    Inside `driver.bound()`. Raises `ModelError`, `BackendUnavailable`, and what `on_progress` raises.
    """
    if settings.model.endswith(SUFFIX):
        below = settings.models_dir / settings.model
        file = read_engine_file(below if below.is_file() else Path(settings.model))
        require_fit(file, machine_of(file.identity.runtime, driver))
        return file
    spec = resolve_model(settings.model, settings.models_dir)
    wanted = settings.backend.precision
    precision: Precision = "int8" if is_quantised(load_onnx(spec.path)) else "fp16"
    if wanted in ("fp32", "fp16", "int8"):
        precision = wanted
    largest = settings.batching.max_size
    request = EngineRequest(
        runtime=usable_runtime(settings),
        precision=precision,
        max_batch=largest,
        opt_batch=min(_USUAL_BATCH, largest),
    )
    return find_or_build(
        spec,
        request,
        folder=settings.data_dir / "engines",
        gpu=driver,
        check=partial(check_candidate, driver=driver, open_engine=partial(_open_candidate, driver=driver)),
        on_progress=on_progress,
    )


def usable_runtime(settings: Settings) -> Runtime:
    """TensorRT or TensorRT-RTX, as the settings and the machine have it. Raises `BackendUnavailable`."""
    wanted = settings.backend
    found = runtime_for(examine(gpu=wanted.gpu), engine=wanted.engine)
    if not found.available:
        raise BackendUnavailable("cuda", found.reason)
    return "tensorrt_rtx" if found.name == "tensorrt_rtx" else "tensorrt"


def load_engine(file: EngineFile, driver: Driver) -> Engine:
    """The engine of a file, in device memory. Blocking, a second. Inside `driver.bound()`.

    Raises `ModelError`, `BackendUnavailable`, `EngineError`.
    """
    return _loaded(load_plan(file), file.spec, file.identity.runtime, driver)


def _open_candidate(candidate: Candidate, *, driver: Driver) -> Engine:
    return _loaded(candidate.plan, candidate.spec, candidate.identity.runtime, driver)


def _loaded(plan: bytes, spec: ModelSpec, runtime: Runtime, driver: Driver) -> Engine:
    return TensorRtEngine(plan, spec, driver=driver, trt=load_runtime(runtime))
