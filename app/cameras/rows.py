"""A camera as a row of the database: its settings as JSON, and apart from them, sealed, what is secret. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from app.cameras.sealing import SecretKeys
from app.cameras.settings import CameraSettings, SecretField
from app.cameras.urls import masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. `settings` holds the URL as answers show it; `sealed` maps `password` and `url` to sealed texts."""

    id: str
    settings: str
    sealed: str
    declared: int


def to_row(camera: CameraSettings, keys: SecretKeys, *, stored_seals: str = "{}") -> Row:
    """The row of a camera. What is unreadable stays sealed as it is stored. Raises `StoreError` without a key."""
    shown = camera.model_copy(update={"url": masked(camera.url)})
    stored: dict[str, str] = json.loads(stored_seals)
    seals = {field: stored[field] for field in sorted(camera.unreadable) if field in stored}
    if camera.password is not None:
        seals["password"] = keys.seal(camera.password.get_secret_value(), camera_id=camera.id, field="password")
    if shown.url != camera.url:
        seals["url"] = keys.seal(camera.url, camera_id=camera.id, field="url")
    settings = shown.model_dump_json(exclude={"id", "password", "declared"})
    return Row(id=camera.id, settings=settings, sealed=json.dumps(seals), declared=int(camera.declared))


def from_row(row: Row, keys: SecretKeys, *, plain_password: str | None = None) -> CameraSettings:
    """The camera of a row; `plain_password` is what an earlier version left. Raises ValueError or TypeError."""
    fields: dict[str, Any] = {**json.loads(row.settings), "id": row.id, "declared": bool(row.declared)}
    seals: dict[SecretField, str] = json.loads(row.sealed)
    opened = {field: keys.unseal(sealed, camera_id=row.id, field=field) for field, sealed in seals.items()}
    fields |= {field: text for field, text in opened.items() if text is not None}
    if plain_password is not None and not seals:
        fields["password"] = plain_password
    return CameraSettings.model_validate({**fields, "unreadable": [f for f, text in opened.items() if text is None]})


def is_plain(row: Row, plain_password: str | None) -> bool:
    """Whether something secret in this row is not sealed yet."""
    try:
        seals, url = json.loads(row.sealed), json.loads(row.settings)["url"]
    except (ValueError, TypeError, KeyError):  # no camera, which is told when it is read
        return False
    return (plain_password is not None and not seals) or masked(url) != url
