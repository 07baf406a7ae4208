"""Uvicorn, with the order of our shutdown and with WebSockets that cannot be held open by a client."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.errors import ConfigError
from app.service import Service
from app.settings import ServerSettings

# Small kernel buffers, so that a client that stands still is noticed by its backlog within seconds.
SEND_BUFFER_BYTES = 256 * 1024


class BoundedCloseProtocol(WebSocketsSansIOProtocol):
    """Uvicorn waits with a close frame until the client reads, and then for ever for its buffer to drain.

    Here a close is sent at once, and a client that takes nothing for `close_timeout` more is cut off.
    """

    close_timeout = 10.0

    def connection_made(self, transport: Any) -> None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().connection_made(transport)

    async def send(self, message: Any) -> None:
        if message["type"] != "websocket.close" or not self.handshake_complete:
            await super().send(message)
            return
        self.writable.set()
        await super().send(message)
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


class Server(uvicorn.Server):
    """Stops the service before the connections, so that WebSocket clients are told 1001, and ends by returning.

    Uvicorn raises a caught SIGTERM again after it has stopped, which ends the process before its exit code is chosen.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._service.stop()
        await super().shutdown(sockets)


def listen(settings: ServerSettings) -> socket.socket:
    """Bind the port before anything else is started. Raises `ConfigError` with a sentence when it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise ConfigError(f"server.host: {settings.host!r} is not an address of this machine: {exc.strerror}") from None
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


def make_server(app: FastAPI, service: Service) -> Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws=BoundedCloseProtocol,
        ws_max_size=64 * 1024,
        # Longer than a client may stand still, so that it is closed with the reason and not by a missing pong.
        ws_ping_interval=30.0,
        ws_ping_timeout=60.0,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Server(config, service)
