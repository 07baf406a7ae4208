"""Uvicorn, with the order of our shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Generator
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.api.hosts import is_loopback
from app.connections import BoundedHttpProtocol
from app.errors import ConfigError
from app.service import Service
from app.settings import AuthSettings, ServerSettings
from app.tls import Certificate
from app.websocket import StreamProtocol

# More would only cost: nothing of ours comes near it.
DESCRIPTORS = 65_536
# A client has so long for its TLS handshake.
HANDSHAKE_S = 10.0


class Server(uvicorn.Server):
    """Stops the service before the connections, so that WebSocket clients are told 1001, and ends by returning.

    Uvicorn raises a caught SIGTERM again after it has stopped, which ends the process before its exit code is chosen.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, certificate: Certificate | None, *, signals: bool
    ) -> None:
        super().__init__(config)
        self._signals = [signal.SIGINT, signal.SIGTERM] if signals else []
        # A terminal that closes ends us as cleanly as any stop, but under nohup, which has it ignored.
        if signals and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._signals.append(signal.SIGHUP)
        self._service = service
        self._certificate = certificate
        self._renewing: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self.handle_exit) for number in self._signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is not None:
            self._renewing = asyncio.create_task(self._certificate.watch(), name="certificate")
        with bounded_handshakes(HANDSHAKE_S):
            await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._service.stop()
        await super().shutdown(sockets)


@contextlib.contextmanager
def bounded_handshakes(seconds: float) -> Generator[None, None, None]:
    """Servers with TLS that are started within it give a client so long for its handshake, and not a minute.

    Uvicorn has no option for it, and a connection is counted by its bounds only when its handshake is over.
    """
    loop = asyncio.get_running_loop()
    create: Any = loop.create_server

    async def create_bounded(*arguments: Any, **options: Any) -> asyncio.Server:
        handshake = {"ssl_handshake_timeout": seconds} if options.get("ssl") is not None else {}
        server: asyncio.Server = await create(*arguments, **options, **handshake)
        return server

    loop.create_server = create_bounded  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(loop).pop("create_server")


def raise_descriptor_limit() -> None:
    """As many open files as the system allows us: each camera takes one to three, each client one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))


def listen(settings: ServerSettings, auth: AuthSettings) -> socket.socket:
    """Bind the port before anything else is started.

    Raises `ConfigError` with a sentence when it cannot be had, or when others than this machine's users would reach an
    API without tokens and nobody has said that they may.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise ConfigError(f"server.host: {settings.host!r} is not an address of this machine: {exc.strerror}") from None
    if auth.mode == "none" and not auth.explicit and not is_loopback(str(address[0])):
        raise ConfigError(
            f"server.host: {settings.host} can be reached from other machines, and nothing asks for a token; "
            "set auth.mode to token, or to none if everybody who reaches the port may see and change cameras"
        )
    # asyncio switches Nagle's 40 ms delay off only for sockets that name their protocol.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(2048)
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        raise ConfigError(f"server.port: {settings.host}:{settings.port} cannot be used: {reason}") from None
    return sock


def make_server(app: FastAPI, service: Service, *, signals: bool = True) -> Server:
    """Without `signals` it leaves SIGINT and SIGTERM to whoever runs it beside other work.

    Raises `ConfigError` when the certificate's files cannot be used.
    """
    files = service.settings.server
    certificate = None
    if files.tls_cert_file is not None and files.tls_key_file is not None:
        certificate = Certificate(files.tls_cert_file, files.tls_key_file)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=partial(BoundedHttpProtocol, places=service.connections),  # type: ignore[arg-type]
        ws=StreamProtocol,
        ws_max_size=64 * 1024,
        # Compressed frames would have to be made for each client.
        ws_per_message_deflate=False,
        # Longer than a client may stand still, so that it is closed with the reason and not by a missing pong.
        ws_ping_interval=30.0,
        ws_ping_timeout=60.0,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        server_header=False,
        # What a client says of its own address counts for nothing: the limit of failures is by address.
        proxy_headers=False,
        ssl_context_factory=None if certificate is None else lambda config, default: certificate.context,
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Server(config, service, certificate, signals=signals)
