"""The demo's clips: drawn once, kept, drawn anew when they would look different."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from app.commands.clips import clip_version, demo_clips
from app.commands.progress import Progress
from app.errors import ConfigError
from app.measure.retime import clip_fps, retimed
from tests.support.clips import read_frame_number, write_test_clip

SHORT_S = 0.2


def test_clips_are_drawn_once_and_kept(tmp_path: Path) -> None:
    with Progress() as progress:
        first = demo_clips(tmp_path / "clips", progress, seconds=SHORT_S)
        drawn_at = {name: clip.stat().st_mtime_ns for name, clip in first.items()}
        second = demo_clips(tmp_path / "clips", progress, seconds=SHORT_S)
    assert sorted(first) == ["plaza", "shop", "street", "yard"]
    assert first == second
    assert drawn_at == {name: clip.stat().st_mtime_ns for name, clip in second.items()}


def test_clips_of_an_earlier_version_are_removed(tmp_path: Path) -> None:
    old = tmp_path / "clips" / "0123456789ab"
    old.mkdir(parents=True)
    with Progress() as progress:
        demo_clips(tmp_path / "clips", progress, seconds=SHORT_S)
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [clip_version(SHORT_S)]


def test_clips_have_another_version_at_another_length() -> None:
    assert clip_version(1.0) != clip_version(2.0)


def test_clips_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Progress() as progress, pytest.raises(ConfigError, match="data_dir: the demo's clips cannot be written"):
        demo_clips(tmp_path / "file" / "clips", progress, seconds=SHORT_S)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_retimed_clip_shows_the_same_pictures_at_another_rate(tmp_path: Path, b_frames: int) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", fps=10, seconds=1.0, b_frames=b_frames)
    fast = retimed(clip, tmp_path / "fast.mp4", fps=25)
    assert clip_fps(fast) == pytest.approx(25)
    with av.open(str(fast)) as container:
        numbers = [read_frame_number(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    assert numbers == list(range(10))


def test_rate_of_a_file_that_is_no_video_is_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    with pytest.raises(ConfigError, match=r"notes\.mp4 cannot be read"):
        clip_fps(text)
