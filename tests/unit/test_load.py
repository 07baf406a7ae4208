"""What the service's timer measures."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.cameras.settings import CameraRegistration
from app.load import EngineRate, Memory, Window, _cgroup_free
from tests.support.app import running_service
from tests.support.wait import wait_until

FULL = Window(seconds=1.0, wanted=300, published=80, shed=220, busy=1.0)


def test_an_engine_that_is_saturated_shows_what_it_can_do() -> None:
    rate = EngineRate(100.0)
    for _ in range(30):
        rate.observe(FULL)
    assert rate.fps == pytest.approx(80.0, abs=0.1)
    assert rate.observed


def test_an_engine_that_waits_for_frames_shows_nothing() -> None:
    rate = EngineRate(100.0)
    rate.observe(Window(seconds=1.0, wanted=20, published=20, busy=0.2))
    rate.observe(Window(seconds=1.0, wanted=80, published=80, busy=0.95))  # busy, but nothing was shed
    assert (rate.fps, rate.observed) == (100.0, False)


def test_an_engine_that_does_more_than_was_measured_is_believed() -> None:
    rate = EngineRate(100.0)
    rate.observe(Window(seconds=1.0, wanted=120, published=120, busy=0.8))
    assert (rate.fps, rate.observed) == (120.0, True)


def test_memory_is_what_the_cgroup_leaves_too(tmp_path: Path) -> None:
    memory = Memory()
    memory.read()
    assert 1e6 < memory.used_bytes < 1e11
    assert memory.free_bytes > 0
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup_free(tmp_path) == 1 << 60
    (tmp_path / "memory.max").write_text("5000\n")
    assert _cgroup_free(tmp_path) == 4000
    assert _cgroup_free(tmp_path / "no-cgroup") == 1 << 60


async def test_a_camera_costs_the_cpu_time_of_its_thread_and_not_the_time_it_waits(data_dir: Path) -> None:
    async with running_service(data_dir) as service:
        parts = service.parts
        url = "rtsp://camera.test/1?fps=50&width=640&height=360"
        camera = await parts.registry.add(CameraRegistration(id="gate-1", url=url))
        before = service.load()
        assert (before.cameras, before.decode.measured) == (1, 0)
        assert before.decode.expected_cores > 0
        await wait_until(lambda: service.load().decode.measured == 1)
        load = service.load()
        assert 0 < load.decode.used_cores < 0.5  # it sleeps between its frames
        assert load.decode.expected_cores == 0
        assert load.needed_bytes >= 8 * 640 * 360
        assert 0 < camera.lane.cpu_s < time.process_time()


async def test_overload_corrects_what_the_engine_was_measured_at(data_dir: Path) -> None:
    detector = SyntheticDetector(contexts=1, max_batch=1, base_s=0.01, frame_s=0.0)
    object.__setattr__(detector.info, "capacity_fps", 1000.0)  # it was in better shape at the start
    async with running_service(data_dir, SyntheticBackend(detector), batching={"max_age_ms": 500}) as service:
        meter = service.parts.meter
        for number in range(4):
            url = f"rtsp://camera.test/{number}?fps=75"
            await service.parts.registry.add(CameraRegistration(id=f"cam-{number}", url=url))
        await wait_until(lambda: (meter.rate.fps or 0) < 400, timeout_s=20)
        assert meter.rate.observed
        assert meter.window.busy > 0.8
        assert meter.window.shed_share > 0.3


async def test_admission_is_asked_one_camera_at_a_time(data_dir: Path) -> None:
    async with running_service(data_dir) as service:
        registry, asked = service.parts.registry, []

        def admit() -> None:
            asked.append(len(registry))

        registrations = [CameraRegistration(id=f"cam-{n}", url="rtsp://camera.test/1?fps=1") for n in range(5)]
        await asyncio.gather(*(registry.add(registration, admit=admit) for registration in registrations))
        assert asked == [0, 1, 2, 3, 4]
        await registry.patch("cam-0", {"enabled": False}, admit=admit)
        await registry.patch("cam-0", {"name": "off"}, admit=admit)
        await registry.patch("cam-1", {"enabled": True}, admit=admit)  # it is already
        assert len(asked) == 5
        await registry.patch("cam-0", {"enabled": True}, admit=admit)
        assert len(asked) == 6
