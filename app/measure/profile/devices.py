"""What a profile asks of a device, and the CPU's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

from app.backends.base import Backend
from app.cameras.source import FrameSource, SourceRequest
from app.inference.model import ModelSpec, resolve_model
from app.inference.onnx_file import describe, load_onnx
from app.measure.limit import Run
from app.measure.profile.memory import DeviceMemory
from app.measure.profile.spans import Recorder
from app.measure.profile.stages import INFER, POSTPROCESS, PREPROCESS, DeviceName
from app.measure.workload import OpenedBackend
from app.settings import Settings
from app.types import EngineInfo

Contexts: TypeAlias = AbstractContextManager[Sequence[Run[Any]]]
SWEEP = (1, 2, 4, 8, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A model opened on a device, to be measured. Everything is used inside `bound()`."""

    name: DeviceName
    engine: EngineInfo
    open_source: Callable[[SourceRequest], FrameSource[Any]]
    stage_run: Run[Any]  # one context, whose stages can be told apart
    stage_names: Mapping[str, str]  # what the marks of `app.nvtx` mean inside `stage_run`, where it is not their name
    sweep_contexts: Callable[[], Contexts]  # contexts as the service has them, ready for batches of up to 16
    make_backend: Callable[[], Backend[Any]]  # for a service of its own
    image_bytes: Mapping[str, int]  # what a stage of a batch reads and writes for each image, the picture left out
    bound: Callable[[], AbstractContextManager[Any]] = nullcontext
    memory: Callable[[], DeviceMemory | None] = lambda: None
    gpu_busy: Callable[[], float | None] = lambda: None  # share of the last sample period in which a kernel ran


@contextmanager
def open_cpu(settings: Settings, recorder: Recorder, batch: int | None) -> Iterator[Device]:
    """The CPU as the service runs it: contexts, precision and batch chosen by measuring. Blocking, seconds.

    `batch` fixes the largest batch; None leaves it to the measurement. Raises `ModelError`, `ConfigError`.
    """
    # Late, as everywhere: only who uses a backend needs its packages.
    from app.backends.cpu.backend import CpuBackend
    from app.backends.cpu.detector import CpuDetector, open_runners

    backend, wanted = CpuBackend(settings), settings.backend
    if batch is None and "max_size" in settings.batching.model_fields_set:
        batch = settings.batching.max_size
    info, runners = open_runners(
        settings.model,
        settings.models_dir,
        max_batch=settings.batching.max_size if batch is None else batch,
        iou=settings.iou,
        contexts=None if wanted.contexts == "auto" else wanted.contexts,
        batch=batch,
        precision=_named(wanted.precision),
        engine=_named(wanted.engine),
        engines_dir=Path(settings.data_dir) / "engines",
    )

    @contextmanager
    def sweep_contexts() -> Iterator[Sequence[Run[Any]]]:
        # Every size compiled, which the service does only up to the batch that it found best. What was chosen stays;
        # a model that is INT8 by itself is called so whatever its other layers compute in, which is measured again.
        precision = _named(wanted.precision) if info.precision == "int8" else info.precision
        _, others = open_runners(
            settings.model,
            settings.models_dir,
            max_batch=SWEEP[-1],
            iou=settings.iou,
            contexts=info.contexts,
            batch=SWEEP[-1],
            precision=precision,
            engine=info.backend,
            engines_dir=Path(settings.data_dir) / "engines",
            tune=precision is None,
        )
        yield [runner.run for runner in others]

    spec = resolve_model(settings.model, settings.models_dir)
    yield Device(
        name="cpu",
        engine=info,
        open_source=backend.open_source,
        stage_run=runners[0].run,
        stage_names={},
        sweep_contexts=sweep_contexts,
        make_backend=lambda: OpenedBackend(backend, lambda: CpuDetector(info, runners, name="cpu-detector")),
        image_bytes=image_bytes(spec, element_bytes=1),
    )


def _named(setting: str) -> str | None:
    return None if setting == "auto" else setting


def image_bytes(spec: ModelSpec, *, element_bytes: int) -> dict[str, int]:
    """Of each image: the input tensor that preprocessing writes and inference reads, the outputs that follow."""
    tensor = 3 * spec.input_width * spec.input_height * element_bytes
    shapes = [output.shape[1:] for output in describe(load_onnx(spec.path)).outputs if output.name in spec.output_names]
    outputs = sum(4 * prod(length or 0 for length in shape) for shape in shapes)
    return {PREPROCESS: tensor, INFER: tensor + outputs, POSTPROCESS: outputs}
