"""The CUDA backend, opened to be measured: each piece of a batch between two CUDA events, nothing else changed.

Not yet run on a GPU; tested on host memory with the same contexts, kernels and sources.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from app.backends.base import OnProgress, unwatched
from app.backends.cuda.backend import CudaBackend, Libraries
from app.backends.cuda.contexts import CudaRunner, LoadedModel, batch_sizes
from app.backends.cuda.driver import DeviceMemory as Block
from app.backends.cuda.driver import Driver, Grid, Kernel, Module, Stream, TimedEvent
from app.backends.cuda.engine import ELEMENT_BYTES, Engine, Session
from app.backends.cuda.engine_file import EngineFile
from app.backends.cuda.kernels import load_kernels
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.nvml import GpuSampler
from app.backends.cuda.pictures import PICTURE
from app.backends.cuda.slab import IMAGE_BYTES
from app.backends.cuda.source import CudaSource, open_cuda_video
from app.backends.cuda.tuning import USUAL_CONTEXTS
from app.measure.limit import Run
from app.measure.profile.devices import SWEEP, Device, image_bytes
from app.measure.profile.memory import DeviceMemory
from app.measure.profile.spans import Recorder
from app.measure.profile.stages import (
    FROM_DEVICE,
    INFER,
    POSTPROCESS,
    PREPROCESS,
    SLAB,
    TABLE,
    TO_DEVICE,
    WAIT,
)
from app.settings import Settings
from app.types import EngineInfo

# Pictures that a profile holds at once, of one camera: those of the largest batch and some under way.
_HELD = SWEEP[-1] + 4
_FRAMES_SHARE = 0.5
_USUAL_BATCH = 8
# What the marks of `CudaRunner` mean once everything that is queued has its own stage.
_NAMES = {"preprocess": TABLE, "infer": WAIT, "postprocess": SLAB}


@contextmanager
def open_cuda(
    settings: Settings,
    recorder: Recorder,
    batch: int | None,
    *,
    libraries: Libraries | None = None,
    on_progress: OnProgress = unwatched,
) -> Iterator[Device]:
    """The GPU as the service runs it; builds the engine where there is none yet. Blocking, seconds to minutes.

    Raises `ModelError`, `BackendUnavailable`, `EngineError`.
    """
    libraries = libraries or Libraries()
    with ExitStack() as stack:
        real = libraries.open_driver(settings.backend.gpu)
        stack.callback(real.close)
        stack.enter_context(real.bound())
        counted = CountedDriver(real)
        driver = cast(Driver, counted)
        file = libraries.find_engine(settings, driver, on_progress)
        engine = libraries.load_engine(file, driver)
        stack.callback(engine.close)
        model = LoadedModel(
            spec=file.spec,
            driver=driver,
            engine=engine,
            module=load_kernels(driver),
            iou=settings.iou,
            sizes=batch_sizes(min(engine.max_batch, settings.batching.max_size)),
        )
        clock = _Clock(driver, recorder)
        stack.callback(clock.close)
        with recorder.paused():  # it warms up
            timed = CudaRunner(_timed(model, clock), number=0, graphs=False)
        stack.callback(timed.close)
        video = open_cuda_video(
            driver,
            mode=settings.backend.decoder,
            data_dir=Path(settings.data_dir),
            budget=MemoryBudget(int(_FRAMES_SHARE * real.memory()[0])),
            contexts=_HELD,
            load=libraries.load_nvdec,
        )
        stack.callback(video.close)
        nvml = libraries.open_nvml(settings.backend.gpu)
        stack.callback(nvml.close)
        contexts = settings.backend.contexts if settings.backend.contexts != "auto" else USUAL_CONTEXTS

        @contextmanager
        def sweep_contexts() -> Iterator[Sequence[Run[Any]]]:
            with ExitStack() as opened:
                runners = []
                for number in range(contexts):
                    runners.append(CudaRunner(model, number=number + 1, graphs=settings.backend.cuda_graphs))
                    opened.callback(runners[-1].close)
                yield [runner.run for runner in runners]

        yield Device(
            name="cuda",
            engine=_engine_info(file, engine, model, driver.name, contexts, batch),
            open_source=lambda request: CudaSource(request, video=video),
            stage_run=timed.run,
            stage_names=_NAMES,
            sweep_contexts=sweep_contexts,
            make_backend=lambda: CudaBackend(settings, libraries),
            image_bytes={
                **image_bytes(file.spec, element_bytes=ELEMENT_BYTES[engine.input.element]),
                TO_DEVICE: PICTURE.itemsize,
                FROM_DEVICE: IMAGE_BYTES,
            },
            bound=real.bound,
            memory=counted.reading,
            gpu_busy=lambda: _mean_busy(nvml),
        )


def _mean_busy(nvml: GpuSampler) -> float | None:
    told = [gpu.utilization_ratio for gpu in nvml.sample() if gpu.utilization_ratio is not None]
    return sum(told) / len(told) if told else None


def _engine_info(
    file: EngineFile, engine: Engine, model: LoadedModel, device: str, contexts: int, batch: int | None
) -> EngineInfo:
    spec = file.spec
    return EngineInfo(
        model=spec.name,
        sha256=spec.sha256,
        family=spec.family,
        input_width=spec.input_width,
        input_height=spec.input_height,
        classes=spec.classes,
        precision=file.identity.precision,
        backend=file.identity.runtime,
        device=device,
        max_batch=engine.max_batch,
        best_batch=min(model.sizes[-1], batch or _USUAL_BATCH),
        contexts=contexts,
        capacity_fps=None,
        notes=file.notes,
    )


class CountedDriver:
    """A driver that counts what is allocated through it; all else is the driver's own."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._allocated = 0
        self._free_at_first = driver.memory()[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def allocate(self, nbytes: int) -> Block:
        block = self._driver.allocate(nbytes)
        self._count(nbytes)
        return cast(Block, _CountedBlock(block, lambda: self._count(-nbytes)))

    def reading(self) -> DeviceMemory:
        """Any thread. What others take from the device counts as reserved: the driver does not tell who has it."""
        with self._driver.bound():
            free, _ = self._driver.memory()
        with self._lock:
            return DeviceMemory(
                allocated_bytes=self._allocated, reserved_bytes=max(self._allocated, self._free_at_first - free)
            )

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._allocated += nbytes


class _CountedBlock:
    def __init__(self, block: Block, closed: Callable[[], None]) -> None:
        self._block = block
        self._closed = closed
        self.address, self.nbytes = block.address, block.nbytes

    def close(self) -> None:
        self._block.close()
        self._closed()


def _timed(model: LoadedModel, clock: _Clock) -> LoadedModel:
    """The same model, whose copies, kernels and inferences are each waited for and timed."""
    return LoadedModel(
        spec=model.spec,
        driver=cast(Driver, _TimedDriver(model.driver, clock)),
        engine=cast(Engine, _TimedEngine(model.engine, clock)),
        module=cast(Module, _TimedModule(model.module, clock)),
        iou=model.iou,
        sizes=model.sizes,
    )


class _Clock:
    """Times what is queued on a stream, one piece after the other. Belongs to one thread."""

    def __init__(self, driver: Driver, recorder: Recorder) -> None:
        self._driver = driver
        self._recorder = recorder
        self._events: tuple[TimedEvent, TimedEvent] | None = None

    def time(self, stage: str, work: Callable[[], None], stream: Stream) -> None:
        """Queue work between two events and wait for it. Wall time is from before the launch until the host knows."""
        first, last = self._events or self._opened()
        with self._recorder.span(stage):
            first.record(stream=stream)
            work()
            last.record(stream=stream)
            last.synchronize()
            self._recorder.device_took(last.elapsed_s(first))

    def close(self) -> None:
        events, self._events = self._events, None
        for event in events or ():
            event.close()

    def _opened(self) -> tuple[TimedEvent, TimedEvent]:
        self._events = self._driver.timed_event(), self._driver.timed_event()
        return self._events


class _TimedDriver:
    def __init__(self, driver: Driver, clock: _Clock) -> None:
        self._driver = driver
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def copy_in(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        self._clock.time(TO_DEVICE, lambda: self._driver.copy_in(target, source, nbytes, stream=stream), stream)

    def copy_out(self, target: int, source: int, nbytes: int, *, stream: Stream) -> None:
        self._clock.time(FROM_DEVICE, lambda: self._driver.copy_out(target, source, nbytes, stream=stream), stream)


class _TimedEngine:
    def __init__(self, engine: Engine, clock: _Clock) -> None:
        self._engine = engine
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def session(self, *args: Any, **options: Any) -> Session:
        return _TimedSession(self._engine.session(*args, **options), self._clock)


class _TimedSession:
    def __init__(self, session: Session, clock: _Clock) -> None:
        self._session = session
        self._clock = clock

    def enqueue(self, *, stream: Stream) -> None:
        self._clock.time(INFER, lambda: self._session.enqueue(stream=stream), stream)

    def close(self) -> None:
        self._session.close()


class _TimedModule:
    """Kernels before inference scale and colour; those after it make boxes."""

    def __init__(self, module: Module, clock: _Clock) -> None:
        self._module = module
        self._clock = clock

    def kernel(self, name: str, format: str) -> Kernel:
        stage = PREPROCESS if name.startswith("letterbox") else POSTPROCESS
        return _TimedKernel(self._module.kernel(name, format), stage, self._clock)


class _TimedKernel:
    def __init__(self, kernel: Kernel, stage: str, clock: _Clock) -> None:
        self._kernel = kernel
        self._stage = stage
        self._clock = clock

    def launch(self, grid: Grid, block: Grid, args: Sequence[int | float], *, stream: Stream) -> None:
        self._clock.time(self._stage, lambda: self._kernel.launch(grid, block, args, stream=stream), stream)
