"""Cameras that come and go leave nothing behind: real RTSP, a service process as a user starts it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil
import pytest

from app.simulator.process import SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = pytest.mark.alone


def come_and_go(service: ServeProcess, url: str, times: int) -> None:
    with httpx.Client(base_url=f"{service.url}/api/v1", timeout=10) as client:
        for number in range(times):
            client.post("/cameras", json={"id": f"guest-{number}", "url": url}).raise_for_status()
            deadline = time.monotonic() + 20
            while not client.get(f"/cameras/guest-{number}").json()["status"]["frames"]["published"]:
                assert time.monotonic() < deadline, service.log()
                time.sleep(0.02)
            client.delete(f"/cameras/guest-{number}").raise_for_status()


def test_a_hundred_cameras_that_come_and_go_leave_no_thread_file_or_memory(tmp_path: Path) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", width=640, height=360, fps=25, seconds=2, gop=1)
    with SimulatorProcess([clip], cameras=2) as simulator, ServeProcess(tmp_path / "data", environ=SETTLED) as service:
        service.register(id="resident", url=simulator.url("cam0"))
        service.wait_running("resident")
        come_and_go(service, simulator.url("cam1"), 20)  # pools and caches fill once
        process = psutil.Process(service.process.pid)
        time.sleep(1.0)
        threads, descriptors, memory = process.num_threads(), process.num_fds(), process.memory_info().rss

        come_and_go(service, simulator.url("cam1"), 100)

        # The last camera's thread and our last connection take a moment to end.
        wait_in_thread(lambda: process.num_threads() <= threads, what=f"there are {threads} threads again")
        wait_in_thread(lambda: process.num_fds() <= descriptors, what=f"there are {descriptors} descriptors again")
        grown = process.memory_info().rss - memory
        assert grown < 8e6, f"{grown / 1e6:.1f} MB more"
        assert service.get("/api/v1/cameras/resident")["status"]["restarts"] == 0
        assert 'camera="guest' not in httpx.get(f"{service.url}/metrics").text
