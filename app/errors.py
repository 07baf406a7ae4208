"""Every error that Vidette raises on purpose. A message is a sentence that names its subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path


class SourceErrorCode(str, Enum):
    """The closed list of reasons why a camera does not deliver frames."""

    DNS_FAILED = "dns_failed"
    CONNECTION_REFUSED = "connection_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    AUTH_FAILED = "auth_failed"
    NOT_FOUND = "not_found"
    TLS_FAILED = "tls_failed"
    NO_VIDEO = "no_video"
    UNSUPPORTED_CODEC = "unsupported_codec"
    DECODE_FAILED = "decode_failed"
    READ_TIMEOUT = "read_timeout"
    END_OF_STREAM = "end_of_stream"
    FORBIDDEN_URL = "forbidden_url"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    INTERNAL = "internal"


class AppError(Exception):
    """Base of all errors that a user may see."""


class ConfigError(AppError):
    """A setting, a model file or a database cannot be used. Ends the start with exit code 2."""


class ModelError(ConfigError):
    """A model file cannot be read, matches no family, or is not what its description says."""


class DownloadFailed(AppError):
    """A published model could not be fetched; what was there before is untouched."""


class StoreError(ConfigError):
    """The camera database is corrupt, locked, read-only or from a newer version."""


class FolderInUse(StoreError):
    """Another process works in the data folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"data_dir: {folder} is in use by another Vidette; stop that one, or name another folder")


class SourceError(AppError):
    """A camera cannot be opened or stopped delivering. `str()` never holds a password."""

    def __init__(self, code: SourceErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BackendUnavailable(AppError):
    """A backend cannot run on this machine."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"backend {name} is not available: {reason}")
        self.name = name
        self.reason = reason


class EngineError(AppError):
    """One batch could not be inferred; the engine itself goes on."""


class DeviceLost(EngineError):
    """The device is gone; only a new process can help."""


class Cancelled(AppError):
    """A long piece of work was given up, because nobody waits for it any more."""


class CameraNotFound(AppError):
    def __init__(self, camera_id: str) -> None:
        super().__init__(f"camera {camera_id!r} is not registered")
        self.camera_id = camera_id


class CameraExists(AppError):
    def __init__(self, camera_id: str) -> None:
        super().__init__(f"camera {camera_id!r} is registered already")
        self.camera_id = camera_id


class CameraDeclared(AppError):
    """A camera of the configuration file is changed there: another change would be undone at the next start."""

    def __init__(self, camera_id: str) -> None:
        super().__init__(f"camera {camera_id!r} is declared in the configuration file; change it there and restart")
        self.camera_id = camera_id


class InvalidField(AppError):
    """A field of a request is well-formed but cannot be: a sentence without the field's name, which goes beside it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class OverCapacity(AppError):
    """One more camera would not be served; `?force=true` registers it all the same."""


class NotReady(AppError):
    """What was asked for is not there yet; ask again shortly."""


class PictureFailed(AppError):
    """A frame could not be made a picture for want of memory, or by an error that the log tells."""


class ResourceExhausted(AppError):
    """The machine has no memory, descriptors or threads left for a request."""


class TooManyRequests(AppError):
    """A bounded resource is in use by others; ask again shortly."""


class Forbidden(AppError):
    """Whoever asks, or the place that the request comes from, may not do this."""


class Unauthorized(AppError):
    """The request carries no token, or a wrong one."""


class TooManyFailures(TooManyRequests):
    """One client showed too many wrong tokens; another wrong one is looked at in `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong tokens came from this address; a good one is still let in")
        self.wait_s = wait_s


class TokenNotFound(AppError):
    def __init__(self, token_id: str) -> None:
        super().__init__(f"there is no token {token_id!r}; `vidette token list` shows those there are")
        self.token_id = token_id


@contextmanager
def map_errors(mapping: Mapping[type[BaseException], type[AppError]]) -> Iterator[None]:
    """Translate foreign exceptions to ours, once, at the edge. The original stays as the cause."""
    try:
        yield
    except tuple(mapping) as exc:
        for foreign, ours in mapping.items():
            if isinstance(exc, foreign):
                raise ours(str(exc)) from exc
        raise
