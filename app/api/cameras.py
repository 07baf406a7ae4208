"""Cameras over REST: list, register, read, replace, change, remove, restart, diagnose, and a picture."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Query, Response

from app.api.auth import PrincipalDep
from app.api.common import CameraIdPath, CameraView, PartsDep, ServiceDep, camera_view, header, problems
from app.auth.rules import check_camera, check_change, check_new_camera
from app.cameras.settings import CameraPatch, CameraRegistration, CameraSettings
from app.errors import InvalidField
from app.results.wire import utc_text

router = APIRouter(prefix="/api/v1", tags=["cameras"])
ForceQuery: TypeAlias = Annotated[bool, Query(description="start it even when the machine has no room for it")]


@router.get("/cameras", responses=problems(503))
def list_cameras(parts: PartsDep, asking: PrincipalDep) -> list[CameraView]:
    """Every camera that the token is for, with its status."""
    # Not `async`: in a worker thread, since ten thousand of them take a third of a second.
    return [camera_view(camera) for camera in parts.registry.cameras() if asking.sees(camera.settings.id)]


@router.post(
    "/cameras",
    status_code=201,
    responses={201: {"headers": header("Location", "the camera's path")}, **problems(409, 413, 422, 429, 503)},
)
async def register(
    registration: CameraRegistration,
    service: ServiceDep,
    asking: PrincipalDep,
    response: Response,
    force: ForceQuery = False,
) -> CameraView:
    """Register a camera; it connects at once."""
    registry, id_given = service.parts.registry, registration.id is not None
    if registration.id is not None:
        check_camera(asking, registration.id)  # before anything is said of whether it exists
    camera = await registry.add(
        registration,
        admit=None if force else service.admit,
        allow=lambda made: check_new_camera(asking, made, id_given=id_given),
    )
    response.headers["Location"] = f"/api/v1/cameras/{camera.settings.id}"
    return camera_view(camera)


@router.get("/cameras/{camera_id}", responses=problems(404, 503))
async def read(camera_id: CameraIdPath, parts: PartsDep) -> CameraView:
    """One camera with its status."""
    return camera_view(parts.registry.get(camera_id))


@router.put("/cameras/{camera_id}", responses=problems(404, 409, 413, 422, 503))
async def replace(
    camera_id: CameraIdPath,
    body: CameraRegistration,
    service: ServiceDep,
    asking: PrincipalDep,
    force: ForceQuery = False,
) -> CameraView:
    """Replace a camera's settings; a password that is not mentioned stays. Its address takes the scope admin."""
    _same_id(camera_id, body.id)
    fields = body.model_dump(exclude_unset=True, exclude={"id"})
    admit = None if force else service.admit

    def allow(stored: CameraSettings) -> None:
        check_change(asking, stored, fields, whole=True)

    return camera_view(await service.parts.registry.replace(camera_id, fields, admit=admit, allow=allow))


@router.patch("/cameras/{camera_id}", responses=problems(404, 409, 413, 422, 503))
async def change(
    camera_id: CameraIdPath, body: CameraPatch, service: ServiceDep, asking: PrincipalDep, force: ForceQuery = False
) -> CameraView:
    """Change some settings; only what they touch restarts. Enabling a camera needs room for it.

    A camera's address takes the scope admin.
    """
    _same_id(camera_id, body.id)
    fields = body.model_dump(exclude_unset=True, exclude={"id"})
    if fields.get("url", "") is None:
        raise InvalidField("url", "must not be null")
    admit = None if force else service.admit

    def allow(stored: CameraSettings) -> None:
        check_change(asking, stored, fields, whole=False)

    return camera_view(await service.parts.registry.patch(camera_id, fields, admit=admit, allow=allow))


@router.delete("/cameras/{camera_id}", status_code=204, responses=problems(404, 409, 503))
async def remove(camera_id: CameraIdPath, parts: PartsDep) -> None:
    """Forget a camera."""
    await parts.registry.remove(camera_id)


@router.post("/cameras/{camera_id}/restart", responses=problems(404, 503))
async def restart(camera_id: CameraIdPath, parts: PartsDep) -> CameraView:
    """Connect anew, now."""
    camera = parts.registry.get(camera_id)
    camera.restart()
    return camera_view(camera)


@router.get(
    "/cameras/{camera_id}/snapshot.jpg",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **problems(404, 422, 503)},
)
async def snapshot(
    camera_id: CameraIdPath,
    parts: PartsDep,
    overlay: Annotated[bool, Query(description="draw the boxes")] = True,
) -> Response:
    """The newest inferred frame as JPEG."""
    parts.registry.get(camera_id)
    picture = await parts.hub.snapshots.jpeg(camera_id, overlay=overlay)
    headers = {
        "Cache-Control": "no-store",
        "X-Frame-Seq": str(picture.seq),
        "X-Captured-At": utc_text(picture.captured_utc),
    }
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


def _same_id(path_id: str, body_id: str | None) -> None:
    if body_id is not None and body_id != path_id:
        raise InvalidField("id", f"a camera's id cannot change from {path_id!r}; register it anew")
