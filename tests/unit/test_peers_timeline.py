"""Which frame a result is of, and when the camera sent it."""

from __future__ import annotations

import pytest

from app.measure.peers.timeline import Timeline
from app.simulator.camera import GRID_S
from app.simulator.clip import Clip
from app.simulator.rtp import RTP_CLOCK_HZ, media_frame

STEP = RTP_CLOCK_HZ // 10  # 10 frames a second
STARTED_AT = 1000.0


def clip_of(*order: tuple[int, int]) -> Clip:
    """A clip of frames in decoding order, each with its decoding and its presentation time in frames."""
    frames = tuple(
        media_frame([bytes(20)], decode_ticks=decode * STEP, present_ticks=present * STEP, is_key=number == 0)
        for number, (decode, present) in enumerate(order)
    )
    return Clip(
        name="clip",
        codec="h264",
        width=64,
        height=64,
        payload_type=96,
        parameter_sets=(),
        frames=frames,
        duration_ticks=len(frames) * STEP,
        lead_ticks=max(frame.present_ticks - frame.decode_ticks for frame in frames),
    )


@pytest.fixture
def timeline() -> Timeline:
    return Timeline(clip_of((0, 0), (1, 1), (2, 2), (3, 3)), STARTED_AT)


def test_frames_are_sent_at_the_clips_rate_through_all_loops(timeline: Timeline) -> None:
    assert [timeline.sent_at(number) - STARTED_AT for number in (0, 1, 4, 9)] == pytest.approx([0, 0.1, 0.4, 0.9])


def test_a_frame_is_sent_at_the_simulators_next_tick() -> None:
    timeline = Timeline(clip_of((0, 0), (1, 1)), STARTED_AT + GRID_S / 2)

    assert timeline.sent_at(0) == pytest.approx(STARTED_AT + GRID_S)


def test_a_frame_with_b_frames_behind_it_is_sent_before_it_is_shown() -> None:
    # Decoded I0 P3 B1 B2: shown 0 1 2 3, and captured so that none is captured after it was sent.
    timeline = Timeline(clip_of((0, 0), (1, 3), (2, 1), (3, 2)), STARTED_AT)

    assert [timeline.sent_at(number) - STARTED_AT for number in range(4)] == pytest.approx([0, 0.2, 0.3, 0.1])
    assert all(timeline.captured_at(number) <= timeline.sent_at(number) for number in range(8))


@pytest.mark.parametrize("number", [0, 3, 4, 17])
def test_a_frame_is_known_by_its_capture_time(timeline: Timeline, number: int) -> None:
    assert timeline.by_capture(timeline.captured_at(number) + 0.004) == number


def test_the_first_frame_is_the_newest_showing_that_was_sent(timeline: Timeline) -> None:
    at = timeline.sent_at(9) + 0.05

    assert timeline.by_picture([1], at, None) == 9
    assert timeline.by_picture([2], at, None) == 6


def test_a_picture_that_was_not_sent_yet_is_of_no_frame(timeline: Timeline) -> None:
    assert timeline.by_picture([3], timeline.sent_at(2), None) is None


def test_frames_that_look_alike_follow_each_other(timeline: Timeline) -> None:
    at = timeline.sent_at(11)

    assert timeline.by_picture([1, 2], at, 5) == 6
    assert timeline.by_picture([1, 2], at, 6) == 9


def test_frames_go_on_over_the_seam_of_the_loop(timeline: Timeline) -> None:
    assert timeline.by_picture([0], timeline.sent_at(8), 7) == 8


def test_a_picture_of_no_frame_is_not_recognised(timeline: Timeline) -> None:
    assert timeline.by_picture([], timeline.sent_at(8), None) is None
    assert timeline.by_picture([], timeline.sent_at(8), 3) is None
