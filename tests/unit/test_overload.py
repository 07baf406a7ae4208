"""The ladder applied to cameras: rates, efforts, and what the cameras are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.cameras.lane import Lane
from app.cameras.source import DecodeEffort
from app.load import Window
from app.overload import Overload
from app.types import StreamInfo
from tests.support.fakes import FakeClock

OVER = Window(wanted=100, published=36, shed=64, busy=1.0, decode_cores=0.1, process_cores=1.0)
FINE = Window(wanted=36, published=36, shed=0, busy=0.5, decode_cores=0.1, process_cores=0.3)
BEHIND = Window(wanted=100, published=36, shed=64, busy=1.0, decode_cores=1.9, process_cores=2.0, lag_s=1.0)


@dataclass
class FakeCamera:
    """As much of a camera as the ladder sees: it delivers `fps` and counts how often it was paced."""

    name: str
    priority: int
    fps: float = 25.0
    max_fps: float | None = None
    running: bool = True
    paced: list[tuple[float | None, DecodeEffort]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lane = Lane(self.name)
        self.settings = SimpleNamespace(id=self.name, priority=self.priority, max_fps=self.max_fps)
        self.info = StreamInfo(codec="h264", width=640, height=360, declared_fps=self.fps, decoder="software")

    def pace(self) -> None:
        self.paced.append((self.lane.thin_fps, self.lane.effort))


class Fleet:
    def __init__(self, *cameras: FakeCamera) -> None:
        self.cameras, self.clock = cameras, FakeClock()
        self.mailbox = SimpleNamespace(strict=False)
        registry = SimpleNamespace(cameras=lambda: list(cameras))
        self.overload = Overload(
            cast("Any", registry), cast("Any", self.mailbox), cores=2, clock=self.clock, wall=lambda: 1e9
        )

    def observe(self, window: Window, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            for camera in self.cameras:
                for number in range(int(camera.fps)):
                    camera.lane.decoded_rate.mark(self.clock.now - 1 + number / camera.fps)
            self.overload.observe(window)


def test_cameras_are_thinned_out_to_three_times_what_they_are_due() -> None:
    low, high = FakeCamera("low", 1, fps=50.0), FakeCamera("high", 5, fps=50.0)
    modest = FakeCamera("modest", 5, max_fps=2.0)
    fleet = Fleet(low, high, modest)
    fleet.observe(OVER, 1)
    assert low.lane.thin_fps is None
    fleet.observe(OVER, 4)
    # 36 frames a second: modest wants 2, the others share 34 as 1 : 5; three times 28 is more than a camera sends.
    assert low.lane.thin_fps == pytest.approx(3 * 34 / 6)
    assert (high.lane.thin_fps, modest.lane.thin_fps) == (None, None)
    assert fleet.mailbox.strict
    for camera in fleet.cameras:
        assert camera.lane.degradation is not None
        assert (camera.lane.level, camera.lane.degradation.name) == (1, "thinned")
        assert camera.lane.effort is DecodeEffort.FULL
        assert len(camera.paced) == 1


def test_a_rate_that_hardly_changes_is_left_alone() -> None:
    camera = FakeCamera("a", 1, fps=100.0)
    fleet = Fleet(camera, FakeCamera("b", 10, fps=100.0))
    fleet.observe(OVER, 5)
    before = camera.lane.thin_fps
    assert before is not None
    fleet.observe(Window(wanted=100, published=38, shed=62, busy=1.0, decode_cores=0.1, process_cores=1.0), 20)
    assert camera.lane.thin_fps == before
    assert len(camera.paced) == 1
    fleet.observe(Window(wanted=100, published=60, shed=40, busy=1.0, decode_cores=0.1, process_cores=1.0), 20)
    assert camera.lane.thin_fps == pytest.approx(before * 60 / 36, rel=0.2)


def test_decoding_with_less_work_begins_with_low_priorities_and_everything_comes_back() -> None:
    low, high = FakeCamera("low", 1), FakeCamera("high", 10)
    fleet = Fleet(low, high)
    fleet.observe(BEHIND, 5)
    assert (low.lane.effort, high.lane.effort) == (DecodeEffort.LIGHT, DecodeEffort.FULL)
    assert (fleet.overload.state.degraded, fleet.overload.state.light) == (2, 1)
    fleet.observe(BEHIND, 30)
    assert (low.lane.effort, high.lane.effort) == (DecodeEffort.KEYFRAMES, DecodeEffort.KEYFRAMES)
    assert fleet.overload.state.name == "keyframes_only"
    fleet.observe(FINE, 120)
    for camera in (low, high):
        assert camera.lane.degradation is None
        assert camera.paced[-1] == (None, DecodeEffort.FULL)
    assert (fleet.overload.state.level, fleet.overload.state.reason) == (0, None)
    assert not fleet.mailbox.strict


def test_a_camera_that_does_not_run_is_not_thinned_out_and_takes_nothing_of_the_others() -> None:
    down, up = FakeCamera("down", 10, running=False), FakeCamera("up", 1, fps=200.0)
    fleet = Fleet(down, up)
    fleet.observe(OVER, 5)
    assert down.lane.thin_fps is None
    assert up.lane.thin_fps == pytest.approx(3 * 36)
