"""What one camera costs in CPU time, whatever is done to save it: the same service, one camera after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.cameras.camera import Camera
from app.cameras.settings import CameraRegistration
from app.measure.figures import difference
from app.measure.observation import look, summed
from app.measure.threads import ThreadClocks
from app.measure.workload import running, subscriber, until_all_run
from app.service import Parts, Service

# Longer than three keyframes, which say that they suffice, and than the motion gate takes to learn a scene.
WARM_UP_S = 6.0
_TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraCase:
    """A camera to be measured. `options` are fields of its registration."""

    name: str
    url: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraCost:
    """What the service spent in `seconds`, without what it spends on no camera."""

    name: str
    seconds: float
    cores: float  # CPU seconds a second; may be negative by noise
    threads: Mapping[str, float]  # of them, by what the threads are for, with what the idle service spends
    decoded_fps: float
    published_fps: float
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingsRun:
    idle_cores: float  # of the service without cameras; taken off each camera's
    cameras: tuple[CameraCost, ...]


async def measure_cameras(
    service: Service,
    cases: Sequence[CameraCase],
    *,
    seconds: float,
    warm_up_s: float = WARM_UP_S,
    on_case: Callable[[str], None] = lambda name: None,
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> SavingsRun:
    """Measure the service without a camera, then with each of these alone, with one subscriber to everything."""
    async with running(service) as parts, subscriber(parts.hub):
        on_case("no camera")
        await asyncio.sleep(min(1.0, warm_up_s))  # what the start left to do
        idle_cores = (await _spent(seconds, on_tick)).process_s / seconds
        costs = []
        for case in cases:
            on_case(case.name)
            camera = await parts.registry.add(CameraRegistration(id=case.name, url=case.url, **case.options))
            await until_all_run(service, [camera])
            await asyncio.sleep(warm_up_s)
            costs.append(await _cost(parts, camera, seconds=seconds, idle_cores=idle_cores, on_tick=on_tick))
            await parts.registry.remove(case.name)
    if service.fatal is not None:
        raise service.fatal
    return SavingsRun(idle_cores=idle_cores, cameras=tuple(costs))


async def _cost(
    parts: Parts, camera: Camera[Any], *, seconds: float, idle_cores: float, on_tick: Callable[[float], None]
) -> CameraCost:
    before = look(parts, [camera])
    spent = await _spent(seconds, on_tick)
    after = look(parts, [camera])
    took_s = after.at - before.at
    a, b = before.frames[0], after.frames[0]
    return CameraCost(
        name=camera.settings.id,
        seconds=took_s,
        cores=spent.process_s / took_s - idle_cores,
        threads={group: used_s / took_s for group, used_s in spent.threads_s.items()},
        decoded_fps=(b.decoded - a.decoded) / took_s,
        published_fps=(b.published - a.published) / took_s,
        dropped=summed([difference(b.dropped, a.dropped)]),
    )


async def _spent(seconds: float, on_tick: Callable[[float], None]) -> ThreadClocks:
    """What this process spends in so many seconds; the simulator is no part of it."""
    before, ends_at = ThreadClocks.read(), time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        await asyncio.sleep(min(_TICK_S, left_s))
        on_tick(seconds - left_s)
    return ThreadClocks.read().since(before)
