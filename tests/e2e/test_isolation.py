"""Cameras do not disturb each other: real RTSP, the shipped model, a service process as a user starts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.simulator.process import SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.serve_process import ServeProcess

pytestmark = pytest.mark.alone

GOOD = [f"good-{number}" for number in range(8)]
WINDOW_S = 10.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "street.mp4"
    write_test_clip(path, width=1280, height=720, fps=15, seconds=4, gop=15)
    return path


@pytest.fixture
def simulator(clip: Path) -> Iterator[SimulatorProcess]:
    with SimulatorProcess([clip], cameras=10) as simulator:
        yield simulator


def rates(service: ServeProcess) -> tuple[dict[str, float], dict[str, float]]:
    """(decoded, published) frames a second of each camera over a window."""
    before, at = service.frames(), time.monotonic()
    time.sleep(WINDOW_S)  # the measurement's window: frames are counted over it
    after, span_s = service.frames(), time.monotonic() - at
    decoded = {name: (after[name]["decoded"] - before[name]["decoded"]) / span_s for name in GOOD}
    published = {name: (after[name]["published"] - before[name]["published"]) / span_s for name in GOOD}
    return decoded, published


def test_eight_cameras_keep_their_rate_beside_one_that_is_mute_and_one_that_flaps(
    tmp_path: Path, simulator: SimulatorProcess
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with ServeProcess(tmp_path / "data", environ={"HOME": str(home)}) as service:
        for number, name in enumerate(GOOD):
            service.register(id=name, url=simulator.url(f"cam{number}"))
        service.wait_running(*GOOD)
        alone, published_alone = rates(service)

        simulator.set_fault("cam8", "mute")
        simulator.set_fault("cam9", "flap=3")
        service.register(id="mute", url=simulator.url("cam8"))
        service.register(id="flapping", url=simulator.url("cam9"))
        service.wait_running("flapping")
        memory = service.memory_bytes()
        beside, published_beside = rates(service)

        assert min(alone.values()) > 14, alone
        assert min(beside[name] / alone[name] for name in GOOD) >= 0.97, (alone, beside)
        assert sum(published_beside.values()) / sum(published_alone.values()) >= 0.97
        cameras = {camera["id"]: camera["status"] for camera in service.get("/api/v1/cameras")}
        assert cameras["mute"]["state"] in ("connecting", "retrying")
        assert cameras["flapping"]["restarts"] >= 1
        for frames in service.frames().values():
            assert frames["decoded"] == frames["published"] + sum(frames["dropped"].values()) + frames["in_flight"]
            assert 0 <= frames["in_flight"] <= 8
        assert service.memory_bytes() - memory < 30e6
        assert service.terminate() == 0
        assert "Traceback" not in service.log()
        assert not list(home.iterdir()), "the service writes outside its data_dir"
