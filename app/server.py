"""Uvicorn, with the order of our shutdown."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI

from app.errors import ConfigError
from app.service import Service
from app.settings import ServerSettings
from app.websocket import StreamProtocol


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
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Server(config, service)
