"""TensorRT's builder: an ONNX model in, a plan out. One small piece of code for TensorRT 8.6 to 11 and TensorRT-RTX."""

from __future__ import annotations

import ctypes
import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, NodeProto

from app.backends.cuda.engine_file import RUNTIME_NAMES, Precision, Runtime
from app.backends.cuda.tensorrt_log import listening, tensorrt_logger
from app.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    import tensorrt
    from nvidia_modules import TensorRt

log = logging.getLogger(__name__)

_INSTALL = {"tensorrt": "pip install 'vidette[cuda]'", "tensorrt_rtx": "pip install 'vidette[rtx]'"}
# What TensorRT 8 may compute with besides its own kernels, and the libraries that it then needs.
_TACTIC_LIBRARIES = {
    "CUDNN": ("libcudnn.so.8",),
    "CUBLAS": ("libcublas.so.12", "libcublas.so.11"),
    "CUBLAS_LT": ("libcublasLt.so.12", "libcublasLt.so.11"),
}
# Lines that say nothing of the model; the last is told by TensorRT-RTX where there is no GPU, and builds all the same.
_NOISE = ("[checkMacros", "Invalid Node", "CUDA driver version is insufficient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to build. `model` has a free batch axis unless `max_batch` is 1, and computes in `precision` already."""

    name: str
    model: ModelProto
    input_name: str
    input_width: int
    input_height: int
    precision: Precision
    opt_batch: int
    max_batch: int
    workspace_bytes: int | None = None  # None: as much as the GPU has
    compute_capabilities: tuple[str, ...] = ()  # of TensorRT-RTX: what to build for; empty: Ampere and later
    timing_cache: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A plan, and the timings that make the next build faster."""

    plan: bytes
    timing_cache: bytes


def load_runtime(runtime: Runtime) -> TensorRt:
    """The module of a runtime. Imports some 100 MB. Raises `BackendUnavailable` when it cannot be imported."""
    try:
        module: Any = importlib.import_module(runtime)
    except ModuleNotFoundError as exc:
        if exc.name == runtime:
            reason = f"{RUNTIME_NAMES[runtime]} is not installed; {_INSTALL[runtime]}"
        else:
            reason = f"{RUNTIME_NAMES[runtime]} cannot be imported ({exc}); {_INSTALL[runtime]}"
        raise BackendUnavailable(runtime, reason) from exc
    except (ImportError, OSError) as exc:  # a shared library that it needs
        raise BackendUnavailable(runtime, f"{RUNTIME_NAMES[runtime]} cannot be imported: {exc}") from exc
    return module


def rtx_capabilities(trt: TensorRt) -> tuple[str, ...]:
    """The compute capabilities that this TensorRT-RTX builds for, such as 8.9, lowest first."""
    numbers = sorted(int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def build_plan(trt: TensorRt, job: Job, *, on_progress: Callable[[str], None]) -> Built:
    """Build an engine. Blocking, a second (TensorRT-RTX) to several minutes; lets go of the GIL.

    `trt` is the module that `load_runtime` gave. Needs the GPU's driver, and with full TensorRT the GPU itself: asking
    for a builder without one may end the process. Raises `ModelError`; what `on_progress` raises ends the build and
    comes out here.
    """
    with listening() as heard:
        logger = tensorrt_logger(trt)
        builder = trt.Builder(logger)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(job.model.SerializeToString()):
            reason = _parse_error(parser, job.model) or _told(heard)
            raise ModelError(f"model {job.name} cannot be built by TensorRT: {reason}")
        config = builder.create_builder_config()
        _configure(trt, builder, config, job)
        _use_timings(config, job.timing_cache)
        monitor = _monitor(trt, on_progress)
        if monitor is None:
            on_progress("building the engine")
        else:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.error is not None:
            raise monitor.error
        if plan is None:
            several = len(job.compute_capabilities) > 1
            targets = f" (for compute capabilities {', '.join(job.compute_capabilities)})" if several else ""
            raise ModelError(f"model {job.name} cannot be built by TensorRT{targets}: {_told(heard)}")
        timings = config.get_timing_cache()
        return Built(plan=bytes(plan), timing_cache=b"" if timings is None else bytes(timings.serialize()))


class BuildProgress:
    """Turns a builder's nested phases into one percentage. One thread at a time."""

    def __init__(self) -> None:
        self._phases: list[list[Any]] = []  # [name, steps, steps done], the outermost first
        self._percent = 0  # never goes back, though a phase may end before its steps do

    def start(self, phase: str, steps: int) -> str:
        """A phase begins inside the one that began last and has not ended. Returns a sentence."""
        self._phases.append([phase, max(1, steps), 0])
        return self._sentence()

    def step(self, phase: str, number: int) -> str:
        """Step `number`, counted from 0, of a phase is done. Returns a sentence."""
        for each in self._phases:
            if each[0] == phase:
                each[2] = number + 1
        return self._sentence()

    def finish(self, phase: str) -> None:
        """A phase ends, and whatever began inside it."""
        names = [each[0] for each in self._phases]
        if phase in names:
            del self._phases[names.index(phase) :]

    def _sentence(self) -> str:
        share, part = 0.0, 1.0
        for _, steps, done in self._phases:
            share += part * min(done, steps) / steps
            part /= steps
        self._percent = max(self._percent, min(100, int(100 * share)))
        return f"building the engine: {self._percent} % ({self._phases[-1][0] if self._phases else 'TensorRT'})"


def _network_flags(trt: TensorRt) -> int:
    """Strongly typed where that exists (9 and later): the model's own types are kept. Before, explicit batch."""
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH)


