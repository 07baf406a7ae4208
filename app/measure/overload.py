"""The service at several times what the machine can infer: shares, ages, the API's answers, and what gives way.

The whole application serves on a free port of loopback; its cameras are in another process (or synthetic), and so is
the client that asks the API while everything is overloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.backends.base import Backend
from app.cameras.camera import Camera
from app.cameras.ladder import LEVELS
from app.cameras.settings import CameraRegistration
from app.cameras.shares import Demand, dues
from app.errors import AppError
from app.main import create_app
from app.measure.figures import Percentiles, difference, percentiles
from app.measure.observation import IN_CONTEXT, LedgerCheck, Snapshot, check_ledgers, look, summed
from app.measure.threads import ThreadClocks
from app.measure.workload import subscriber, until_all_run
from app.results.hub import ResultHub
from app.server import listen, make_server
from app.service import Parts, Service
from app.settings import Settings

PRIORITIES = (1, 2, 5, 10)
_TICK_S = 0.1
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """How the service is overloaded."""

    urls: Mapping[str, str]  # of the cameras, by id
    priorities: Mapping[str, int]
    warm_up_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a camera got."""

    camera_id: str
    priority: int
    offered_fps: float  # decoded
    inferred_fps: float
    due_fps: float  # by its priority, of all that was inferred; at most what it offers
    age_p99_ms: float

    @property
    def off(self) -> float:
        """How far the camera is from its due, as a share of it; negative: it got less."""
        return self.inferred_fps / self.due_fps - 1 if self.due_fps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadRun:
    """What was seen in `seconds` of overload."""

    seconds: float
    shares: tuple[Share, ...]
    age_ms: Percentiles  # from a packet's arrival to its result's message
    batch_ms: Percentiles  # what a result's batch took in its context
    decode_ms: Percentiles
    waited_batches: Percentiles  # a result's age, less its decoding, in times of its own batch
    api_ms: Mapping[str, Percentiles]  # by path
    api_all_ms: Percentiles
    dropped: Mapping[str, int]
    levels: Mapping[str, int]  # cameras by level of degradation, at the end
    threads_cores: Mapping[str, float]
    process_cores: float
    ledger: LedgerCheck

    @property
    def offered_fps(self) -> float:
        return sum(share.offered_fps for share in self.shares)

    @property
    def inferred_fps(self) -> float:
        return sum(share.inferred_fps for share in self.shares)

    @property
    def age_bound_ms(self) -> float:
        """What the p99 of ages may be: two batch times and decoding, each at its own p99."""
        return 2 * self.batch_ms.p99 + self.decode_ms.p99

    @property
    def worst_off(self) -> float:
        return max(abs(share.off) for share in self.shares)


class Ages:
    """The age of every result from now on, by camera, if `take` is called often enough to miss none."""

    def __init__(self, hub: ResultHub[Any], cameras: Sequence[Camera[Any]]) -> None:
        self._hub = hub
        self._seen = {camera.settings.id: 0 for camera in cameras}
        self.timings: dict[str, list[Mapping[str, float]]] = {camera.settings.id: [] for camera in cameras}
        self.take()
        for kept in self.timings.values():
            kept.clear()

    def take(self) -> None:
        history = self._hub.history
        for camera_id, seen in self._seen.items():
            for result in history.newest(camera_id, limit=history.size, since_seq=seen or None):
                self.timings[camera_id].append(result.message["timing_ms"])
                self._seen[camera_id] = result.seq


