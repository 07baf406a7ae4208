"""Results over REST: what memory holds, in the shape of the WebSocket's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from app.api.auth import PrincipalDep
from app.api.common import CameraIdPath, PartsDep, problems
from app.results.wire import Result

router = APIRouter(prefix="/api/v1", tags=["detections"])


class TimingView(BaseModel):
    decode: float
    queue: float
    preprocess: float
    infer: float
    postprocess: float
    total: float


class DetectionView(BaseModel):
    """One object; `box` is x1, y1, x2, y2 in source pixels, clipped to the frame."""

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str
    track_id: int | None


class ResultView(BaseModel):
    """One frame's result, as the WebSocket sends it."""

    type: Literal["detections"]
    version: int
    camera_id: str
    seq: int
    pts_s: float | None
    captured_at: str
    clock: Literal["rtcp", "arrival"]
    timing_ms: TimingView
    width: int
    height: int
    model: str
    batch_size: int
    detections: list[DetectionView]


@router.get("/cameras/{camera_id}/detections", response_model=list[ResultView], responses=problems(404, 422, 503))
async def newest(
    camera_id: CameraIdPath,
    parts: PartsDep,
    limit: Annotated[int, Query(ge=1, le=100_000, description="at most so many, the newest")] = 100,
    since_seq: Annotated[int | None, Query(ge=0, description="only results after this one")] = None,
) -> Response:
    """A camera's newest results kept in memory, oldest first."""
    parts.registry.get(camera_id)
    return _joined(parts.hub.history.newest(camera_id, limit=limit, since_seq=since_seq))


@router.get("/detections/latest", response_model=list[ResultView], responses=problems(503))
async def latest(parts: PartsDep, asking: PrincipalDep) -> Response:
    """The newest result of every camera that the token is for."""
    ids = (camera.settings.id for camera in parts.registry.cameras())
    found = (parts.hub.history.latest(camera_id) for camera_id in ids if asking.sees(camera_id))
    return _joined(result for result in found if result is not None)


def _joined(results: Iterable[Result]) -> Response:
    # Each result's bytes were made once, for all readers; a list of them is only brackets and commas away.
    return Response(b"[" + b",".join(r.encoded("json") or b"" for r in results) + b"]", media_type="application/json")
