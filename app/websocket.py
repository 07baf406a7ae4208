"""Uvicorn's WebSocket connection, with an outlet for frames that are made once for all clients, and with bounds.

The one place that goes past ASGI (docs/adr/0012): an application finds the outlet in the extensions of its scope.
Another server does not offer it, and messages then go by ASGI.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.results.wire import Message

OUTLET = "vidette.outlet"
# Kernel memory for what a client has not taken, doubled by Linux for its own books; small, so that a client that stands
# still is noticed by its backlog within seconds.
SEND_BUFFER_BYTES = 64 * 1024
POLICY_VIOLATION = 1008
# Clients have nothing to say: so many frames at once, pings included, and so many a second in the long run.
_FRAMES_AT_ONCE, _FRAMES_A_SECOND = 100.0, 10.0
# Parsed at once, so that a flood of tiny frames is seen before it has cost more than a few milliseconds.
_READ_BYTES = 4096


class StreamProtocol(WebSocketsSansIOProtocol):
    """Implements `Outlet`. A client can hold a connection, fill it or flood it within bounds only. Event loop only.

    Uvicorn waits with a close frame until the client reads, and then for ever for its buffer to drain. Here a close is
    sent at once, and a client that takes nothing for `cut_off_s` more is cut off, whoever began to close.
    """

    cut_off_s = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.blocked = False
        self._call_writable: Callable[[], None] = lambda: None
        self._flooded = False
        self._frames_left = _FRAMES_AT_ONCE
        self._frames_at = self.loop.time()
        self._cut_off: asyncio.TimerHandle | None = None
        self.on_lost: Callable[[], None] = lambda: None

    # As an outlet

    def write(self, messages: Sequence[Message]) -> bool:
        if not self._over:
            frames = [message.frame for message in messages]
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        return not self.blocked

    def close(self, code: int, reason: str) -> None:
        if self._over:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.cut_off_s, self.transport.abort)

    def on_writable(self, call: Callable[[], None]) -> None:
        self._call_writable = call

    @property
    def _over(self) -> bool:
        return self.close_sent or self.disconnected or self.transport.is_closing()

    # As uvicorn's protocol

    def connection_made(self, transport: Any) -> None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # Blocked as soon as the kernel has not taken everything: what waits in our own memory is one write at most.
        # Not 0, which asyncio's TLS transport never falls below: it would be blocked for ever, to a close too.
        transport.set_write_buffer_limits(high=1)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
        self.on_lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.blocked = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.blocked = False
        super().resume_writing()
        self._call_writable()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        # Not with extensions: frames would have to be made for each client, as its compression has them.
        if self.response.status_code == 101 and not self.conn.extensions:
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), OUTLET: self}  # type: ignore[dict-item]

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close(message.get("code", 1000), message.get("reason") or "")
        else:
            await super().send(message)

    # What clients say

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _READ_BYTES):
            if self._flooded:
                return
            super().data_received(data[start : start + _READ_BYTES])

    def handle_text(self, event: Any) -> None:
        if self._listens():
            super().handle_text(event)

    def handle_bytes(self, event: Any) -> None:
        if self._listens():
            super().handle_bytes(event)

    def handle_cont(self, event: Any) -> None:
        if self._listens():
            super().handle_cont(event)

    def handle_pong(self, event: Any) -> None:
        if self._listens():
            super().handle_pong(event)

    def handle_ping(self) -> None:
        if not self._listens() or self.blocked:
            self.conn.data_to_send()  # a pong that nobody takes is not kept
        else:
            super().handle_ping()

    def handle_close(self, event: Any) -> None:
        super().handle_close(event)
        self._cut_off_later()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._cut_off_later()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_off_later()

    def _listens(self) -> bool:
        """Count a frame; False once there were too many, which ends the connection."""
        now = self.loop.time()
        refilled = self._frames_left + (now - self._frames_at) * _FRAMES_A_SECOND
        self._frames_left, self._frames_at = min(_FRAMES_AT_ONCE, refilled) - 1, now
        if self._frames_left < 0 and not self._flooded:
            self._flooded = True
            self.close(POLICY_VIOLATION, "too many messages")
            # Not read on: the rest would cost more than it is worth. The close frame can still be read.
            self.transport.pause_reading()
        return not self._flooded

    def _cut_off_later(self) -> None:
        """A transport that closes waits for ever for a client that does not read."""
        if self._cut_off is None and self.transport.is_closing():
            self._cut_off = self.loop.call_later(self.cut_off_s, self.transport.abort)
