"""Whether one more camera fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.cameras.capacity import Load, refusal, room_for

QUIET = Load(
    cameras=2,
    decode_cores=0.5,
    cores=2,
    inferred_fps=30.0,
    capacity_fps=100.0,
    memory_used_bytes=1,
    memory_free_bytes=1,
)


def test_a_camera_is_taken_while_there_is_room() -> None:
    assert refusal(QUIET) is None


def test_a_camera_is_refused_when_its_share_of_the_engine_is_below_one_frame_a_second() -> None:
    reason = refusal(replace(QUIET, cameras=100))
    assert reason is not None
    assert "100.0 frames a second" in reason
    assert "101 cameras" in reason
    assert "0.99 each" in reason
    assert refusal(replace(QUIET, cameras=99)) is None


def test_a_camera_is_refused_when_decoding_fills_the_cores() -> None:
    reason = refusal(replace(QUIET, decode_cores=1.81))
    assert reason is not None
    assert "1.8 of 2 cores" in reason
    assert refusal(replace(QUIET, decode_cores=1.79)) is None


def test_the_first_camera_is_never_refused_for_decoding() -> None:
    assert refusal(replace(QUIET, cameras=0, decode_cores=2.0)) is None


def test_nothing_measured_refuses_nothing_and_promises_nothing() -> None:
    unknown = replace(QUIET, cameras=0, capacity_fps=None, decode_cores=0.0)
    assert refusal(unknown) is None
    assert room_for(unknown) is None


@pytest.mark.parametrize(
    ("load", "room"),
    [
        (QUIET, 5),  # decoding: 1.3 cores left at 0.25 each
        (replace(QUIET, decode_cores=0.0), 98),
        (replace(QUIET, capacity_fps=3.0), 1),
        (replace(QUIET, capacity_fps=1.0), 0),
        (replace(QUIET, capacity_fps=None, decode_cores=1.0), 1),
        (replace(QUIET, decode_cores=2.0), 0),
    ],
)
def test_room_is_what_the_scarcer_resource_leaves(load: Load, room: int) -> None:
    assert room_for(load) == room


def test_room_and_refusal_agree() -> None:
    for cameras in range(1, 120):
        load = replace(QUIET, cameras=cameras, decode_cores=0.01 * cameras)
        assert (room_for(load) == 0) == (refusal(load) is not None), cameras