async def measure_overload(
    settings: Settings,
    backend: Backend[Any],
    plan: OverloadPlan,
    *,
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> OverloadRun:
    """Serve, load, wait for the warm-up, measure. Raises whatever ended the service."""
    async with serving(settings, backend) as (service, port), subscriber(service.parts.hub):
        parts = service.parts
        registrations = [
            CameraRegistration(id=name, url=url, priority=plan.priorities[name]) for name, url in plan.urls.items()
        ]
        cameras = [await parts.registry.add(registration) for registration in registrations]
        await until_all_run(service, cameras)
        await asyncio.sleep(plan.warm_up_s)
        run = await _measure(plan, parts, cameras, port, on_tick)
        at_the_end = [camera.lane.counts() for camera in cameras]
    if service.fatal is not None:
        raise service.fatal
    return run(check_ledgers(at_the_end, [camera.lane.counts() for camera in cameras]))


async def _measure(
    plan: OverloadPlan, parts: Parts, cameras: Sequence[Camera[Any]], port: int, on_tick: Callable[[float], None]
) -> Callable[[LedgerCheck], OverloadRun]:
    ages, before, clocks = Ages(parts.hub, cameras), look(parts, cameras), ThreadClocks.read()
    first = cameras[0].settings.id
    paths = ("/livez", "/api/v1/cameras", "/api/v1/capacity", f"/api/v1/cameras/{first}/snapshot.jpg", "/metrics")
    asking = asyncio.create_task(ask_from_outside(port, plan.seconds, paths), name="asking")
    done_s = 0.0
    while not asking.done():
        await asyncio.wait({asking}, timeout=_TICK_S)
        ages.take()
        done_s += _TICK_S
        on_tick(min(done_s, plan.seconds))
    after, spent = look(parts, cameras), ThreadClocks.read().since(clocks)
    ages.take()
    api_ms = asking.result()
    levels: Counter[str] = Counter(LEVELS[camera.lane.level] for camera in cameras)
    return lambda ledger: overload_run(
        plan, before, after, ages.timings, api_ms=api_ms, spent=spent, levels=levels, ledger=ledger
    )


def overload_run(
    plan: OverloadPlan,
    before: Snapshot,
    after: Snapshot,
    timings: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    api_ms: Mapping[str, Sequence[float]],
    spent: ThreadClocks,
    levels: Mapping[str, int],
    ledger: LedgerCheck,
) -> OverloadRun:
    """The figures of the time between two snapshots. Pure."""
    seconds, names = after.at - before.at, list(plan.urls)
    pairs = dict(zip(names, zip(before.frames, after.frames, strict=True), strict=True))
    offered = {name: (b.decoded - a.decoded) / seconds for name, (a, b) in pairs.items()}
    inferred = {name: (b.published - a.published) / seconds for name, (a, b) in pairs.items()}
    demands = {name: Demand(fps=offered[name], priority=plan.priorities[name]) for name in names}
    due = dues(demands, sum(inferred.values()))
    every = [timing for kept in timings.values() for timing in kept]
    in_context = [sum(timing[stage] for stage in IN_CONTEXT) for timing in every]
    waited = [
        (timing["total"] - timing["decode"]) / max(took, 1e-3) for timing, took in zip(every, in_context, strict=True)
    ]
    return OverloadRun(
        seconds=seconds,
        shares=tuple(
            Share(
                camera_id=name,
                priority=plan.priorities[name],
                offered_fps=offered[name],
                inferred_fps=inferred[name],
                due_fps=due[name],
                age_p99_ms=percentiles([timing["total"] for timing in timings[name]]).p99,
            )
            for name in names
        ),
        age_ms=percentiles([timing["total"] for timing in every]),
        batch_ms=percentiles(in_context),
        decode_ms=percentiles([timing["decode"] for timing in every]),
        waited_batches=percentiles(waited),
        api_ms={path: percentiles(took) for path, took in api_ms.items()},
        api_all_ms=percentiles([each for took in api_ms.values() for each in took]),
        dropped=summed(difference(b.dropped, a.dropped) for a, b in pairs.values()),
        levels=dict(levels),
        threads_cores={name: used_s / seconds for name, used_s in spent.threads_s.items()},
        process_cores=spent.process_s / seconds,
        ledger=ledger,
    )


async def ask_from_outside(port: int, seconds: float, paths: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds of each answer, by path, as another process sees them."""
    command = ("-m", "app.measure.asking", str(port), f"{seconds:g}", *paths)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us
    )
    try:
        text, _ = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode:
        raise AppError(f"the process that asks the API ended with code {child.returncode}")
    answers: dict[str, list[float]] = json.loads(text)
    return answers


@contextlib.asynccontextmanager
async def serving(settings: Settings, backend: Backend[Any]) -> AsyncIterator[tuple[Service, int]]:
    """The application on `settings.server.port`, with the port that it got."""
    app = await asyncio.to_thread(create_app, settings, backend, on_fatal=lambda: None)
    service: Service = app.state.service
    sock = await asyncio.to_thread(listen, settings.server, settings.auth)
    server = make_server(app, service, signals=False)
    task = asyncio.create_task(server.serve(sockets=[sock]), name="uvicorn")
    try:
        while service.state == "starting" and not task.done():
            await asyncio.wait({task}, timeout=_POLL_S)
        if service.fatal is not None:
            raise service.fatal
        yield service, sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        sock.close()
