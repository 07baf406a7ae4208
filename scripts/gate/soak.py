"""One minute with cameras that come and go: nothing may be left of those that went."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psutil
import uvloop

from app.backends.select import choose
from app.cameras.settings import CameraRegistration
from app.logs import configure_logging
from app.measure.workload import running
from app.service import Parts, Service
from scripts.gate.clips import looped, source_clip
from scripts.gate.pipeline import gate_settings
from scripts.gate.plan import GatePlan
from scripts.gate.sampler import gpu_memory_bytes

_SECONDS = 60.0
_AT_ONCE = 16
_STAYS_S = 5.0
_PATIENCE_S = 15.0  # NVDEC opens cameras one after the other, and the first one of a process takes its time
_FPS = 30.0
_POLL_S = 0.05
# Memory that may stay: what allocators keep, not what a camera leaves. One 1080p ring is 20 MiB.
_DEVICE_MIB = 20.0
_PROCESS_MIB = 60.0


def measure(plan: GatePlan) -> dict[str, Any]:
    """Waves of cameras, each for five seconds; memory and threads after the first wave against after the last."""
    configure_logging("error")
    seconds = plan.seconds(_SECONDS)
    clip = looped(source_clip(plan), plan.folder, seconds=4 * _STAYS_S, fps=_FPS)
    settings = gate_settings(plan, media_dir=clip.parent)
    service = Service(settings, choice=choose(settings))
    return uvloop.run(_soak(service, f"file:{clip.name}", waves=max(2, round(seconds / _STAYS_S))))


async def _soak(service: Service, url: str, *, waves: int) -> dict[str, Any]:
    async with running(service) as parts:
        await _wave(parts, url, 0)
        before = await asyncio.to_thread(_resources, service.settings.backend.gpu)
        for number in range(1, waves):
            await _wave(parts, url, number)
        after = await asyncio.to_thread(_resources, service.settings.backend.gpu)
    if service.fatal is not None:
        raise service.fatal
    device, process, threads = (b - a for a, b in zip(before, after, strict=True))
    result: dict[str, Any] = {
        "cameras_seen": waves * _AT_ONCE,
        "device_growth_mib": device / 2**20,
        "process_growth_mib": process / 2**20,
        "threads_growth": threads,
    }
    if device > _DEVICE_MIB * 2**20 or process > _PROCESS_MIB * 2**20 or threads > 0:
        result["failed"] = f"something stays of every camera: {result}"
    return result


async def _wave(parts: Parts, url: str, number: int) -> None:
    names = [f"wave-{number}-{camera}" for camera in range(_AT_ONCE)]
    cameras = [await parts.registry.add(CameraRegistration(id=name, url=url)) for name in names]
    await asyncio.sleep(_STAYS_S)
    gives_up_at = time.monotonic() + _PATIENCE_S
    while silent := [camera.settings.id for camera in cameras if not camera.lane.counts().published]:
        if time.monotonic() > gives_up_at:
            break
        await asyncio.sleep(_POLL_S)
    for name in names:
        await parts.registry.remove(name)
    if silent:
        raise RuntimeError(
            f"{len(silent)} cameras showed no result in {_STAYS_S + _PATIENCE_S:g} s, {silent[0]} among them"
        )


def _resources(gpu: int) -> tuple[int, int, int]:
    """Device memory in use, this process's memory, its threads."""
    return gpu_memory_bytes(gpu), int(psutil.Process().memory_info().rss), threading.active_count()
