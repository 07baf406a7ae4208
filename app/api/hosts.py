"""By which names the service may be called: the guard against DNS rebinding."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem
from app.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, without asking DNS. Pure."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def guarded_names(settings: Settings) -> frozenset[str] | None:
    """The names that a Host header may have besides loopback's; None: any.

    Without tokens, what keeps a listener on loopback to its own user is that nobody else reaches it. A page of another
    site does, once its name's address has become 127.0.0.1: its requests then carry that name.
    """
    names = frozenset(name.lower() for name in settings.server.allowed_hosts)
    if names:
        return names
    on_loopback = is_loopback(settings.server.host) or not settings.auth.explicit
    return frozenset() if settings.auth.mode == "none" and on_loopback else None


def host_name(header: str) -> str | None:
    """The name in a Host header, lower case and without its port; None when there is none."""
    try:
        return urlsplit(f"//{header}").hostname if header else None
    except ValueError:
        return None


class HostGuard:
    """ASGI middleware: refuses requests under another name."""

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._allowed(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            sentence = "the service is not called by this name; server.allowed_hosts lists others than localhost"
            await problem(403, "forbidden", sentence)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 4403, "reason": "the service is not called by this name"})

    def _allowed(self, headers: Headers) -> bool:
        hosts = headers.getlist("host")
        names = [host_name(host) for host in hosts]
        return bool(names) and all(name is not None and (is_loopback(name) or name in self._names) for name in names)
