"""Clips of a scene that stands still."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from app.measure.retime import clip_fps
from app.measure.still import StillScene, keyframe_interval_s, still_clip
from tests.support.clips import write_test_clip


def test_still_scene_has_new_noise_in_every_frame_and_nothing_else() -> None:
    picture = np.full((90, 160, 3), 100, np.uint8)
    scene = StillScene(picture)
    first, second = scene.render(0.0)[0].astype(float), scene.render(0.1)[0].astype(float)
    assert not np.array_equal(first, second)
    assert abs(first.mean() - 100) < 0.5
    assert 1.0 < (first - second).std() < 5.0


def test_still_clip_shows_the_first_picture_of_a_clip_at_its_rate(tmp_path: Path) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", width=160, height=90, fps=5)
    still = still_clip(clip, tmp_path / "still.mp4")
    assert clip_fps(still) == 5
    assert keyframe_interval_s(still) == 1.0
    with av.open(str(clip)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="gray").astype(float)
    with av.open(str(still)) as container:
        shown = [frame.to_ndarray(format="gray").astype(float) for frame in container.decode(video=0)]
    assert len(shown) == 60
    assert all(abs(picture - first).mean() < 6 for picture in (shown[0], shown[30], shown[-1]))


@pytest.mark.parametrize(("gop", "seconds"), [(5, 0.5), (20, 2.0)])
def test_keyframe_interval_is_the_longest_of_the_loop(tmp_path: Path, gop: int, seconds: float) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", width=160, height=90, fps=10, gop=gop)
    assert keyframe_interval_s(clip) == seconds
