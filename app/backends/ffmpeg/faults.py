"""What the errors of FFmpeg and of the resolver mean for a camera. The only place that knows them.

FFmpeg says the same `InvalidDataError` for a camera that never answers and for one that speaks HTTP, so the time that
passed is a part of the evidence. Messages name the camera by host and port: `str()` of the originals holds passwords.
"""

from __future__ import annotations

import errno
import socket

from av import error as av_error

from app.cameras.urls import CameraUrl
from app.errors import SourceError, SourceErrorCode

_Meaning = tuple[SourceErrorCode, str]

_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_UNAUTHORIZED = (av_error.HTTPUnauthorizedError, av_error.HTTPForbiddenError)

# The first that fits counts.
_CERTAIN: tuple[tuple[tuple[type[Exception], ...], _Meaning], ...] = (
    (
        (av_error.HTTPServerError,),
        (SourceErrorCode.CONNECTION_REFUSED, "answered that it cannot serve now (5xx)"),
    ),
    # 455, say: there is no video that could be played, and PLAY was refused for it.
    ((av_error.HTTPOtherClientError,), (SourceErrorCode.NO_VIDEO, "offers no video, or refuses to play it (4xx)")),
    ((av_error.HTTPClientError,), (SourceErrorCode.NOT_FOUND, "has no stream at this path")),
    (
        (av_error.FileNotFoundError, av_error.PermissionError, av_error.IsADirectoryError),
        (SourceErrorCode.NOT_FOUND, "cannot be read"),
    ),
    ((av_error.ConnectionRefusedError,), (SourceErrorCode.CONNECTION_REFUSED, "refused the connection")),
    ((av_error.ExitError, av_error.TimeoutError), (SourceErrorCode.CONNECT_TIMEOUT, "did not answer in time")),
)


def resolve_failed(exc: Exception, camera: CameraUrl) -> SourceError:
    """Translate what `getaddrinfo` raised."""
    if _lacks_resources(exc) or (isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_MEMORY):
        return _no_resources(camera)
    return SourceError(SourceErrorCode.DNS_FAILED, f"{camera.host} is not known to the name server")


def open_failed(exc: Exception, camera: CameraUrl, *, took_s: float, patience_s: float, anonymous: bool) -> SourceError:
    """Translate what `av.open` raised after `took_s`; `patience_s` is how long FFmpeg waits for one answer."""
    if _lacks_resources(exc):
        return _no_resources(camera)
    if isinstance(exc, _UNAUTHORIZED):
        reason = "asks for a username and a password" if anonymous else "refused the username or the password"
        return SourceError(SourceErrorCode.AUTH_FAILED, f"{camera.address} {reason}")
    certain = next((meaning for types, meaning in _CERTAIN if isinstance(exc, types)), None)
    code, reason = certain or _guess(exc, camera, waited=took_s >= 0.9 * patience_s)
    return SourceError(code, f"{camera.address} {reason}")


def read_failed(exc: Exception, camera: CameraUrl, *, silent_s: float, patience_s: float) -> SourceError:
    """Translate what ended the reading, `silent_s` after the last data came."""
    if _lacks_resources(exc):
        return _no_resources(camera)
    if silent_s >= 0.9 * patience_s:
        return SourceError(SourceErrorCode.READ_TIMEOUT, f"{camera.address} went silent")
    return SourceError(SourceErrorCode.END_OF_STREAM, f"{camera.address} broke the connection")


def _guess(exc: Exception, camera: CameraUrl, *, waited: bool) -> _Meaning:
    number = getattr(exc, "errno", None)
    if camera.scheme == "file":
        return SourceErrorCode.NO_VIDEO, "is not a video file that can be read"
    if waited:
        return SourceErrorCode.CONNECT_TIMEOUT, "accepted the connection and then did not answer"
    if number == errno.EPROTONOSUPPORT:
        return SourceErrorCode.NO_VIDEO, "does not offer the transport that is set"
    if number in _UNREACHABLE:
        return SourceErrorCode.CONNECT_TIMEOUT, "cannot be reached from here"
    if camera.scheme == "rtsps" and isinstance(exc, (av_error.OSError, av_error.EOFError)):
        return SourceErrorCode.TLS_FAILED, "failed the TLS handshake"
    if isinstance(exc, (av_error.ConnectionResetError, av_error.BrokenPipeError, av_error.EOFError)):
        return SourceErrorCode.CONNECTION_REFUSED, "closed the connection while it was being opened"
    return SourceErrorCode.NO_VIDEO, "answered nothing that is RTSP"


def _lacks_resources(exc: Exception) -> bool:
    return isinstance(exc, MemoryError) or getattr(exc, "errno", None) in _NO_RESOURCES


def _no_resources(camera: CameraUrl) -> SourceError:
    return SourceError(
        SourceErrorCode.RESOURCE_EXHAUSTED, f"{camera.address} cannot be opened: no file descriptors or memory are left"
    )
