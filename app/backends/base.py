"""What a backend is: a way to open cameras and a way to open a model, that agree on the surface between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from app.cameras.source import FrameSource, SourceRequest
from app.inference.detector import Detector
from app.types import Availability, GpuSnapshot, S

# Takes one sentence, from any thread. Raises `Cancelled` when the work that it tells of is no longer wanted: let the
# error through, and leave nothing behind.
OnProgress: TypeAlias = Callable[[str], None]


def unwatched(sentence: str) -> None:
    """For work whose progress nobody follows."""


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

    def open_detector(self, on_progress: OnProgress = unwatched) -> Detector[S]:
        """Load the model, build and measure the engine. Blocking, seconds to minutes: call it from a worker thread.

        `on_progress` is told what is being done, as often as there is news. Raises `ModelError` when the model cannot
        be used, `BackendUnavailable` when the device cannot, and `Cancelled` when `on_progress` does.
        """
        ...

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        """Read the GPUs that this backend works on; empty when it works on none. Blocking, any thread; never raises."""
        ...
