"""The CPU backend: PyAV decodes, OpenVINO infers."""

from __future__ import annotations

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.ffmpeg.source import PyavSource
from app.cameras.source import SourceRequest
from app.settings import Settings
from app.types import Availability


class CpuBackend:
    """Implements `Backend[HostSurface]`."""

    name = "cpu"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def probe(self) -> Availability:
        return Availability(name=self.name, available=True, reason="PyAV and OpenVINO are installed")

    def open_source(self, request: SourceRequest) -> PyavSource:
        return PyavSource(request)

    def open_detector(self) -> CpuDetector:
        contexts, batching = self._settings.backend.contexts, self._settings.batching
        return open_cpu_detector(
            self._settings.model,
            self._settings.models_dir,
            max_batch=batching.max_size,
            iou=self._settings.iou,
            contexts=None if contexts == "auto" else contexts,
            # A size that somebody wrote down is obeyed; the default lets the measurement choose.
            batch=batching.max_size if "max_size" in batching.model_fields_set else None,
        )
