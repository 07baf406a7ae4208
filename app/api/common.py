"""What routes share: the service behind them, and the view of a camera."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from app.cameras.camera import Camera
from app.cameras.ladder import Degradation, LevelName
from app.cameras.motion import MotionState
from app.cameras.settings import MotionSettings
from app.cameras.urls import masked
from app.results.wire import utc_text
from app.service import Parts, Service


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def parts_of(service: Annotated[Service, Depends(service_of)]) -> Parts:
    return service.parts


ServiceDep: TypeAlias = Annotated[Service, Depends(service_of)]
PartsDep: TypeAlias = Annotated[Parts, Depends(parts_of)]
CameraIdPath: TypeAlias = Annotated[str, Path(description="the camera's id")]


class Problem(BaseModel):
    """An RFC 9457 problem document; `code` is stable."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str


class ErrorView(BaseModel):
    code: str
    message: str


class FramesView(BaseModel):
    """The drop ledger: decoded = published + sum(dropped) + in_flight."""

    decoded: int
    published: int
    dropped: dict[str, int]
    in_flight: int


class MotionView(BaseModel):
    """What the motion gate says of the scene. Null in a status: the gate is off, or has seen nothing yet."""

    still: bool
    since: str


class DegradationView(BaseModel):
    """What a camera has to do without, since the machine is overloaded. Null in a status: nothing."""

    level: int = Field(description="1: thinned out before inference; 2 to 4: decoded with less and less work")
    name: LevelName
    since: str
    reason: str


class StatusView(BaseModel):
    state: str
    since: str
    retry_in_s: float | None
    error: ErrorView | None
    decoder: str | None
    decoder_reason: str | None
    codec: str | None
    width: int | None
    height: int | None
    declared_fps: float | None
    measured_fps: float
    inferred_fps: float
    restarts: int
    last_frame_at: str | None
    motion: MotionView | None
    degradation: DegradationView | None
    frames: FramesView


class CameraView(BaseModel):
    """A camera as the API shows it. Never a password, only whether there is one."""

    id: str
    name: str
    url: str
    username: str | None
    password_set: bool
    enabled: bool
    transport: str
    max_fps: float | None
    motion: MotionSettings | None
    priority: int
    min_score: float | None
    classes: list[str] | None
    labels: dict[str, str]
    declared: bool  # by the configuration file: changes answer 409
    status: StatusView


def camera_view(camera: Camera[Any]) -> CameraView:
    settings = camera.settings
    return CameraView(
        **settings.model_dump(exclude={"password", "url"}),
        url=masked(settings.url),
        password_set=settings.password_set,
        status=status_view(camera),
    )


def status_view(camera: Camera[Any]) -> StatusView:
    status = camera.status
    info, counts = status.info, status.frames
    return StatusView(
        state=status.state,
        since=utc_text(status.since_utc),
        retry_in_s=None if status.retry_in_s is None else round(status.retry_in_s, 3),
        error=None if status.error is None else ErrorView(code=status.error.code.value, message=status.error.message),
        decoder=info.decoder if info else None,
        decoder_reason=info.decoder_reason if info else None,
        codec=info.codec if info else None,
        width=info.width if info else None,
        height=info.height if info else None,
        declared_fps=info.declared_fps if info else None,
        measured_fps=round(status.measured_fps, 2),
        inferred_fps=round(status.inferred_fps, 2),
        restarts=sum(status.restarts.values()),
        last_frame_at=None if status.last_frame_utc is None else utc_text(status.last_frame_utc),
        motion=_motion_view(status.motion),
        degradation=_degradation_view(status.degradation),
        frames=FramesView(
            decoded=counts.decoded,
            published=counts.published,
            dropped={str(reason): count for reason, count in counts.dropped.items()},
            in_flight=counts.in_flight,
        ),
    )


def _motion_view(motion: MotionState | None) -> MotionView | None:
    return None if motion is None else MotionView(still=motion.still, since=utc_text(motion.since_utc))


def _degradation_view(degradation: Degradation | None) -> DegradationView | None:
    if degradation is None:
        return None
    return DegradationView(
        level=degradation.level,
        name=degradation.name,
        since=utc_text(degradation.since_utc),
        reason=degradation.reason,
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of the problem documents that a route may answer with."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    # No `model`: it would add application/json, which no problem is sent as.
    return {
        status: {"description": "a problem document", "content": content, **_PROBLEM_HEADERS.get(status, {})}
        for status in statuses
    }


def header(name: str, description: str, **schema: str) -> dict[str, Any]:
    """The OpenAPI entry of a header that a response always has."""
    return {name: {"description": description, "required": True, "schema": {"type": "string", **schema}}}


_RETRY: dict[str, Any] = {"headers": header("Retry-After", "seconds", pattern="^[0-9]+$")}
_PROBLEM_HEADERS: dict[int, dict[str, Any]] = {
    401: {"headers": header("WWW-Authenticate", "how to ask with a token")},
    429: _RETRY,
    503: _RETRY,
}
