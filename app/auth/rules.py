"""Who may do what: the one table of rules, and the decisions that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from app.auth.tokens import SCOPES, Scope, Token
from app.cameras.settings import CameraSettings, slug
from app.cameras.urls import masked
from app.errors import Forbidden

# open: everybody. metrics: a token without a list of cameras, or the token of `metrics.token`.
Need: TypeAlias = Literal["open", "metrics"] | Scope

# Every route has its line; one that has none stops the start, and no request reaches it.
RULES: Mapping[str, Need] = {
    "GET /api/v1/cameras": "read",
    "POST /api/v1/cameras": "admin",
    "GET /api/v1/cameras/{camera_id}": "read",
    "PUT /api/v1/cameras/{camera_id}": "operate",  # but for ADDRESS_FIELDS
    "PATCH /api/v1/cameras/{camera_id}": "operate",  # but for ADDRESS_FIELDS
    "DELETE /api/v1/cameras/{camera_id}": "admin",
    "POST /api/v1/cameras/{camera_id}/restart": "operate",
    "GET /api/v1/cameras/{camera_id}/detections": "read",
    "GET /api/v1/cameras/{camera_id}/snapshot.jpg": "read",
    "GET /api/v1/detections/latest": "read",
    "WEBSOCKET /api/v1/ws/detections": "read",
    "POST /api/v1/diagnose": "operate",
    "GET /api/v1/capacity": "read",
    "GET /api/v1/models": "read",
    "GET /api/v1/system": "read",
    "GET /metrics": "metrics",
    # Probes ask without a token and are told nothing but a state. The pages are the same for everybody, hold no data
    # and ask for a token themselves.
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /": "open",
    "GET /console.js": "open",
    "GET /console.css": "open",
    "GET /docs": "open",
    "GET /redoc": "open",
    "GET /openapi.json": "open",
}
# Whoever may write these could have a stored password sent to a host of his own: they take the scope admin.
ADDRESS_FIELDS = ("url", "username", "password", "transport")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks: a token, or anybody where `auth.mode` is none."""

    scope: Scope
    cameras: frozenset[str] | None = None  # None: all
    token: Token | None = None

    def may(self, scope: Scope) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def sees(self, camera_id: str) -> bool:
        return self.cameras is None or camera_id in self.cameras


ANYBODY = Principal(scope="admin")


def principal(token: Token) -> Principal:
    return Principal(scope=token.scope, cameras=token.cameras, token=token)


def check(need: Need, asking: Principal, camera_id: str | None) -> None:
    """Raise `Forbidden` unless `asking` meets the need. `camera_id` is that of the route's path, if it has one."""
    if need == "open":
        return
    if need == "metrics":
        if asking.cameras is not None:
            raise Forbidden("the metrics are of all cameras, and the token is only for some")
        need = "read"
    if not asking.may(need):
        raise Forbidden(f"this takes a token of the scope {need}; this one has {asking.scope}")
    if camera_id is not None:
        check_camera(asking, camera_id)


def check_camera(asking: Principal, camera_id: str) -> None:
    """Raise `Forbidden` for a camera that is not on the token's list, whether or not there is such a camera."""
    if not asking.sees(camera_id):
        raise Forbidden(f"the token is not for camera {camera_id[:64]!r}")


def check_new_camera(asking: Principal, camera: CameraSettings, *, id_given: bool) -> None:
    """Raise `Forbidden` unless this camera may be registered.

    An id that is made from a name shows which ones are taken, so what the name alone would give must be allowed too.
    """
    check_camera(asking, camera.id if id_given else slug(camera.name))
    check_camera(asking, camera.id)


def check_change(asking: Principal, stored: CameraSettings, fields: Mapping[str, Any], *, whole: bool) -> None:
    """Raise `Forbidden` when a change touches ADDRESS_FIELDS and the scope is less than admin.

    `whole` is for `PUT`, in which a field that is absent has its default. A password may not even be repeated: the
    answer would tell whether it was guessed.
    """
    if asking.may("admin"):
        return
    shown: dict[str, Any] = {
        "url": masked(stored.url),
        "username": stored.username,
        "password": None,
        "transport": stored.transport,
    }
    absent = {"username": None, "transport": "auto"} if whole else {}
    wanted = {**absent, **{field: value for field, value in fields.items() if field in ADDRESS_FIELDS}}
    touched = [field for field in ADDRESS_FIELDS if field in wanted and wanted[field] != shown[field]]
    if "password" in wanted and wanted["password"] is None and stored.password_set:
        touched.append("password")
    if touched:
        raise Forbidden(f"{', '.join(touched)}: only a token of the scope admin may change this")
