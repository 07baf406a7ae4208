"""The collector reads snapshots: of nothing, of a running service, and from another thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.auth.failures import FailureLimit
from app.cameras.settings import CameraRegistration
from app.metrics import GPU_METRICS, Metrics, _gpu_metrics, _throttle_metrics
from app.service import Service
from app.types import GpuSnapshot
from tests.support.app import running_service
from tests.support.fakes import GpuBackend, make_gpu
from tests.support.wait import wait_until


def families(metrics: Metrics) -> set[str]:
    return {family.name for family in text_string_to_metric_families(metrics.text().decode())}


def test_a_scrape_while_there_is_no_service_shows_the_process_alone() -> None:
    found = families(Metrics(lambda: None, FailureLimit(time.monotonic)))
    assert not any(name.startswith("vidette_") for name in found)
    assert "process_resident_memory_bytes" in found
    assert "python_gc_objects_collected" in found


def test_two_applications_in_a_process_do_not_collide() -> None:
    assert families(Metrics(lambda: None, FailureLimit(time.monotonic))) == families(
        Metrics(lambda: None, FailureLimit(time.monotonic))
    )


def test_a_gpu_that_tells_nothing_has_no_series() -> None:
    nothing = dict.fromkeys(field.name for field in fields(GpuSnapshot) if field.name not in ("index", "name", "uuid"))
    assert list(_gpu_metrics([])) == []
    assert list(_gpu_metrics([make_gpu(0, **nothing)])) == []
    assert {family.name for family in _gpu_metrics([make_gpu(0, **nothing), make_gpu(1)])} == set(GPU_METRICS)
    assert list(_throttle_metrics([])) == []
    assert list(_throttle_metrics([make_gpu(0, **nothing), make_gpu(1, throttle_reasons=())])) == []


async def test_readings_that_fail_are_logged_and_the_service_goes_on(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(GpuBackend):
        def gpus(self) -> tuple[GpuSnapshot, ...]:
            raise RuntimeError("no such sensor")

    async with running_service(data_dir, Broken()) as service:
        await wait_until(lambda: "the GPU's load cannot be read; it is shown no more until it can" in caplog.text)
        assert service.samples.gpus == ()
        assert service.state == "ready"


async def test_a_driver_that_hangs_delays_neither_the_service_nor_its_end(data_dir: Path) -> None:
    reading, go_on = threading.Event(), threading.Event()

    class Hanging(GpuBackend):
        def gpus(self) -> tuple[GpuSnapshot, ...]:
            reading.set()
            go_on.wait(30)
            return self.readings

    try:
        async with running_service(data_dir, Hanging(make_gpu())) as service:
            await wait_until(reading.is_set)
            began = time.monotonic()
        assert time.monotonic() - began < 15  # a reading takes 30
        assert (service.state, service.samples.gpus) == ("stopped", ())
    finally:
        go_on.set()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns a hundred times as often, so that a race does not wait for production."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(interval_s)


async def test_a_scrape_is_safe_while_cameras_and_labels_come_and_go(data_dir: Path, eager_threads: None) -> None:
    async with running_service(data_dir) as service:
        metrics = Metrics(lambda: service.running_parts, service.failures)
        done = threading.Event()

        def scrape() -> int:
            count = 0
            while not done.is_set():
                metrics.text()
                count += 1
            return count

        scraping = asyncio.create_task(asyncio.to_thread(scrape))
        try:
            await churn(service)
        finally:
            done.set()
        assert await scraping > 3


async def churn(service: Service) -> None:
    registry = service.parts.registry
    for number in range(4):
        fields = {"id": f"camera-{number}", "url": "rtsp://camera.test/1?fps=100"}
        camera = await registry.add(CameraRegistration.model_validate(fields))
        await wait_until(lambda camera=camera: camera.lane.counts().published > 0)  # type: ignore[misc]
        for label in range(1000):
            camera.lane.found[f"label-{label}"] += 1
            if label % 10 == 0:
                await asyncio.sleep(0)
        camera.restart()
        await registry.remove(camera.settings.id)
        await asyncio.wait_for(camera.ended.wait(), 10)
