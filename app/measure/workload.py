"""The service under load: its whole pipeline in this process, its cameras in another one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.backends.base import Backend, OnProgress, unwatched
from app.cameras.camera import Camera
from app.cameras.settings import CameraRegistration
from app.cameras.source import FrameSource, SourceRequest
from app.errors import AppError
from app.inference.detector import Detector
from app.measure.observation import Latencies, LedgerCheck, ServiceFigures, check_ledgers, look, service_figures
from app.measure.usage import UsageMeter
from app.results.hub import ResultHub
from app.results.subscription import Interest
from app.service import Parts, Service
from app.types import Availability, GpuSnapshot

T = TypeVar("T")
START_S = 30.0
_POLL_S = 0.05
_TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlan:
    """How the service is loaded."""

    urls: Mapping[str, str]  # of the cameras, by id
    warm_up_s: float
    seconds: float
    simulator_pid: int | None = None  # None: the cameras cost no process of their own
    options: Mapping[str, Any] = field(default_factory=dict)  # of every camera: max_fps, motion ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRun:
    figures: ServiceFigures
    ledger: LedgerCheck


class OpenedBackend:
    """A backend whose detector is made by the caller's function, so that others can measure the same one."""

    def __init__(self, backend: Backend[Any], open_detector: Callable[[], Detector[Any]]) -> None:
        self.name = backend.name
        self._backend = backend
        self._open_detector = open_detector

    def probe(self) -> Availability:
        return self._backend.probe()

    def open_source(self, request: SourceRequest) -> FrameSource[Any]:
        return self._backend.open_source(request)

    def open_detector(self, on_progress: OnProgress = unwatched) -> Detector[Any]:
        return self._open_detector()

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        return self._backend.gpus()


async def measure_service(
    service: Service, plan: WorkloadPlan, *, on_tick: Callable[[float], None] = lambda done_s: None
) -> WorkloadRun:
    """Run the service with the plan's cameras and one subscriber to everything, and measure it after the warm-up.

    Raises `AppError` when a camera does not run within 30 s, and whatever ended the service.
    """
    async with running(service) as parts, subscriber(parts.hub):
        registrations = [CameraRegistration(id=name, url=url, **plan.options) for name, url in plan.urls.items()]
        cameras = [await parts.registry.add(registration) for registration in registrations]
        await until_all_run(service, cameras)
        await asyncio.sleep(plan.warm_up_s)
        figures = await _measure(plan, parts, cameras, on_tick)
        at_the_end = [camera.lane.counts() for camera in cameras]
    if service.fatal is not None:
        raise service.fatal
    return WorkloadRun(figures=figures, ledger=check_ledgers(at_the_end, [camera.lane.counts() for camera in cameras]))


async def _measure(
    plan: WorkloadPlan, parts: Parts, cameras: Sequence[Camera[Any]], on_tick: Callable[[float], None]
) -> ServiceFigures:
    latencies = Latencies(parts.hub, cameras)
    meter = await asyncio.to_thread(UsageMeter, plan.simulator_pid)
    before = look(parts, cameras)
    ends_at = time.monotonic() + plan.seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        await asyncio.sleep(min(_TICK_S, left_s))
        latencies.take()
        on_tick(plan.seconds - left_s)
    after = look(parts, cameras)
    reading = await asyncio.to_thread(meter.read)
    latencies.take()
    return service_figures(before, after, latencies, cameras, reading=reading, rss_start_bytes=meter.rss_bytes)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Parts]:
    """Run a service that is stopped when the context ends. Raises what ended it before it was ready."""
    service.start(lambda: None)
    try:
        while service.state == "starting":
            await asyncio.sleep(_POLL_S)
            if service.fatal is not None:
                raise service.fatal
        yield service.parts
    finally:
        await service.stop()


@contextlib.asynccontextmanager
async def subscriber(hub: ResultHub[Any]) -> AsyncIterator[None]:
    """Take every message as a WebSocket would, so that results are serialised."""

    async def take() -> None:
        with hub.subscribed(Interest(mode="all")) as subscription:
            while True:
                await subscription.next()

    task = asyncio.create_task(take(), name="bench:subscriber")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_all_run(service: Service, cameras: Sequence[Camera[Any]]) -> None:
    """Until every camera has shown a result."""
    ends_at = time.monotonic() + START_S
    while waiting := [camera for camera in cameras if not camera.lane.counts().published]:
        if service.fatal is not None:
            raise service.fatal
        if time.monotonic() > ends_at:
            status = waiting[0].status
            reason = status.error.message if status.error else f"it is {status.state}"
            raise AppError(f"camera {status.camera_id} showed no result within {START_S:g} s: {reason}")
        await asyncio.sleep(_POLL_S)


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """On the event loop that the service has in production."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
