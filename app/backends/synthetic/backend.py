"""The synthetic backend: the whole pipeline without video and without a model."""

from __future__ import annotations

from app.backends.base import OnProgress, unwatched
from app.backends.synthetic.detector import SyntheticDetector
from app.backends.synthetic.source import SyntheticSource
from app.cameras.source import SourceRequest
from app.types import Availability, GpuSnapshot


class SyntheticBackend:
    """Implements `Backend[SyntheticSurface]`."""

    name = "synthetic"

    def __init__(self, detector: SyntheticDetector | None = None) -> None:
        self.detector = detector or SyntheticDetector()

    def probe(self) -> Availability:
        return Availability(name=self.name, available=True, reason="scripted frames and detections, for tests and load")

    def open_source(self, request: SourceRequest) -> SyntheticSource:
        return SyntheticSource(request)

    def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
        return self.detector

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        return ()
