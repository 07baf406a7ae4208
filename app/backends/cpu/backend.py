"""The CPU backend: PyAV decodes, OpenVINO or ONNX Runtime infers."""

from __future__ import annotations

from app.backends.base import OnProgress, unwatched
from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.ffmpeg.source import PyavSource
from app.cameras.source import SourceRequest
from app.settings import Settings
from app.types import Availability, GpuSnapshot


class CpuBackend:
    """Implements `Backend[HostSurface]`."""

    name = "cpu"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def probe(self) -> Availability:
        return Availability(name=self.name, available=True, reason="PyAV and OpenVINO are installed")

    def open_source(self, request: SourceRequest) -> PyavSource:
        return PyavSource(request)

    def open_detector(self, on_progress: OnProgress = unwatched) -> CpuDetector:
        wanted, batching = self._settings.backend, self._settings.batching
        on_progress(f"loading {self._settings.model} and measuring how this CPU runs it best")
        return open_cpu_detector(
            self._settings.model,
            self._settings.models_dir,
            max_batch=batching.max_size,
            iou=self._settings.iou,
            contexts=None if wanted.contexts == "auto" else wanted.contexts,
            # A size that somebody wrote down is obeyed; the default lets the measurement choose.
            batch=batching.max_size if "max_size" in batching.model_fields_set else None,
            precision=None if wanted.precision == "auto" else wanted.precision,
            engine=None if wanted.engine == "auto" else wanted.engine,
            engines_dir=self._settings.data_dir / "engines",
        )

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        return ()  # even where there is one: what others do on it is not ours to show
