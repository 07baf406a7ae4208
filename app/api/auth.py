"""Who may come in: every request and every WebSocket passes here, before its body is read and its route is known."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from re import Pattern
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import answer, problem
from app.auth.rules import ANYBODY, Need, Principal, check, principal
from app.auth.tokens import SENTENCES, Failure
from app.errors import AppError, Forbidden, NotReady, TooManyFailures, Unauthorized
from app.logs import RepeatFilter
from app.service import Service

logger = logging.getLogger("vidette.auth")
UNAUTHORIZED, FORBIDDEN, TRY_AGAIN_LATER = 4401, 4403, 1013
_KEY = "vidette.principal"


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks. Raises `Forbidden` on a route that is open to everybody and so has nobody."""
    found = connection.scope.get(_KEY)
    if not isinstance(found, Principal):
        raise Forbidden("nobody was asked who they are")
    return found


def _principal(request: Request) -> Principal:
    return principal_of(request)


PrincipalDep: TypeAlias = Annotated[Principal, Depends(_principal)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A path of the table, and what each of its methods needs."""

    pattern: Pattern[str]
    needs: dict[str, Need]


class Table:
    """The rules by path, matched as the router matches its routes."""

    def __init__(self, rules: Mapping[str, Need]) -> None:
        self._rules = rules
        self._paths: dict[str, Path] = {}
        for line, need in rules.items():
            method, _, path = line.partition(" ")
            if path not in self._paths:
                self._paths[path] = Path(pattern=compile_path(path)[0], needs={})
            self._paths[path].needs[method] = need

    def find(self, path: str) -> tuple[dict[str, Need], str | None] | None:
        """What each method of this path needs, and the camera in it; None for a path that there is not."""
        for each in self._paths.values():
            match = each.pattern.match(path)
            if match is not None:
                return each.needs, match.groupdict().get("camera_id")
        return None

    def check_complete(self, routes: Iterable[BaseRoute]) -> None:
        """Raise `AssertionError` for a route without a rule, or a rule without a route."""
        lines = {f"{method} {route.path}" for route in _each(routes) for method in _methods(route)}
        if missing := sorted(lines - set(self._rules)):
            raise AssertionError(f"{', '.join(missing)}: say in app/auth/rules.py who may do this")
        if left := sorted(set(self._rules) - lines):
            raise AssertionError(f"{', '.join(left)}: app/auth/rules.py has a rule for a route that there is not")


def _each(routes: Iterable[BaseRoute]) -> Iterable[Any]:
    for route in routes:
        included = getattr(route, "original_router", None)  # how newer versions of FastAPI keep an included router
        if included is None:
            yield route
        else:
            yield from _each(included.routes)


def _methods(route: Any) -> set[str]:
    methods = getattr(route, "methods", None)
    return {"WEBSOCKET"} if methods is None else set(methods) - {"HEAD"}  # asked as GET


class Access:
    """ASGI middleware: authenticates, then authorises by the table; what is not in the table is not reached.

    Nothing else decides who may call a route. Routes that show several cameras filter them by `PrincipalDep`.
    """

    def __init__(self, app: ASGIApp, *, service: Service, table: Table) -> None:
        self._app = app
        self._service = service
        self._table = table
        if not any(isinstance(each, RepeatFilter) for each in logger.filters):
            logger.addFilter(RepeatFilter())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_socket = scope["type"] == "websocket"
        text = bearer(Headers(scope=scope))
        if is_socket:
            in_query = take_token(scope)
            text = in_query if text is None else text
        method = "WEBSOCKET" if is_socket else "GET" if scope["method"] == "HEAD" else scope["method"]
        needs, camera_id = self._table.find(scope["path"]) or ({}, None)
        need = needs.get(method)
        try:
            if need != "open":
                scope[_KEY] = asking = await self._asking(need, text, _address(scope))
                if need is not None:
                    check(need, asking, camera_id)
        except AppError as exc:
            await _refuse(exc, is_socket, scope, receive, send)
            return
        if need is not None:
            # The server itself keeps the body of an answer to HEAD back: its own scope is another one.
            await self._app(scope if is_socket else {**scope, "method": method}, receive, send)
        elif is_socket:
            await send({"type": "websocket.close"})
        elif self._has_slash_too_many(scope["path"]):
            # Without a scheme and a host: those that we know of may be others than the client's, behind a proxy.
            query = scope["query_string"].decode("latin-1")
            where = f"{quote(scope['path'][:-1])}{'?' if query else ''}{query}"
            await RedirectResponse(where, status_code=307)(scope, receive, send)
        elif set(needs) - {"WEBSOCKET"}:
            refusal = problem(405, "method_not_allowed", "Method Not Allowed")
            refusal.headers["Allow"] = ", ".join(sorted(set(needs) - {"WEBSOCKET"}))
            await refusal(scope, receive, send)
        else:
            await problem(404, "not_found", "Not Found")(scope, receive, send)

    def _has_slash_too_many(self, path: str) -> bool:
        return path.endswith("/") and self._table.find(path) is None and self._table.find(path[:-1]) is not None

    async def _asking(self, need: Need | None, text: str | None, address: str) -> Principal:
        """Who asks. Raises `Unauthorized`, `TooManyFailures`, or `NotReady` while no token is known yet."""
        settings = self._service.settings
        metrics_token = settings.metrics.token if need == "metrics" else None
        if metrics_token is not None and text is not None:
            # The bytes that were sent, whatever they mean.
            given, wanted = text.encode("latin-1", "replace"), metrics_token.get_secret_value().encode()
            if hmac.compare_digest(given, wanted):
                return ANYBODY
        if settings.auth.mode == "none":
            if metrics_token is not None:
                self._failed("missing" if text is None else "unknown", address)
                raise Unauthorized("metrics: the bearer token is missing or wrong")
            return ANYBODY
        tokens = self._service.tokens
        if tokens is None:
            raise NotReady("the service is starting; ask again when /readyz answers 200")
        found = await tokens.recognise(text)
        if isinstance(found, str):
            self._failed(found, address)
            raise Unauthorized(SENTENCES[found])
        return principal(found)

    def _failed(self, reason: Failure, address: str) -> None:
        try:
            self._service.failures.failed(address, reason)
        except TooManyFailures:
            logger.warning("%s shows too many wrong tokens; they are not looked at for a while", address)
            raise
        if reason != "missing":
            logger.warning("%s was refused: %s", address, SENTENCES[reason])


def bearer(headers: Headers) -> str | None:
    """The token in the header Authorization, None when there is none of the scheme Bearer.

    Two of them are read as one, which is no token: somebody between may have checked the other one.
    """
    scheme, _, text = ", ".join(headers.getlist("authorization")).strip().partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None


def take_token(scope: Scope) -> str | None:
    """The query's `token`, and the query without it: a query is what servers, proxies and we ourselves log."""
    parts = scope["query_string"].split(b"&")
    named = [(unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")), part) for part in parts]
    given = [part.partition(b"=")[2] for name, part in named if name == b"token"]
    scope["query_string"] = b"&".join(part for name, part in named if name != b"token")
    return unquote_to_bytes(given[0]).decode("latin-1") or None if given else None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "a local client"


async def _refuse(exc: AppError, is_socket: bool, scope: Scope, receive: Receive, send: Send) -> None:
    if is_socket:
        # Accepted first: a browser's page learns the code of a close, and nothing of a refused handshake.
        codes = {Unauthorized: UNAUTHORIZED, Forbidden: FORBIDDEN}
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": codes.get(type(exc), TRY_AGAIN_LATER), "reason": str(exc)})
        return
    response = answer(exc)
    if isinstance(exc, TooManyFailures):
        response.headers["Retry-After"] = str(math.ceil(exc.wait_s))
    await response(scope, receive, send)
