"""What is refused before any route sees it: bodies too large, and web pages of other sites."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem

MAX_BODY_BYTES = 1_000_000
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyTooLarge(Exception):
    """Raised inside the application when a chunked body grows past the limit."""


class OriginGuard:
    """ASGI middleware.

    A browser sends `Origin` with what a page asks for; a page of another site must neither change cameras nor listen,
    and an API without tokens on a private network has no other way to tell it from its user. With tokens it is a second
    lock: no browser sends one by itself.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        """`allowed` are other sites whose pages may, as `server.cors_origins` lists them."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changing = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if changing and foreign_origin(Headers(scope=scope), self._allowed):
            refusal = problem(403, "forbidden", "the request comes from a page of another site")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Guard:
    """ASGI middleware: refuses bodies that are too large, by what they say of themselves or once they have grown so.

    The server cancels requests that a stop has waited for long enough, such as a diagnosis; they are answered too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            await _too_large()(scope, receive, send)
            return
        await self._limited(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise BodyTooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            if seen > MAX_BODY_BYTES:
                return  # whatever the application makes of the cut body, the client is told the reason
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except BodyTooLarge:
            pass
        except asyncio.CancelledError:
            # The task is the server's, and ends with us: raised again, it would be logged as an error and answered 500.
            if not started:
                await problem(503, "not_ready", "the service is stopping")(scope, receive, send)
            return
        if seen > MAX_BODY_BYTES and not started:
            await _too_large()(scope, receive, send)


def foreign_origin(headers: Headers, allowed: Collection[str] = ()) -> bool:
    """Whether a browser says that a page of another site asks, and not one of those that may."""
    origin = headers.get("origin")
    if origin is None or origin.lower() in allowed:
        return False
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:  # no page of ours has such an origin
        return True
    return place != headers.get("host", "").lower()


def _too_large() -> ASGIApp:
    return problem(413, "body_too_large", f"the body must not be larger than {MAX_BODY_BYTES} bytes")
