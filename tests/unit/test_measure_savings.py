"""What cameras cost in CPU time, one after the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.backends.select import Choice
from app.backends.synthetic.backend import SyntheticBackend
from app.measure.savings import CameraCase, measure_cameras
from app.service import Service
from app.settings import load_settings

URL = "rtsp://synthetic/a?fps=50"


def test_each_camera_is_measured_alone_and_without_what_the_idle_service_costs(tmp_path: Path) -> None:
    settings = load_settings(overrides={"data_dir": tmp_path, "backend": {"device": "synthetic"}}, environ={})
    service = Service(settings, choice=Choice(backend=SyntheticBackend(), reason="a test", availability=()))
    cases = [
        CameraCase(name="full", url=URL, options={}),
        CameraCase(name="slow", url=URL, options={"max_fps": 5.0}),
    ]
    told: list[str] = []

    run = asyncio.run(measure_cameras(service, cases, seconds=0.4, warm_up_s=0.0, on_case=told.append))

    assert told == ["no camera", "full", "slow"]
    assert [cost.name for cost in run.cameras] == ["full", "slow"]
    full, slow = run.cameras
    assert full.published_fps > 2 * slow.published_fps > 0
    assert slow.dropped["rate_limit"] > 0
    assert full.dropped["rate_limit"] == 0
    for cost in run.cameras:
        assert sum(cost.threads.values()) == pytest.approx(cost.cores + run.idle_cores, abs=1e-2)
