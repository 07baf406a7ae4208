"""The ASGI application. Its lifespan owns the `Service`."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from app import __version__
from app.api import cameras, detections, health, problems, stream, system
from app.api.common import Problem
from app.api.guard import Guard
from app.backends.base import Backend
from app.backends.select import Choice, probe_all
from app.metrics import Metrics
from app.service import Service
from app.settings import Settings, load_settings
from app.tracing import Tracing


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
        responses={"default": {"description": "a problem document", "model": Problem}},
    )
    app.state.service = service
    app.state.stand_still_s = stand_still_s
    app.state.metrics = Metrics(lambda: service.running_parts)
    app.add_middleware(Guard)
    problems.install(app)
    for room in (cameras, detections, system, health, stream):
        app.include_router(room.router)
    page = files("app.web").joinpath("index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def console() -> HTMLResponse:
        return HTMLResponse(page)

    return app
