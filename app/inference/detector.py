"""The protocol that every detector follows, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.types import Detections, EngineInfo, Frame, S


class Detector(Protocol[S]):
    """A loaded model on a device. `detect` may be under way `info.contexts` times at once."""

    @property
    def info(self) -> EngineInfo: ...

    async def detect(self, frames: Sequence[Frame[S]], *, min_scores: Sequence[float]) -> list[Detections]:
        """Infer a batch of 1..`info.max_batch` frames, sizes mixed; one `Detections` per frame, same order.

        `min_scores[i]` is the score floor of `frames[i]`. Does not release surfaces. Raises `EngineError` when this
        batch failed, `DeviceLost` when no batch can succeed any more. Event loop only; the work runs elsewhere.
        """
        ...

    async def aclose(self) -> None:
        """Wait for batches in flight, then free everything. Idempotent."""
        ...
