"""What postprocessing leaves of one frame, and the result that it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from app.types import Detections, FloatArray, Frame, IntArray, S, StageTimes

MAX_BOXES = 300  # of one frame, as in COCO-trained YOLOs


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The boxes of one frame, best score first. boxes: f32[n, 4] in source pixels, clipped to the frame."""

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray


def detections(frame: Frame[S], found: Found, stages: StageTimes) -> Detections:
    """The result of a frame."""
    return Detections(
        camera_id=frame.camera_id,
        seq=frame.seq,
        pts_s=frame.pts_s,
        width=frame.surface.width,
        height=frame.surface.height,
        times=frame.times,
        stages=stages,
        boxes=found.boxes,
        scores=found.scores,
        class_ids=found.class_ids,
    )
