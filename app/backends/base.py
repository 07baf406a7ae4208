"""What a backend is: a way to open cameras and a way to open a model, that agree on the surface between them."""

from __future__ import annotations

from typing import Protocol

from app.cameras.source import FrameSource, SourceRequest
from app.inference.detector import Detector
from app.types import Availability, S


class Backend(Protocol[S]):
    """One device family. The surface type ties its sources to its detectors: mypy rejects a mix."""

    @property
    def name(self) -> str:
        """cpu, cuda or synthetic."""
        ...

    def probe(self) -> Availability:
        """Say whether this backend can run here, without side effects. Blocking; any thread."""
        ...

    def open_source(self, request: SourceRequest) -> FrameSource[S]:
        """Make a source; nothing is connected before its `frames` runs. Any thread."""
        ...

    def open_detector(self) -> Detector[S]:
        """Load the model, build and measure the engine. Blocking, seconds to minutes: call it from a worker thread.

        Raises `ModelError` when the model cannot be used, `BackendUnavailable` when the device cannot.
        """
        ...
