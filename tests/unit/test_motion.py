"""The motion gate: what is still, what is not, and what a packet's size may say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from app.cameras.motion import HEIGHT, WIDTH, MotionGate
from app.cameras.settings import MotionSettings
from app.types import BgrImage, FloatArray, GreyPicture, SourceFrame
from tests.support.fakes import make_times

FPS = 15
DEFAULTS = MotionSettings()


@dataclass(slots=True)
class Picture:
    """A surface that is all luma, and counts who looks."""

    cells: GreyPicture
    width: int = 1280
    height: int = 720
    looks: int = 0

    def luma(self, width: int, height: int) -> GreyPicture:
        assert (height, width) == self.cells.shape
        self.looks += 1
        return self.cells

    def to_bgr(self) -> BgrImage:
        raise NotImplementedError

    def release(self) -> None:
        pass


Draw = Callable[[float], FloatArray]
BACKDROP: FloatArray = np.random.default_rng(7).uniform(60, 180, (HEIGHT, WIDTH)).astype(np.float32)


def empty(at: float) -> FloatArray:
    return BACKDROP


def noisy(sigma: float) -> Draw:
    rng = np.random.default_rng(1)
    return lambda at: BACKDROP + rng.normal(0, sigma, BACKDROP.shape).astype(np.float32)


def walker(
    *, begins_at: float, ends_at: float = 1e9, speed: float = 0.5, contrast: float = 20.0, sigma: float = 0.5
) -> Draw:
    """A person far away, 5 x 9 cells (2 % of the picture), at `speed` cells a second."""
    ground = noisy(sigma)

    def draw(at: float) -> FloatArray:
        picture: FloatArray = ground(at).copy()
        if begins_at <= at < ends_at:
            left = 10 + int(speed * (at - begins_at))
            picture[14:23, left : left + 5] += contrast
        return picture

    return draw


def frame(at: float, draw: Draw, *, packet_bytes: int = 0, is_key: bool = False) -> SourceFrame[Picture]:
    cells = np.clip(draw(at), 0, 255).astype(np.uint8)
    return SourceFrame(
        pts_s=None, times=make_times(at), surface=Picture(cells), packet_bytes=packet_bytes, is_key=is_key
    )


def times(seconds: float, fps: float = FPS) -> list[float]:
    return [100 + n / fps for n in range(round(seconds * fps))]


def passed(draw: Draw, seconds: float, settings: MotionSettings = DEFAULTS, *, fps: float = FPS) -> list[float]:
    """When the frames that a gate lets through arrive, in seconds from the first frame."""
    gate = MotionGate()
    return [at - 100 for at in times(seconds, fps) if gate.admits(frame(at, lambda now: draw(now - 100)), settings)]


def between(moments: Iterable[float], begin: float, end: float) -> int:
    return sum(begin <= at < end for at in moments)


def test_all_frames_pass_until_the_scene_is_learnt_and_then_heartbeats_alone() -> None:
    moments = passed(empty, 30)
    assert between(moments, 0, 1) == FPS
    late = [at for at in moments if at > 4]
    assert len(late) == 5
    assert np.diff(late) == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.6])
def test_an_empty_scene_is_still_however_noisy(sigma: float) -> None:
    assert between(passed(noisy(sigma), 60), 5, 60) <= 12


@pytest.mark.parametrize("fps", [0.5, 2.0, 30.0])
def test_a_still_scene_is_learnt_at_any_frame_rate(fps: float) -> None:
    settings = MotionSettings(heartbeat_s=20, hold_s=1)
    assert between(passed(empty, 100, settings, fps=fps), 20, 100) <= 4


@pytest.mark.parametrize(("contrast", "speed"), [(20, 0.5), (-15, 0.5), (20, 6.0), (90, 3.0)])
def test_a_small_slow_object_passes_from_its_first_frame_on(contrast: float, speed: float) -> None:
    moments = passed(walker(begins_at=10, ends_at=15, contrast=contrast, speed=speed), 40)
    assert between(moments, 10, 15) == 5 * FPS


def test_frames_pass_for_hold_s_after_the_last_motion_and_no_longer() -> None:
    settings = MotionSettings(hold_s=3, heartbeat_s=100)
    moments = passed(walker(begins_at=10, ends_at=12, speed=6), 40, settings)
    assert between(moments, 12, 14.9) == pytest.approx(2.9 * FPS, abs=1)
    assert between(moments, 15.1, 40) == 0


def test_what_stays_becomes_part_of_the_scene() -> None:
    moments = passed(walker(begins_at=10, speed=0), 80)
    assert between(moments, 10, 12) == 2 * FPS
    assert between(moments, 60, 80) <= 5


def test_a_change_of_light_counts_once_and_is_learnt() -> None:
    def dimmed(at: float) -> FloatArray:
        lit: FloatArray = BACKDROP * np.float32(1.0 if at < 10 else 0.6)
        return lit

    moments = passed(dimmed, 40)
    assert between(moments, 10, 12) == 2 * FPS
    assert between(moments, 12.2, 40) <= 6


def test_dusk_is_no_motion() -> None:
    assert between(passed(lambda at: BACKDROP * np.float32(1 - at / 300), 60), 5, 60) <= 12


def test_a_camera_that_pans_is_never_still_though_it_was_never_seen_still() -> None:
    wide = np.random.default_rng(3).uniform(40, 200, (HEIGHT, 1000)).astype(np.float32)

    def panned(at: float) -> FloatArray:
        left = int(at * 8)
        return wide[:, left : left + WIDTH]

    moments = passed(panned, 60)
    assert len(moments) == 60 * FPS


@pytest.mark.parametrize(("sensitivity", "seen"), [(0.0, False), (0.5, False), (1.0, True)])
def test_sensitivity_moves_the_bar(sensitivity: float, seen: bool) -> None:
    settings = MotionSettings(sensitivity=sensitivity, heartbeat_s=100, hold_s=0)
    moments = passed(walker(begins_at=10, ends_at=12, contrast=5, sigma=0.1), 20, settings)
    assert (between(moments, 10, 12) > 0) is seen


def test_the_state_tells_stillness_also_while_a_heartbeat_passes() -> None:
    gate = MotionGate()
    settings = MotionSettings(heartbeat_s=0.5)
    states = [(gate.admits(frame(at, empty), settings), gate.still) for at in times(10)]
    assert (True, True) in states and (False, True) in states
    assert (False, False) not in states


# Packet sizes


def taught(sizes: Callable[[bool], int]) -> MotionGate:
    """A gate that has seen a minute of stillness and motion, with packets of these sizes."""
    gate = MotionGate()
    draw = walker(begins_at=20, ends_at=30, speed=3)
    for at in times(60):
        moving = 20 <= at - 100 < 30
        gate.admits(frame(at, lambda now: draw(now - 100), packet_bytes=sizes(moving)), DEFAULTS)
    return gate


def looks(gate: MotionGate, packet_bytes: int, *, is_key: bool = False) -> int:
    """How many of a second's frames of a still scene are looked at."""
    frames = [frame(at + 60, empty, packet_bytes=packet_bytes, is_key=is_key) for at in times(1)]
    for each in frames:
        gate.admits(each, DEFAULTS)
    return sum(each.surface.looks for each in frames)


