"""Cameras written in files: the `cameras:` section of vidette.yml, and what `vidette export` writes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, model_validator

from app.cameras.hosts import DEFAULT_HOSTS, HostPolicy
from app.cameras.registration import check_classes, replaced, resolve
from app.cameras.settings import MAX_PASSWORD_LENGTH, CameraId, CameraRegistration, CameraSettings, Url
from app.cameras.urls import is_masked
from app.errors import ConfigError, InvalidField
from app.sentences import sentences

# No password is longer; a file that is, is another file.
_MAX_FILE_BYTES = 4 * MAX_PASSWORD_LENGTH + 2
LEFT_OUT = "the export left its secret out; write it in place of ***"


class CameraEntry(CameraRegistration):
    """One camera of a file. The id is required: by it the camera is found again at the next start or import."""

    id: CameraId
    url: Annotated[Url, Field(repr=False)]  # it may hold credentials still
    password_file: Path | None = None  # holds the password; a line break at its end is no part of it

    @model_validator(mode="after")
    def _one_password(self) -> CameraEntry:
        if self.password_file is not None and "password" in self.model_fields_set:
            raise ValueError("password and password_file cannot both be given")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadEntry:
    """An entry, its URL taken apart and its password read."""

    settings: CameraSettings
    says_password: bool

    def over(self, stored: CameraSettings | None) -> CameraSettings:
        """What the entry makes of the camera that has its id now."""
        return replaced(stored, self.settings, says_password=self.says_password)


def read_entries(
    entries: Sequence[CameraEntry],
    *,
    media_dir: Path | None,
    hosts: HostPolicy = DEFAULT_HOSTS,
    classes: Collection[str] | None = None,
    with_files: bool = True,
    masked: bool = False,
) -> tuple[ReadEntry, ...]:
    """Resolve every entry; the model must have its classes, where `classes` tells which those are.

    Blocking: password files are read, unless `with_files` is false. With `masked`, a URL may lack the secret that an
    export left out. Raises one `ConfigError` that names every entry and field that cannot be:
    `cameras[2].url: scheme must be rtsp or rtsps, not http`.
    """
    read: list[ReadEntry] = []
    problems: list[str] = []
    ids: dict[str, int] = {}
    for index, entry in enumerate(entries):
        with _noting(problems, f"cameras[{index}]"):
            if ids.setdefault(entry.id, index) != index:
                raise InvalidField("id", f"{entry.id!r} is the id of cameras[{ids[entry.id]}] already")
            if is_masked(entry.url) and not masked:
                raise InvalidField("url", LEFT_OUT)
            read.append(_read(entry, media_dir, hosts, with_files))
            if classes is not None:
                check_classes(read[-1].settings, classes)
    if problems:
        raise ConfigError("; ".join(problems))
    return tuple(read)


@contextmanager
def _noting(problems: list[str], place: str) -> Iterator[None]:
    try:
        yield
    except InvalidField as exc:
        problems.append(f"{place}.{exc}")
    except ValidationError as exc:
        problems += sentences(exc, prefix=f"{place}.")


def _read(entry: CameraEntry, media_dir: Path | None, hosts: HostPolicy, with_files: bool) -> ReadEntry:
    fields: dict[str, Any] = entry.model_dump(exclude_unset=True, exclude={"password_file"})
    if entry.password_file is not None and with_files:
        fields["password"] = SecretStr(_password_in(entry.password_file))
    settings = resolve(fields, media_dir=media_dir, hosts=hosts)
    return ReadEntry(settings=settings, says_password="password" in fields or settings.password is not None)


def _password_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise InvalidField("password_file", f"{path} is too long for a password")
        return text.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise InvalidField("password_file", f"{path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidField("password_file", f"{path} is not text in UTF-8") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What makes the stored cameras what the file declares."""

    put: tuple[CameraSettings, ...]
    delete: tuple[str, ...]
    cameras: tuple[CameraSettings, ...]  # all that there are afterwards, in the order of registration


def reconcile(stored: Sequence[CameraSettings], declared: Sequence[ReadEntry]) -> Reconciliation:
    """Compare what is stored with what is declared. Pure.

    A declared camera takes the place of one with its id, whoever made that. What was declared once and is not any
    more goes; what was registered otherwise stays.
    """
    before = {camera.id: camera for camera in stored}
    wanted = {entry.settings.id: _declared(entry, before) for entry in declared}
    kept = {camera.id: camera for camera in stored if camera.id in wanted or not camera.declared}
    return Reconciliation(
        put=tuple(camera for camera in wanted.values() if before.get(camera.id) != camera),
        delete=tuple(camera_id for camera_id in before if camera_id not in kept),
        cameras=tuple({**kept, **wanted}.values()),
    )


def _declared(entry: ReadEntry, before: dict[str, CameraSettings]) -> CameraSettings:
    camera = entry.over(before.get(entry.settings.id))
    return camera.model_copy(update={"declared": True})
