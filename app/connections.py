"""Uvicorn's HTTP connection, with bounds: how many there are, how long a request may take to come, how large it is."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.headers import FOR_NO_PAGE
from app.settings import ServerSettings
from app.websocket import StreamProtocol

HEADERS_S = 10.0  # from the first byte, or from the connection, to the end of the headers
BODY_S = 30.0  # from there to the end of the body
TAKE_S = 60.0  # without the client taking anything of an answer
FAREWELL_S = 5.0  # for a client to read why its connection ends
MAX_HEADER_BYTES = 64 * 1024
MAX_SENT_BYTES = 4_000_000  # of one request, whatever way it is cut into chunks; bodies are bounded before
Reason: TypeAlias = Literal[
    "too_many", "too_many_of_client", "slow_headers", "slow_body", "slow_reader", "too_large", "malformed"
]
REASONS: tuple[Reason, ...] = Reason.__args__  # type: ignore[attr-defined]
_ANSWERS: dict[Reason, tuple[int, str, str]] = {
    "too_many": (503, "too_many_connections", "there are too many connections already"),
    "too_many_of_client": (503, "too_many_connections", "there are too many connections from your address already"),
    "slow_headers": (408, "request_timeout", f"the request's headers did not come within {HEADERS_S:g} s"),
    "slow_body": (408, "request_timeout", f"the request's body did not come within {BODY_S:g} s"),
    "too_large": (431, "headers_too_large", f"the request's headers are larger than {MAX_HEADER_BYTES} bytes"),
    "malformed": (400, "invalid_request", "this is not a valid HTTP request"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStats:
    """A reading: connections now, WebSockets included, and those that were ended early, by reason."""

    open: int
    ended: dict[Reason, int]


class Connections:
    """The places for connections, in all and for each client's address. Event loop only."""

    def __init__(self, most: int, most_of_client: int) -> None:
        self._most = most
        self._most_of_client = most_of_client
        self._clients: Counter[str] = Counter()
        self._open = 0
        self._ended: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))

    @property
    def stats(self) -> ConnectionStats:
        return ConnectionStats(open=self._open, ended=dict(self._ended))

    def enter(self, client: str) -> Reason | None:
        """Take a place, or say why there is none."""
        if self._open >= self._most:
            return "too_many"
        if self._clients[client] >= self._most_of_client:
            return "too_many_of_client"
        self._open += 1
        self._clients[client] += 1
        return None

    def leave(self, client: str) -> None:
        self._open -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def ended(self, reason: Reason) -> None:
        self._ended[reason] += 1


def places(settings: ServerSettings) -> tuple[int, int]:
    """How many connections there may be, in all and of a client: half of the file descriptors are the cameras'."""
    most = min(settings.max_connections, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
    return most, min(most, settings.max_connections_per_client)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's, which knows no bound but the keep-alive's: trickling headers would hold a connection for ever.

    Nothing bounds how long an answer takes to be made, and a WebSocket is on its own once it is one.
    """

    def __init__(self, *arguments: Any, places: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places
        self._place: str | None = None  # the address that holds one
        self._reading: Literal["nothing", "headers", "body"] = "nothing"
        self._over = False  # whatever comes now, nothing is answered
        self._sent_bytes = 0  # by the client, of this request
        self._late: asyncio.TimerHandle | None = None
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        client = self.client[0] if self.client else ""
        refused = self._places.enter(client)
        if refused is not None:
            self._end(refused)
            transport.close()
            return
        self._place = client
        self._expect("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect("nothing")
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over or self.transport.is_closing():
            return
        if self._reading == "nothing":
            self._expect("headers")
        self._sent_bytes += len(data)
        super().data_received(data)
        if (self._reading == "headers" and self._sent_bytes > MAX_HEADER_BYTES) or self._sent_bytes > MAX_SENT_BYTES:
            self._end("too_large")

    def send_400_response(self, msg: str) -> None:
        self._end("malformed")

    def handle_websocket_upgrade(self) -> None:
        self._expect("nothing")
        super().handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        if isinstance(protocol, StreamProtocol):
            protocol.on_lost = self._leave

    # What the parser says

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._reading != "headers":
            self._expect("headers")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._expect("body")

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._expect("nothing")

    # How fast the client reads

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._cut_off is None:
            self._cut_off = self.loop.call_later(TAKE_S, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._cut_off is not None and not self._over and not self.transport.is_closing():
            self._cut_off.cancel()
            self._cut_off = None

    # Inside

    def _expect(self, part: Literal["nothing", "headers", "body"]) -> None:
        """Begin to wait for a part of a request."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._reading = part
        if part != "body":
            self._sent_bytes = 0
        if part == "headers":
            self._late = self.loop.call_later(HEADERS_S, self._end, "slow_headers")
        elif part == "body":
            self._late = self.loop.call_later(BODY_S, self._end, "slow_body")

    def _end(self, reason: Reason) -> None:
        """Answer, unless an answer is under way, and say no more; what still comes is not heard.

        Closed at once, the system would throw away the answer together with what the client has sent since.
        """
        if self._over or self.transport.is_closing():
            return
        self._over = True
        self._places.ended(reason)
        self._expect("nothing")
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_answer(reason))
        if reason == "too_large":
            self.transport.pause_reading()  # it would cost what it is refused for
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._cut_off = self.loop.call_later(FAREWELL_S, self.transport.abort)

    def _abort(self) -> None:
        self._places.ended("slow_reader")
        self.transport.abort()

    def _leave(self) -> None:
        if self._place is not None:
            self._places.leave(self._place)
            self._place = None


def _answer(reason: Reason) -> bytes:
    status, code, detail = _ANSWERS[reason]
    phrase = HTTPStatus(status).phrase
    title = phrase[:1] + phrase[1:].lower()
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail})
    headers = {"content-type": "application/problem+json", "content-length": len(body), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **FOR_NO_PAGE}.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n{body}".encode()
