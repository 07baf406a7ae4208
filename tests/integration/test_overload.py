"""The whole service at three times what it can infer: shares, ages, the API, the ladder up and down."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.cameras.capacity import refusal
from app.measure.observation import IN_CONTEXT
from app.measure.overload import Ages
from tests.support.app import API, Json, RunningApp, make_settings, running_app
from tests.support.wait import wait_until

pytestmark = pytest.mark.alone

PRIORITIES = {"a1": 1, "b2": 2, "c5": 5, "d10": 10}
BASE_S, FRAME_S = 0.01, 0.01
SECONDS = 6.0


def slow_backend() -> SyntheticBackend:
    """Room for all cameras in each batch, so that shares do not come by themselves. 133 frames a second."""
    return SyntheticBackend(SyntheticDetector(contexts=2, max_batch=4, base_s=BASE_S, frame_s=FRAME_S))


async def level(running: RunningApp) -> int:
    capacity = (await running.http.get(f"{API}/capacity")).json()
    return int(capacity["overload"]["level"])


async def answers(running: RunningApp, took_s: list[float]) -> None:
    """Ask the API all the time."""
    while True:
        for path in ("/livez", f"{API}/cameras", f"{API}/capacity", f"{API}/cameras/a1/snapshot.jpg"):
            asked_at = time.monotonic()
            assert (await running.http.get(path)).status_code == 200
            took_s.append(time.monotonic() - asked_at)
            await asyncio.sleep(0.02)


async def test_three_times_what_can_be_inferred(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = await asyncio.to_thread(make_settings, data_dir, batching={"max_age_ms": 500})
    async with running_app(settings, slow_backend()) as running:
        parts = running.parts
        for camera_id, priority in PRIORITIES.items():
            await running.register(camera_id, "fps=100", priority=priority)
        lanes = {camera_id: parts.registry.get(camera_id).lane for camera_id in PRIORITIES}
        assert await level(running) == 0

        # Up: within seconds, and everybody is told.
        await wait_until(lambda: all(lane.level == 1 for lane in lanes.values()), what="the cameras are thinned out")
        status = (await running.camera("a1"))["status"]["degradation"]
        assert (status["level"], status["name"]) == (1, "thinned")
        assert "of the frames cannot be inferred" in status["reason"]
        assert 'vidette_camera_degradation_level{camera="a1"} 1.0' in await running.metrics()
        assert "overload, level 1 (thinned)" in caplog.text
        await wait_until(lambda: parts.batcher.mailbox.strict)
        await asyncio.sleep(2)  # what is measured begins when the rates have settled

        ages, took_s = Ages(parts.hub, parts.registry.cameras()), list[float]()
        asking = asyncio.create_task(answers(running, took_s))
        before = {camera_id: lane.counts().published for camera_id, lane in lanes.items()}
        ends_at = time.monotonic() + SECONDS
        while time.monotonic() < ends_at and not asking.done():
            await asyncio.sleep(0.2)
            ages.take()
        got = {camera_id: lane.counts().published - before[camera_id] for camera_id, lane in lanes.items()}
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        # Shares follow priorities within a tenth.
        per_weight = sum(got.values()) / sum(PRIORITIES.values())
        for camera_id, priority in PRIORITIES.items():
            assert got[camera_id] == pytest.approx(per_weight * priority, rel=0.1, abs=2), got
        # Ages stay bounded: two batches of the largest size, and what a busy machine adds.
        timings = [timing for kept in ages.timings.values() for timing in kept]
        assert len(timings) > 300
        assert np.percentile([timing["total"] for timing in timings], 99) < 2e3 * (BASE_S + 4 * FRAME_S) + 100
        assert max(sum(timing[stage] for stage in IN_CONTEXT) for timing in timings) <= 1e3 * (BASE_S + 4 * FRAME_S) + 1
        # The API answers.
        assert len(took_s) > 40
        assert np.percentile(took_s, 99) < 0.5
        # What was measured at the start has been corrected by what is seen.
        assert parts.meter.rate.observed
        assert refusal(running.service.load()) is None  # 1 frame a second for each is easily left

        # Down: step by step, once the load has gone, and then nothing is dropped any more.
        for camera_id in PRIORITIES:
            await running.patch(camera_id, max_fps=10)
        await wait_until(lambda: all(lane.level == 0 for lane in lanes.values()), 40, what="the ladder is down")
        assert (await running.camera("a1"))["status"]["degradation"] is None
        assert await level(running) == 0
        dropped = {camera_id: lane.counts().dropped for camera_id, lane in lanes.items()}
        await asyncio.sleep(1)
        for camera_id, lane in lanes.items():
            now = lane.counts().dropped
            assert now["degraded"] == dropped[camera_id]["degraded"]
            assert now["rate_limit"] > dropped[camera_id]["rate_limit"]
    for lane in lanes.values():
        done = lane.counts()
        assert done.in_flight == 0
        assert done.decoded == done.published + sum(done.dropped.values())
    assert lanes["a1"].counts().dropped["degraded"] > 0


async def test_the_ladder_can_be_switched_off(data_dir: Path) -> None:
    settings = await asyncio.to_thread(make_settings, data_dir, overload={"ladder": "off"})
    async with running_app(settings, slow_backend()) as running:
        for camera_id in PRIORITIES:
            await running.register(camera_id, "fps=100")
        meter = running.parts.meter
        strained: set[float] = set()

        def four_windows() -> bool:
            if meter.window.shed_share > 0.3:
                strained.add(meter.window.seconds)
            return len(strained) >= 4

        await wait_until(four_windows, what="four seconds of overload")
        view: Json = (await running.http.get(f"{API}/capacity")).json()["overload"]
        assert view == {"ladder": "off", "level": 0, "name": "full", "reason": None, "cameras": 0}
        assert all(camera.lane.counts().dropped["degraded"] == 0 for camera in running.parts.registry.cameras())
