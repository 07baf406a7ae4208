"""Where a WebSocket client's messages go: to the server's own outlet, or to ASGI where it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from app.results.subscription import Outlet
from app.results.wire import Message
from app.websocket import OUTLET


def outlet_of(socket: WebSocket) -> Outlet | None:
    """The server's own, which needs no task for each client; None when the server does not offer one."""
    found: Outlet | None = socket.scope.get("extensions", {}).get(OUTLET)
    return found


async def until_gone(socket: WebSocket) -> int:
    """The code that the connection ends with. What clients say is read and forgotten, so that a close is seen."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        pass
    return int(message.get("code") or 1005)


class AsgiOutlet:
    """Sends by ASGI, in a task of its own. Implements `Outlet`."""

    def __init__(self, socket: WebSocket) -> None:
        self.ended: tuple[int, str] | None = None  # what we closed with
        self._socket = socket
        self._unsent: list[Message] = []
        self._some = asyncio.Event()
        self._over = asyncio.Event()
        self._call_writable: Callable[[], None] = lambda: None

    @property
    def blocked(self) -> bool:
        return bool(self._unsent)

    def write(self, messages: Sequence[Message]) -> bool:
        self._unsent.extend(messages)
        self._some.set()
        return False

    def close(self, code: int, reason: str) -> None:
        self.ended = self.ended or (code, reason)
        self._over.set()

    def on_writable(self, call: Callable[[], None]) -> None:
        self._call_writable = call

    async def run(self) -> int:
        """Send until `close` is called, which closes the socket, or the client is gone; the code that it ends with."""
        leaving = asyncio.ensure_future(until_gone(self._socket))
        waits: tuple[Any, ...] = (leaving, self._send(), self._over.wait())
        tasks = [asyncio.ensure_future(each) for each in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.ended is not None:
            await self._socket.close(*self.ended)
            return self.ended[0]
        return leaving.result() if not leaving.cancelled() else 1006

    async def _send(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            for message in self._unsent:
                as_text = message.form == "json"
                sent = (
                    self._socket.send_text(message.data.decode()) if as_text else self._socket.send_bytes(message.data)
                )
                try:
                    await sent
                except (WebSocketDisconnect, RuntimeError):
                    return
            self._unsent = []
            self._call_writable()
