"""The CUDA backend: NVDEC or FFmpeg decodes into device memory, TensorRT infers there."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from app.backends.base import OnProgress, unwatched
from app.backends.cuda.contexts import LoadedModel, batch_sizes
from app.backends.cuda.detector import CudaDetector, EngineOrigin, Plan, open_cuda_detector
from app.backends.cuda.driver import Driver
from app.backends.cuda.engine import Engine
from app.backends.cuda.engine_file import EngineFile
from app.backends.cuda.engines import find_engine, load_engine, open_driver
from app.backends.cuda.kernels import load_kernels
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.nvdec import Nvdec, load_nvdec
from app.backends.cuda.nvml import GpuSampler, open_nvml
from app.backends.cuda.probe import cuda_availability, examine
from app.backends.cuda.source import CudaSource, CudaVideo, open_cuda_video
from app.backends.cuda.tuning import USUAL_CONTEXTS
from app.cameras.source import SourceRequest
from app.errors import BackendUnavailable, EngineError
from app.settings import Settings
from app.types import Availability, GpuSnapshot

log = logging.getLogger(__name__)

_FRAMES_SHARE = 0.5  # of the memory that the engine left free; the rest is for NVDEC's own pictures and for others


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Where the device's libraries come in."""

    open_driver: Callable[[int], Driver] = open_driver
    find_engine: Callable[[Settings, Driver, OnProgress], EngineFile] = find_engine
    load_engine: Callable[[EngineFile, Driver], Engine] = load_engine
    load_nvdec: Callable[[Driver], Nvdec] = load_nvdec
    open_nvml: Callable[[int], GpuSampler] = open_nvml


class CudaBackend:
    """Implements `Backend[CudaSurface]`. One driver for sources and detector; it goes when the detector closes."""

    name = "cuda"

    def __init__(self, settings: Settings, libraries: Libraries | None = None) -> None:
        self._settings = settings
        self._libraries = libraries or Libraries()
        self._lock = threading.Lock()
        self._nvml_lock = threading.Lock()
        self._driver: Driver | None = None
        self._video: CudaVideo | None = None
        self._nvml: GpuSampler | None = None
        self._contexts = USUAL_CONTEXTS  # until a detector says how many there are

    def probe(self) -> Availability:
        wanted = self._settings.backend
        return cuda_availability(examine(gpu=wanted.gpu), gpu=wanted.gpu, engine=wanted.engine)

    def open_source(self, request: SourceRequest) -> CudaSource:
        return CudaSource(request, video=self._opened_video())

    def open_detector(self, on_progress: OnProgress = unwatched) -> CudaDetector:
        with ExitStack() as failed:
            failed.callback(self._close_device)
            try:
                driver = self._opened_driver()
                with driver.bound():
                    detector = self._open_detector(driver, on_progress)
            except EngineError as exc:
                raise BackendUnavailable(self.name, str(exc)) from exc
            failed.pop_all()
        try:
            # Not when the first camera comes: loading NVDEC takes a while, and may be asked for on an event loop.
            self._contexts = detector.info.contexts
            self._opened_video()
        except BaseException as exc:
            asyncio.run(detector.aclose())
            if isinstance(exc, EngineError):
                raise BackendUnavailable(self.name, str(exc)) from exc
            raise
        return detector

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        with self._nvml_lock:
            if self._nvml is None:
                self._nvml = self._libraries.open_nvml(self._settings.backend.gpu)
            sampler = self._nvml
        return sampler.sample()

    def _open_detector(self, driver: Driver, on_progress: OnProgress) -> CudaDetector:
        """Inside `driver.bound()`."""
        settings, libraries = self._settings, self._libraries
        batching, backend = settings.batching, settings.backend
        file = libraries.find_engine(settings, driver, on_progress)
        on_progress(f"loading {file.path.name}")
        engine = libraries.load_engine(file, driver)
        with ExitStack() as failed:
            failed.callback(engine.close)
            model = LoadedModel(
                spec=file.spec,
                driver=driver,
                engine=engine,
                module=load_kernels(driver),
                iou=settings.iou,
                sizes=batch_sizes(min(engine.max_batch, batching.max_size)),
            )

            def closed() -> None:
                with ExitStack() as closing:  # each of them, whatever becomes of the one before
                    closing.callback(self._close_device)
                    closing.callback(engine.close)

            detector = open_cuda_detector(
                model,
                EngineOrigin(backend=file.identity.runtime, precision=file.identity.precision, notes=file.notes),
                plan=Plan(
                    contexts=None if backend.contexts == "auto" else backend.contexts,
                    # A size that somebody wrote down is obeyed; the default lets the measurement choose.
                    batch=batching.max_size if "max_size" in batching.model_fields_set else None,
                    graphs=backend.cuda_graphs,
                ),
                max_batch=batching.max_size,
                on_progress=on_progress,
                on_closed=closed,
            )
            failed.pop_all()
        return detector

    def _opened_driver(self) -> Driver:
        with self._lock:
            if self._driver is None:
                self._driver = self._libraries.open_driver(self._settings.backend.gpu)
            return self._driver

    def _opened_video(self) -> CudaVideo:
        if (video := self._video) is not None:  # without the lock: the camera doctor asks on an event loop
            return video
        driver = self._opened_driver()
        with self._lock:
            if self._video is None:
                self._video = open_cuda_video(
                    driver,
                    mode=self._settings.backend.decoder,
                    data_dir=Path(self._settings.data_dir),
                    budget=self._budget(driver),
                    contexts=self._contexts,
                    load=self._libraries.load_nvdec,
                )
            return self._video

    def _budget(self, driver: Driver) -> MemoryBudget:
        wanted = self._settings.backend.memory_budget_mib
        with driver.bound():
            free, _ = driver.memory()
        budget = MemoryBudget(int(_FRAMES_SHARE * free) if wanted == "auto" else wanted << 20)
        log.info("decoded frames may take %d MiB of the device's memory, %d are free", budget.limit >> 20, free >> 20)
        return budget

    def _close_device(self) -> None:
        """Let go of what sources and detector share. What a camera that did not stop still has is lost with it."""
        with self._lock:
            driver, self._driver = self._driver, None
            video, self._video = self._video, None
        with self._nvml_lock:
            nvml, self._nvml = self._nvml, None
        with ExitStack() as closing:
            if driver is not None:
                closing.callback(driver.close)
            if video is not None:
                closing.callback(video.close)
            if nvml is not None:
                closing.callback(nvml.close)
