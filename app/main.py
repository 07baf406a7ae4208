"""The ASGI application. Its lifespan owns the `Service`."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import cameras, detections, health, pages, problems, stream, system
from app.api.auth import Access, Table
from app.api.common import Problem
from app.api.guard import Guard, OriginGuard
from app.api.headers import SecurityHeaders
from app.api.hosts import HostGuard, guarded_names
from app.api.openapi import document
from app.auth.rules import RULES
from app.backends.base import Backend
from app.backends.select import Choice, probe_all
from app.metrics import Metrics
from app.service import Service
from app.settings import Settings, load_settings
from app.tracing import Tracing

# For the pages that `server.cors_origins` names. They send a token, never a cookie.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["Authorization", "Content-Type"],
    "expose_headers": ["Location", "Retry-After", "WWW-Authenticate", "X-Frame-Seq", "X-Captured-At"],
    "max_age": 600,
}


def _end_process() -> None:
    signal.raise_signal(signal.SIGTERM)


def create_app(
    settings: Settings | None = None,
    backend: Backend[Any] | None = None,
    *,
    on_fatal: Callable[[], None] = _end_process,
    stand_still_s: float = stream.STAND_STILL_S,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Build the application. `backend` replaces the one that the settings would choose.

    When the running service breaks, the error is kept in `app.state.service.fatal` and `on_fatal` is called, by
    default a SIGTERM to ourselves: a crash then closes as cleanly as a stop. A WebSocket client that takes nothing for
    `stand_still_s` is closed. `tracing` replaces what the environment asks for.
    """
    settings = settings or load_settings()
    choice = (
        None if backend is None else Choice(backend=backend, reason="given by the caller", availability=probe_all())
    )
    service = Service(settings, choice=choice, tracing=tracing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start(on_fatal)
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Vidette",
        version=__version__,
        summary="Multi-camera RTSP inference",
        lifespan=lifespan,
        docs_url=None,  # pages of ours, with a policy of their own
        redoc_url=None,
        responses={"default": {"description": "a problem document", "model": Problem}},
    )
    app.state.service = service
    app.state.stand_still_s = stand_still_s
    app.state.metrics = Metrics(lambda: service.running_parts, service.failures)
    problems.install(app)
    for room in (cameras, detections, system, health, stream):
        app.include_router(room.router)
    shown = pages.read_pages()
    app.include_router(pages.router_of(shown))
    table = Table(RULES)
    table.check_complete(app.routes)
    app.openapi = document(app, settings.auth.mode)  # type: ignore[method-assign]
    # The last one added is the first that a request meets.
    app.add_middleware(Guard)
    app.add_middleware(Access, service=service, table=table)
    app.add_middleware(OriginGuard, allowed=settings.server.cors_origins)
    names = guarded_names(settings)
    if names is not None:
        app.add_middleware(HostGuard, names=names)
    if settings.server.cors_origins:
        app.add_middleware(CORSMiddleware, **CORS, allow_origins=settings.server.cors_origins)
    app.add_middleware(SecurityHeaders, policies={path: page.policy for path, page in shown.items()})
    return app
