"""When a benchmark's cameras send, and how fast they must to saturate an engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.measure.figures import LimitRun, Usage
from app.measure.load import MOST_FPS, Load, saturating_fps

LOAD = Load(cameras=8, clip="clip.mp4", fps=15.0)
RUN = LimitRun(
    seconds=1.5,
    inferred_fps=100.0,
    decoded_fps=60.0,
    decode_cpu_ms=2.0,
    infer_cpu_ms=10.0,
    usage=Usage(process=2.0, simulator=0.0, others=None),
)


def test_aligned_cameras_send_at_the_same_instant() -> None:
    assert set(replace(LOAD, phase="aligned").phases_s) == {0.0}


def test_random_phases_are_the_same_for_the_same_seed() -> None:
    drawn = replace(LOAD, phase="random", seed=3)
    assert drawn.phases_s == replace(drawn, fps=30.0).phases_s
    assert drawn.phases_s != replace(drawn, seed=4).phases_s
    assert all(0 <= phase_s < 1 for phase_s in drawn.phases_s)


def test_spread_phases_lie_apart() -> None:
    first, *others = sorted(LOAD.phases_s)
    gaps = [b - a for a, b in zip([first, *others], [*others, first + 1.0], strict=True)]
    assert min(gaps) > 0.3 / LOAD.cameras


def test_saturating_cameras_send_a_quarter_more_than_is_inferred_beside_decoding_them() -> None:
    fps = 4 * saturating_fps(RUN, cores=2, cameras=4)
    left_to_infer_s = 2 - fps * 0.002
    assert fps == pytest.approx(1.25 * left_to_infer_s / 0.010)


def test_saturating_rate_of_a_camera_is_bounded() -> None:
    assert saturating_fps(replace(RUN, infer_cpu_ms=0.01), cores=64, cameras=1) == MOST_FPS
