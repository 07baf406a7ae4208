"""From the fields that a user gives to a camera's settings, for REST, for files and for the command line alike."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.cameras.hosts import DEFAULT_HOSTS, HostPolicy
from app.cameras.settings import CameraSettings, free_id
from app.cameras.urls import REMOVED, CameraUrl, check_credentials, is_masked, masked, parse_camera_url, query_secrets
from app.errors import InvalidField, SourceErrorCode


def resolve(
    fields: Mapping[str, Any],
    *,
    media_dir: Path | None,
    hosts: HostPolicy = DEFAULT_HOSTS,
    taken: Collection[str] = (),
) -> CameraSettings:
    """The settings that these fields mean: credentials out of the URL, id and name made up where absent.

    Blocking: a file's URL is looked up on disk. Raises `InvalidField` or pydantic's `ValidationError`.
    """
    fields = dict(fields)
    url = parsed(fields["url"], media_dir=media_dir, hosts=hosts)
    fields["url"] = url.url
    if url.username is not None:
        fields["username"] = url.username
    if url.password is not None:  # a URL with a name alone says nothing of the password
        fields["password"] = SecretStr(url.password)
    fields["name"] = fields.get("name") or fields.get("id") or url.host[:128] or "camera"
    fields["id"] = fields.get("id") or free_id(fields["name"], taken)
    settings = CameraSettings.model_validate(fields)
    with field_errors():
        check_credentials(settings.username, password_of(settings))
    return settings


def replaced(stored: CameraSettings | None, settings: CameraSettings, *, says_password: bool) -> CameraSettings:
    """What `PUT` makes of a camera: all of it is new, but a password that is not mentioned stays."""
    if says_password or stored is None:
        return settings
    return settings.model_copy(
        update={"password": stored.password, "unreadable": settings.unreadable | stored.unreadable & {"password"}}
    )


def unmasked(settings: CameraSettings, stored: CameraSettings | None) -> CameraSettings:
    """Settings whose URL may come from a response or an export, which put `***` in place of a secret in it.

    Such a URL means the stored one. Raises `InvalidField` when it is not that of the stored camera.
    """
    if not is_masked(settings.url):
        return settings
    if stored is None or masked(stored.url) != settings.url:
        raise InvalidField("url", "write the secret in place of ***; only an unchanged URL may leave it out")
    return with_url_of(stored, settings)


def with_url_of(stored: CameraSettings, settings: CameraSettings) -> CameraSettings:
    """Settings with the stored URL, whether its secret can be read or not."""
    return settings.model_copy(
        update={"url": stored.url, "unreadable": settings.unreadable | stored.unreadable & {"url"}}
    )


def check_classes(settings: CameraSettings, model: Collection[str], *, also: Collection[str] = ()) -> None:
    """Raise `InvalidField` when the camera wants a class that neither the model has nor `also` names."""
    unknown = sorted(set(settings.classes or ()) - set(model) - set(also))
    if unknown:
        known = ", ".join(list(model)[:12]) + (", ..." if len(model) > 12 else "")
        shown = ", ".join(REMOVED if "://" in name else repr(name) for name in unknown)
        raise InvalidField("classes", f"{shown} is not a class of the model ({known})")


def parsed(url: str, *, media_dir: Path | None, hosts: HostPolicy) -> CameraUrl:
    """`parse_camera_url`, with `InvalidField` for what cannot be, or is on a host that is not allowed."""
    with field_errors():
        camera = parse_camera_url(url, media_dir=media_dir)
    if camera.path is None:
        try:
            hosts.check(camera.host)
        except ValueError as exc:  # with the code that it would have later, when it is connected to
            text = f"{str(exc).removeprefix('url: ')} ({SourceErrorCode.FORBIDDEN_URL.value})"
            raise InvalidField("url", text) from None
    return camera


def secrets_of(settings: CameraSettings) -> tuple[str, ...]:
    """Everything of a camera that no text may hold."""
    return secrets_in(settings.url, settings.username, password_of(settings))


def secrets_in(url: str, username: str | None, password: str | None) -> tuple[str, ...]:
    """The password, also as HTTP sends it, and what the URL hides."""
    secrets = query_secrets(url)
    if password is None:
        return secrets
    login = f"{username or ''}:{password}".encode("utf-8", "surrogatepass")
    return (password, base64.b64encode(login).decode("ascii"), *secrets)


def password_of(settings: CameraSettings) -> str | None:
    return None if settings.password is None else settings.password.get_secret_value()


@contextmanager
def field_errors() -> Iterator[None]:
    """Turn `field: sentence` of the pure checks into the error for that field."""
    try:
        yield
    except ValueError as exc:
        field, _, message = str(exc).partition(": ")
        raise InvalidField(field, message) from None
