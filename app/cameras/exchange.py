"""Cameras as YAML: what `vidette export` writes and `vidette import` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from app.cameras.entries import LEFT_OUT, CameraEntry, ReadEntry
from app.cameras.registration import password_of, with_url_of
from app.cameras.settings import CameraSettings
from app.cameras.urls import is_masked, masked
from app.errors import ConfigError
from app.sentences import sentences
from app.settings import read_yaml

_HEAD = "# Cameras of Vidette: `vidette import` reads this file, and its list may stand in vidette.yml.\n"
_WITHOUT = "# No password is in it; an import keeps those that are stored.\n"
_WITH = "# It holds passwords.\n"


class CamerasFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    cameras: tuple[CameraEntry, ...]


def as_yaml(cameras: Sequence[CameraSettings], *, with_secrets: bool) -> str:
    """The file that makes these cameras. Fields that have their default are left out.

    Without secrets no password is written, and what follows `password=` in a URL becomes `***`.
    """
    listed = [_as_mapping(camera, with_secrets) for camera in cameras]
    document = {"version": 1, "cameras": listed}
    # PyYAML would fold long URLs, which is right but hard to read and to search.
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1_000_000)
    return _HEAD + (_WITH if with_secrets else _WITHOUT) + text


def read_cameras(path: Path) -> tuple[CameraEntry, ...]:
    """The cameras in a file. Blocking. Raises one `ConfigError` that names every entry and field that cannot be."""
    values = read_yaml(path)
    try:
        return CamerasFile.model_validate(values).cameras
    except ValidationError as exc:
        raise ConfigError("; ".join(sentences(exc))) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What an import will do. A camera that the file does not name is in none of these, and stays."""

    new: tuple[CameraSettings, ...]
    changed: tuple[CameraSettings, ...]
    same: tuple[CameraSettings, ...]


def plan_import(
    entries: Sequence[ReadEntry], stored: Mapping[str, CameraSettings], *, passwords_known: bool = True
) -> ImportPlan:
    """Compare a file with what is stored. Pure. Raises one `ConfigError` that names every entry that cannot be.

    Where the stored passwords are not known, a camera counts as the same when all else is.
    """
    new, changed, same, problems = [], [], [], []
    for index, entry in enumerate(entries):
        before = stored.get(entry.settings.id)
        after = entry.over(before)
        if is_masked(after.url):
            if before is None or masked(before.url) != after.url:
                problems.append(f"cameras[{index}].url: {LEFT_OUT}")
                continue
            after = with_url_of(before, after)
        if before is None:
            new.append(after)
        elif _shown(after, passwords_known) == _shown(before, passwords_known):
            same.append(after.model_copy(update={"declared": before.declared}))
        elif before.declared:
            problems.append(
                f"cameras[{index}].id: {before.id!r} is declared in the configuration file; change it there"
            )
        else:
            changed.append(after)
    if problems:
        raise ConfigError("; ".join(problems))
    return ImportPlan(new=tuple(new), changed=tuple(changed), same=tuple(same))


def _shown(camera: CameraSettings, passwords_known: bool) -> CameraSettings:
    hidden: dict[str, Any] = (
        {} if passwords_known else {"password": None, "url": masked(camera.url), "unreadable": frozenset()}
    )
    return camera.model_copy(update={"declared": False, **hidden})


def _as_mapping(camera: CameraSettings, with_secrets: bool) -> dict[str, Any]:
    fields = camera.model_dump(mode="json", exclude_defaults=True, exclude={"password", "declared"})
    url = camera.url if with_secrets else masked(camera.url)
    password = password_of(camera)
    secret = {"password": password} if with_secrets and password is not None else {}
    first = {"id": camera.id, "name": camera.name, "url": url}
    return {**first, **{key: value for key, value in fields.items() if key not in first}, **secret}
