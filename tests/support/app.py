"""The whole application on a free port, inside the test's own event loop, with the synthetic backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect

from app.backends.base import Backend
from app.backends.select import Choice, probe_all
from app.backends.synthetic.backend import SyntheticBackend
from app.main import create_app
from app.server import Server, listen, make_server
from app.service import Parts, Service
from app.settings import Settings, load_settings
from tests.support.wait import wait_until

Json: TypeAlias = Any
API = "/api/v1"
STREAM = f"{API}/ws/detections"
# For tests that take the fixture `shared`: they run in its loop.
on_shared = pytest.mark.asyncio(loop_scope="module")
# The fixture `start_app`.
StartApp: TypeAlias = "Callable[..., Awaitable[RunningApp]]"


def make_settings(data_dir: Path, **sections: Any) -> Settings:
    """Settings for a test: a free port, the synthetic backend; sections such as `batching={"max_size": 1}` on top."""
    overrides = {
        "data_dir": data_dir,
        "server": {"port": 0},
        "backend": {"device": "synthetic"},
        # On a busy machine no frame of a test may be too old to be inferred.
        "batching": {"max_age_ms": 60_000},
        **sections,
    }
    return load_settings(overrides=overrides, secrets_dir=data_dir / "no-secrets", environ={})


@dataclass
class RunningApp:
    """An application that serves, and clients for it."""

    app: FastAPI
    server: Server
    service: Service
    port: int
    http: httpx.AsyncClient
    task: asyncio.Task[None]
    fatal: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def parts(self) -> Parts:
        return self.service.parts

    def socket(self, query: str = "", **options: Any) -> connect:
        """A WebSocket client; use it in `async with`."""
        return connect(f"ws://127.0.0.1:{self.port}{STREAM}{query}", proxy=None, **options)

    async def register(self, camera_id: str, script: str = "fps=50", **fields: Any) -> Json:
        """Register a synthetic camera; `script` is what its source does (see app/backends/synthetic/source.py)."""
        body = {"id": camera_id, "url": f"rtsp://camera.test/{camera_id}?{script}", **fields}
        response = await self.http.post(f"{API}/cameras", json=body)
        assert response.status_code == 201, response.text
        return response.json()

    async def camera(self, camera_id: str) -> Json:
        response = await self.http.get(f"{API}/cameras/{camera_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def patch(self, camera_id: str, **fields: Any) -> Json:
        response = await self.http.patch(f"{API}/cameras/{camera_id}", json=fields)
        assert response.status_code == 200, response.text
        return response.json()

    async def remove(self, *camera_ids: str) -> None:
        for camera_id in camera_ids:
            response = await self.http.delete(f"{API}/cameras/{camera_id}")
            assert response.status_code == 204, response.text

    async def clear(self) -> None:
        """Remove every camera and wait until their threads have ended."""
        cameras = self.parts.registry.cameras()
        await self.remove(*(camera.settings.id for camera in cameras))
        for camera in cameras:
            await asyncio.wait_for(camera.ended.wait(), 10)

    async def wait_state(self, camera_id: str, state: str) -> Json:
        async def reached() -> Json:
            camera = await self.camera(camera_id)
            return camera if camera["status"]["state"] == state else None

        return await wait_until(reached, what=f"{camera_id} is {state}")

    async def wait_published(self, camera_id: str, count: int = 1) -> None:
        lane = self.parts.registry.get(camera_id).lane
        await wait_until(lambda: lane.counts().published >= count, what=f"{camera_id} has {count} results")

    async def metrics(self) -> str:
        response = await self.http.get("/metrics")
        assert response.status_code == 200, response.text
        return response.text

    async def stop(self) -> None:
        """What SIGTERM does. Idempotent."""
        self.server.should_exit = True
        await self.task


@asynccontextmanager
async def running_app(
    settings: Settings, backend: Backend[Any] | None = None, *, wait_ready: bool = True, **options: Any
) -> AsyncIterator[RunningApp]:
    """Serve on a free port until the context ends. `options` go to `create_app`."""
    fatal = asyncio.Event()
    app = await asyncio.to_thread(create_app, settings, backend, **{"on_fatal": fatal.set, **options})
    service: Service = app.state.service
    sock = await asyncio.to_thread(listen, settings.server, settings.auth)
    port = sock.getsockname()[1]
    server = await asyncio.to_thread(make_server, app, service)  # it reads certificates
    server.config.load()  # uvicorn would do it in the loop, and it reads files
    task = asyncio.create_task(server.serve(sockets=[sock]), name="uvicorn")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as http:
        running = RunningApp(app, server, service, port, http, task, fatal)
        try:
            await wait_until(lambda: server.started or task.done(), what="uvicorn has started")
            if wait_ready:
                await wait_until(lambda: service.state == "ready", what="the service is ready")
            yield running
        finally:
            await running.stop()
            sock.close()


@asynccontextmanager
async def running_service(
    data_dir: Path,
    backend: Backend[Any] | None = None,
    *,
    on_fatal: Callable[[], None] = lambda: None,
    **sections: Any,
) -> AsyncIterator[Service]:
    """The service alone, without HTTP."""
    settings = await asyncio.to_thread(make_settings, data_dir, **sections)
    availability = await asyncio.to_thread(probe_all)
    choice = Choice(backend=backend or SyntheticBackend(), reason="given by the test", availability=availability)
    service = await asyncio.to_thread(Service, settings, choice=choice)
    service.start(on_fatal)
    try:
        await wait_until(lambda: service.state == "ready", what="the service is ready")
        yield service
    finally:
        await service.stop()