def strongly_typed(trt: TensorRt) -> bool:
    """Whether precision is the model's own matter. TensorRT 8 has flags for it instead."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _configure(trt: TensorRt, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, job: Job) -> None:
    profile = builder.create_optimization_profile()
    image = (3, job.input_height, job.input_width)
    profile.set_shape(job.input_name, (1, *image), (job.opt_batch, *image), (job.max_batch, *image))
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(f"model {job.name} cannot take batches of 1 to {job.max_batch} images of {image}")
    if job.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    # Contexts are what runs at once here: streams of an engine's own would fight with them and take more memory.
    config.max_aux_streams = 0
    if job.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default; it keeps 10 bits of 23
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX, which without it may allocate as it runs
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # and then cannot be captured into a graph
    if not strongly_typed(trt):
        _configure_8(trt, config, job)
    if job.compute_capabilities:
        config.num_compute_capabilities = len(job.compute_capabilities)
        for number, capability in enumerate(job.compute_capabilities):
            target = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
            config.set_compute_capability(target, number)


def _configure_8(trt: TensorRt, config: tensorrt.IBuilderConfig, job: Job) -> None:
    if job.precision in ("fp16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if job.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)  # for several contexts on one profile
    absent = [name for name, libraries in _TACTIC_LIBRARIES.items() if not any(map(_loads, libraries))]
    if absent:
        sources = config.get_tactic_sources()
        for name in absent:
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
        config.set_tactic_sources(sources)
        log.info("TensorRT builds without %s, whose libraries are not here", ", ".join(absent))


def _use_timings(config: tensorrt.IBuilderConfig, content: bytes) -> None:
    """Let the builder use, and add to, what was timed before."""
    cache = config.create_timing_cache(content)
    if cache is not None and not config.set_timing_cache(cache, False) and content:
        log.info("the timing cache is of another GPU or another TensorRT and is begun anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _parse_error(parser: tensorrt.OnnxParser, model: ModelProto) -> str | None:
    """What the parser cannot read, by the name that the node has in the file. None: it does not tell."""
    if not parser.num_errors:
        return None
    error = parser.get_error(0)
    description = _told([error.desc()])
    number = error.node()
    nodes: Sequence[NodeProto] = model.graph.node
    if not 0 <= number < len(nodes):
        return description
    node = nodes[number]
    return f"node {node.name or node.output[0]} ({node.op_type}): {description}"


def _told(messages: Iterable[str]) -> str:
    """TensorRT's messages on one line, without what they say of its own source code."""
    lines = [line for message in messages for line in message.splitlines()]
    telling = [line for line in lines if line.strip() and not any(noise in line for noise in _NOISE)]
    return " ".join(" ".join(telling).split())[:300] or "TensorRT gives no reason"


def _monitor(trt: TensorRt, on_progress: Callable[[str], None]) -> Any | None:
    """TensorRT 10 and later tell how far they are; None before."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._progress = BuildProgress()
            self._lock = threading.Lock()  # TensorRT calls from whichever of its threads has news
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._tell(self._progress.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._tell(self._progress.step(phase_name, step))
            return self.error is None  # False ends the build

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._progress.finish(phase_name)

        def _tell(self, sentence: str) -> None:
            # An exception must not pass through TensorRT's own code: it is kept, and raised after the build.
            if self.error is None:
                try:
                    on_progress(sentence)
                except BaseException as exc:
                    self.error = exc

    return Monitor()
