"""One batch through one context: preprocess, infer, postprocess."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from app.backends.cpu.engine import Context
from app.backends.cpu.postprocess import postprocess
from app.backends.cpu.preprocess import Preprocessor
from app.backends.ffmpeg.surface import HostSurface
from app.inference.families.base import Decoder
from app.inference.found import Found, detections
from app.nvtx import stage
from app.types import Detections, Frame, StageTimes


class BatchRunner:
    """Preprocess, infer and postprocess one batch at a time. Belongs to one thread."""

    def __init__(self, context: Context, preprocessor: Preprocessor, decoder: Decoder, iou: float) -> None:
        self._context = context
        self._preprocessor = preprocessor
        self._decoder = decoder
        self._iou = iou

    def run(self, frames: Sequence[Frame[HostSurface]], min_scores: Sequence[float]) -> list[Detections]:
        """Detect in a batch of frames. Blocking. Raises `EngineError`."""
        began = time.perf_counter()
        with stage("preprocess"):
            letterboxes = self._preprocessor.write([frame.surface for frame in frames])
        preprocess_s = time.perf_counter() - began
        found: list[Found] = []
        infer_s = postprocess_s = 0.0
        for part in parts(len(frames), self._context.sizes):
            part_began = time.perf_counter()
            with stage("infer"):
                outputs = self._context.infer(part.start, part.stop - part.start)
            inferred = time.perf_counter()
            with stage("postprocess"):
                found += postprocess(
                    outputs, letterboxes[part], decoder=self._decoder, min_scores=min_scores[part], iou=self._iou
                )
            infer_s += inferred - part_began
            postprocess_s += time.perf_counter() - inferred
        stages = StageTimes(preprocess_s=preprocess_s, infer_s=infer_s, postprocess_s=postprocess_s)
        return [detections(frame, boxes, stages) for frame, boxes in zip(frames, found, strict=True)]

    def close(self) -> None:
        """Nothing to do: OpenVINO frees a context with its last reference."""


def parts(count: int, sizes: Sequence[int]) -> Iterator[slice]:
    """Cut a batch into parts of the given sizes, largest first. `sizes` fall and end with 1."""
    start = 0
    for size in sizes:
        while count - start >= size:
            yield slice(start, start + size)
            start += size
