"""A detector that knows the answer: it finds the one object of every synthetic scene."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from app.backends.synthetic.source import SyntheticSurface, box_at
from app.errors import DeviceLost, EngineError
from app.types import Detections, EngineInfo, Frame, StageTimes

SCORE = 0.9
CLASSES = ("person", "car")


class SyntheticDetector:
    """Implements `Detector[SyntheticSurface]`. A batch of n takes `base_s + n * frame_s`; faults come on command."""

    def __init__(
        self, *, contexts: int = 2, max_batch: int = 16, base_s: float = 0.001, frame_s: float = 0.001
    ) -> None:
        self.info = EngineInfo(
            model="synthetic",
            sha256=hashlib.sha256(b"synthetic").hexdigest(),
            family="synthetic",
            input_width=640,
            input_height=640,
            classes=CLASSES,
            precision="none",
            backend="synthetic",
            device="none",
            max_batch=max_batch,
            best_batch=max_batch,
            contexts=contexts,
            capacity_fps=contexts * max_batch / (base_s + max_batch * frame_s),
        )
        self.fail_next: EngineError | DeviceLost | Exception | None = None
        self.batches: list[tuple[str, ...]] = []
        self._base_s = base_s
        self._frame_s = frame_s

    async def detect(
        self, frames: Sequence[Frame[SyntheticSurface]], *, min_scores: Sequence[float]
    ) -> list[Detections]:
        self.batches.append(tuple(frame.camera_id for frame in frames))
        del self.batches[:-64]
        infer_s = self._base_s + len(frames) * self._frame_s
        await asyncio.sleep(infer_s)
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        stages = StageTimes(preprocess_s=0.0, infer_s=infer_s, postprocess_s=0.0)
        return [_found(frame, stages, floor) for frame, floor in zip(frames, min_scores, strict=True)]

    async def aclose(self) -> None:
        pass


def _found(frame: Frame[SyntheticSurface], stages: StageTimes, floor: float) -> Detections:
    surface = frame.surface
    box = box_at(surface.at_s, surface.width, surface.height)
    count = 1 if floor <= SCORE else 0
    return Detections(
        camera_id=frame.camera_id,
        seq=frame.seq,
        pts_s=frame.pts_s,
        width=surface.width,
        height=surface.height,
        times=frame.times,
        stages=stages,
        boxes=np.array([box] * count, dtype=np.float32).reshape(-1, 4),
        scores=np.full(count, SCORE, dtype=np.float32),
        class_ids=np.zeros(count, dtype=np.int32),
    )
