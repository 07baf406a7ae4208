"""What a camera is to its user: the fields of a registration, checked. URL rules live in `urls.py`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.json_schema import SkipJsonSchema

from app.cameras.urls import concealed

MAX_PASSWORD_LENGTH = 256
ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
CameraId: TypeAlias = Annotated[str, Field(pattern=ID_PATTERN)]
# What is sealed in the database; a URL only when something in it is secret.
SecretField: TypeAlias = Literal["password", "url"]


MAX_LABELS = 64
# More than any shape has. Each unknown key and each bad label is an error of its own, and costs its sentence: a body of
# a hundred thousand of them would hold the event loop for a second, and be answered with ten times its size.
_MAX_KEYS = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Fields(BaseModel):
    """The base of what a client may send: no other keys than the shape's, and not too many of them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_KEYS:
            raise ValueError(f"must not have more than {_MAX_KEYS} keys")
        return data


def _few_labels(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_LABELS:
        raise ValueError(f"must not have more than {MAX_LABELS} names")
    return value


def _without_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not hold control characters or lone surrogates")
    return text


# The length comes before it, so that its message speaks of characters.
_Clean = AfterValidator(_without_control_characters)
Text: TypeAlias = Annotated[str, _Clean]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128), _Clean]
Username: TypeAlias = Annotated[str, Field(max_length=256), _Clean]
Url: TypeAlias = Annotated[str, Field(min_length=1, max_length=2048, description="rtsp://, rtsps:// or file:"), _Clean]


def _unstripped(value: object) -> object:
    return SecretStr(value) if isinstance(value, str) else value


# Spaces around other text are slips of the hand and are stripped; a password's are part of it.
Password: TypeAlias = Annotated[SecretStr, BeforeValidator(_unstripped), Field(max_length=MAX_PASSWORD_LENGTH)]


class MotionSettings(Fields):
    """How the motion gate decides that a scene is still; see `motion.py`."""

    model_config = ConfigDict(frozen=True)

    sensitivity: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="1 notices most, 0 least")
    heartbeat_s: float = Field(5.0, ge=0.5, le=3600, allow_inf_nan=False, description="one frame of a still scene each")
    hold_s: float = Field(2.0, ge=0, le=300, allow_inf_nan=False, description="frames pass so long after motion ended")


class CameraOptions(Fields):
    """The fields that every shape of a camera has; none is required."""

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    name: Name | None = None
    username: Username | None = None
    password: Password | None = None
    enabled: bool = True
    transport: Literal["auto", "tcp", "udp"] = "auto"
    max_fps: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] | None = None
    motion: MotionSettings | None = Field(None, description="infer only what moves; null: everything")
    priority: int = Field(5, ge=1, le=10)
    min_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    classes: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    labels: Annotated[dict[Text, Text], BeforeValidator(_few_labels)] = Field(
        default_factory=dict, max_length=MAX_LABELS
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, value if name != "url" or value is None else concealed(str(value))


class CameraRegistration(CameraOptions):
    """The body of `POST` and `PUT`; id and name are made up when absent."""

    id: CameraId | None = None
    url: Url


class CameraPatch(CameraOptions):
    """The body of `PATCH`: what is absent stays. `labels` and `classes` are replaced whole."""

    id: CameraId | None = None
    url: Url | SkipJsonSchema[None] = None  # absent; null is refused


class CameraSettings(CameraOptions):
    """A registered camera: its URL holds no credentials, its id and name are set."""

    id: CameraId
    url: Url
    name: Name
    declared: bool = False  # made by the configuration file, and changed only there
    # What the database holds sealed with a key that is not here. It stays so until it is set anew, or the key is back.
    unreadable: frozenset[SecretField] = Field(frozenset(), exclude=True)

    @property
    def password_set(self) -> bool:
        return self.password is not None or "password" in self.unreadable

    def reconnects(self, other: CameraSettings) -> bool:
        """Whether going from these settings to `other` needs a new connection."""
        touching = ("url", "username", "password", "unreadable", "transport", "enabled")
        return any(getattr(self, field) != getattr(other, field) for field in touching)


def slug(name: str) -> str:
    """An id made from a name: ASCII, lower case, words joined by hyphens; `camera` when nothing is left."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:56].strip("-") or "camera"


def free_id(name: str, taken: Collection[str]) -> str:
    """The name's slug, with -2, -3, ... when it is taken."""
    base = slug(name)
    candidate, number = base, 1
    while candidate in taken:
        number += 1
        candidate = f"{base}-{number}"
    return candidate