def test_small_packets_are_still_without_a_look_once_sizes_have_told_the_truth() -> None:
    gate = taught(lambda moving: 4000 if moving else 500)
    assert looks(gate, 500) <= 3


def test_packets_say_nothing_before_both_kinds_were_seen() -> None:
    gate = MotionGate()
    for at in times(60):
        gate.admits(frame(at, empty, packet_bytes=500), DEFAULTS)
    assert looks(gate, 500) == FPS


@pytest.mark.parametrize("size", [8000, 5600])
def test_a_constant_bit_rate_is_never_believed(size: int) -> None:
    gate = taught(lambda moving: 8000)
    assert looks(gate, size) == FPS


@pytest.mark.parametrize("size", [0, 1000, 4000])
def test_a_packet_that_is_larger_than_in_stillness_is_looked_at(size: int) -> None:
    assert looks(taught(lambda moving: 4000 if moving else 500), size) == FPS


def test_keyframes_are_always_looked_at() -> None:
    assert looks(taught(lambda moving: 4000 if moving else 500), 100, is_key=True) == FPS


def test_an_object_that_small_packets_hide_is_found_within_half_a_second() -> None:
    gate = taught(lambda moving: 4000 if moving else 500)
    found = [
        at - 160
        for at in (each + 60 for each in times(2))
        if gate.admits(frame(at, walker(begins_at=0, speed=0), packet_bytes=400), DEFAULTS) and not gate.still
    ]
    assert found[0] <= 0.6
