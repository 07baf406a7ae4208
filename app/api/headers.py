"""Headers that every response carries, refusals included, and what a page may load and do."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Answers are states of a moment, and pictures of what a camera sees: no cache keeps them.
CACHE_CONTROL = "no-store"
# For JSON, pictures and text: nothing that a browser could run.
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

# All of them, where no page is: what the server answers before an application is asked.
FOR_NO_PAGE = {**ALWAYS, "Content-Security-Policy": NOTHING, "Cache-Control": CACHE_CONTROL}


class SecurityHeaders:
    """ASGI middleware, the outermost. `policies` are the Content-Security-Policy of pages, by path."""

    def __init__(self, app: ASGIApp, *, policies: Mapping[str, str]) -> None:
        self._app = app
        self._policies = policies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = self._policies.get(scope["path"], NOTHING)
                headers.setdefault("Cache-Control", CACHE_CONTROL)
            await send(message)

        await self._app(scope, receive, with_headers)
