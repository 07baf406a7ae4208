"""The first words with a camera, without FFmpeg: look up its name, connect, ask whether it speaks RTSP."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

from app.cameras.hosts import HostPolicy
from app.cameras.urls import CameraUrl
from app.errors import SourceError, SourceErrorCode
from app.threads import in_daemon_thread

_LONGEST_LINE = 4096
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


async def resolve(camera: CameraUrl, *, hosts: HostPolicy, timeout_s: float) -> tuple[str, ...]:
    """Look up the camera's addresses, those that are allowed, in the order in which to try them.

    Raises `SourceError`. A name that is not allowed is not even looked up.
    """
    with forbidding():
        hosts.check(camera.host)
    # Not in one of asyncio's few threads: others, and the end of the process, would wait for a resolver that hangs.
    looking = in_daemon_thread(
        f"dns:{camera.host}", lambda: socket.getaddrinfo(camera.host, camera.port, type=socket.SOCK_STREAM)
    )
    try:
        found = await asyncio.wait_for(looking, timeout_s)
    except asyncio.TimeoutError:
        raise SourceError(SourceErrorCode.DNS_FAILED, f"the name server did not answer for {camera.host}") from None
    except (OSError, UnicodeError) as exc:
        _check_resources(exc, camera)
        raise SourceError(SourceErrorCode.DNS_FAILED, f"{camera.host} is not known to the name server") from None
    with forbidding():
        return hosts.permitted(camera.host, addresses_in(found))


def addresses_in(found: Iterable[tuple[Any, ...]]) -> tuple[str, ...]:
    """The addresses in an answer of `getaddrinfo`, each once."""
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@contextlib.contextmanager
def forbidding() -> Iterator[None]:
    """Turn the sentence of a pure check of a URL or host into the error of a source."""
    try:
        yield
    except ValueError as exc:
        raise SourceError(SourceErrorCode.FORBIDDEN_URL, str(exc)) from None


async def connect(camera: CameraUrl, addresses: tuple[str, ...], *, timeout_s: float) -> str:
    """Connect to the first address that accepts, hang up, and give that address. Raises `SourceError`."""
    refused: OSError | None = None
    for address in addresses:
        try:
            _, writer = await asyncio.wait_for(
                asyncio.open_connection(address, camera.port), timeout_s / len(addresses)
            )
        except (OSError, asyncio.TimeoutError) as exc:
            _check_resources(exc, camera)
            refused = exc if isinstance(exc, ConnectionRefusedError) else refused
            continue
        await _hang_up(writer)
        return address
    if refused is not None:
        raise SourceError(SourceErrorCode.CONNECTION_REFUSED, f"{camera.address} refused the connection")
    raise SourceError(SourceErrorCode.CONNECT_TIMEOUT, f"{camera.address} cannot be reached, or drops the connection")


async def ask_options(camera: CameraUrl, address: str, *, timeout_s: float) -> None:
    """Ask for OPTIONS, over TLS for rtsps; any RTSP answer will do. Raises `SourceError`.

    Certificates are not verified here, as in reading: cameras sign their own.
    """
    try:
        line = await asyncio.wait_for(_first_line(camera, address), timeout_s)
    except asyncio.TimeoutError:
        text = f"{camera.address} accepted the connection and then did not answer"
        raise SourceError(SourceErrorCode.CONNECT_TIMEOUT, text) from None
    except ssl.SSLError:
        raise SourceError(SourceErrorCode.TLS_FAILED, f"{camera.address} failed the TLS handshake") from None
    except OSError as exc:
        _check_resources(exc, camera)
        raise SourceError(SourceErrorCode.CONNECTION_REFUSED, f"{camera.address} closed the connection") from None
    if not line:
        raise SourceError(SourceErrorCode.CONNECTION_REFUSED, f"{camera.address} closed the connection")
    if not line.startswith(b"RTSP/"):
        raise SourceError(SourceErrorCode.NO_VIDEO, f"{camera.address} answered something that is not RTSP")


async def _first_line(camera: CameraUrl, address: str) -> bytes:
    tls = _unverified_tls() if camera.scheme == "rtsps" else None
    reader, writer = await asyncio.open_connection(
        address, camera.port, ssl=tls, server_hostname=camera.host if tls else None, limit=_LONGEST_LINE
    )
    try:
        writer.write(f"OPTIONS {camera.url} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: Vidette\r\n\r\n".encode())
        try:
            return await reader.readline()
        except ValueError:  # longer than any status line
            return b"?"
    finally:
        await _hang_up(writer)


def _unverified_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # without waiting for the other side, which may never answer
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _check_resources(exc: Exception, camera: CameraUrl) -> None:
    if getattr(exc, "errno", None) in _NO_RESOURCES:
        raise SourceError(
            SourceErrorCode.RESOURCE_EXHAUSTED,
            f"{camera.address} cannot be asked: no file descriptors or memory are left",
        ) from None
