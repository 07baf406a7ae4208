"""The endless media clock of a looping clip."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from app.simulator.clip import Clip
from app.simulator.player import ClipPlayer
from app.simulator.rtp import media_frame

STEP = 3600


def clip_of(presentation: list[int], *, name: str = "clip") -> Clip:
    """A clip whose i-th frame in decoding order is shown at `presentation[i]` frame times."""
    frames = tuple(
        media_frame(
            [b"\x80\xe0" + bytes(10) + b"x"], decode_ticks=index * STEP, present_ticks=place * STEP, is_key=index == 0
        )
        for index, place in enumerate(presentation)
    )
    return Clip(
        name=name,
        codec="h264",
        width=320,
        height=240,
        payload_type=96,
        parameter_sets=(),
        frames=frames,
        duration_ticks=len(frames) * STEP,
        lead_ticks=max(frame.present_ticks - frame.decode_ticks for frame in frames),
    )


PLAIN = clip_of([0, 1, 2, 3])
WITH_B_FRAMES = clip_of([0, 3, 1, 2, 6, 4, 5])


@given(st.integers(1, 60))
def test_both_clocks_run_on_evenly_over_the_seam(count: int) -> None:
    for clip in (PLAIN, WITH_B_FRAMES):
        player = ClipPlayer(clip)
        taken = [player.take() for _ in range(count * len(clip.frames))]
        assert [due.due_ticks for due in taken] == [index * STEP for index in range(len(taken))]
        assert sorted(due.present_ticks for due in taken) == [index * STEP for index in range(len(taken))]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_changes_of_the_clip_never_show_two_frames_at_once_or_go_back(counts: list[int]) -> None:
    player = ClipPlayer(WITH_B_FRAMES)
    parts: list[list[int]] = []
    dues: list[int] = []
    for index, count in enumerate(counts):
        taken = [player.take() for _ in range(count)]
        parts.append([due.present_ticks for due in taken])
        dues += [due.due_ticks for due in taken]
        player.swap(PLAIN if index % 2 else WITH_B_FRAMES)
    shown = [ticks for part in parts for ticks in part]
    assert len(set(shown)) == len(shown)
    assert dues == sorted(set(dues))
    played = [part for part in parts if part]
    assert all(max(before) < min(after) for before, after in itertools.pairwise(played))


def test_swapped_clip_starts_with_its_first_frame() -> None:
    player = ClipPlayer(PLAIN)
    player.take()
    other = clip_of([0, 1], name="other")
    player.swap(other)
    assert player.take().frame is other.frames[0]
    assert player.clip is other


def test_next_frame_is_known_before_it_is_taken() -> None:
    player = ClipPlayer(PLAIN)
    for _ in range(9):
        assert player.due_ticks == player.take().due_ticks
