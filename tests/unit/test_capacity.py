"""Whether one more camera fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.cameras.capacity import ASSUMED_CORES, CameraCost, DecodeCost, Load, StreamKind, decode_cost, refusal, room_for

HD = StreamKind(codec="h264", width=1920, height=1080, decoder="software")
SD = StreamKind(codec="h264", width=640, height=360, decoder="software")
COST = DecodeCost(used_cores=0.5, expected_cores=0.0, needed_cores=0.25, measured=2)
QUIET = Load(
    cameras=2,
    decode=COST,
    cores=2,
    inferred_fps=30.0,
    capacity_fps=100.0,
    memory_used_bytes=1,
    memory_free_bytes=8 << 30,
    needed_bytes=32 << 20,
)


def test_a_camera_is_taken_while_there_is_room() -> None:
    assert refusal(QUIET) is None


def test_a_camera_is_refused_when_it_would_leave_too_little_of_the_engine_to_each() -> None:
    reason = refusal(replace(QUIET, cameras=100))
    assert reason is not None
    assert "100.0 frames a second" in reason
    assert "101 cameras" in reason
    assert "0.99 each" in reason
    assert refusal(replace(QUIET, cameras=99)) is None
    assert refusal(replace(QUIET, cameras=20, least_fps=5.0)) is not None
    assert refusal(replace(QUIET, cameras=19, least_fps=5.0)) is None


def test_a_camera_is_refused_when_its_decoding_finds_no_core() -> None:
    reason = refusal(replace(QUIET, decode=replace(COST, used_cores=1.6)))
    assert reason == (
        "decode: one more camera needs 0.25 cores, 0.2 cores are left: 2 cameras take 1.60 of 2 cores, "
        "and above 90% they would fall behind"
    )
    assert refusal(replace(QUIET, decode=replace(COST, used_cores=1.54))) is None


def test_a_camera_is_refused_when_memory_is_short() -> None:
    reason = refusal(replace(QUIET, memory_free_bytes=150 << 20))
    assert reason == "memory: one more camera needs 32 MiB, 22 MiB are left"


def test_a_camera_is_refused_when_the_gpu_s_decoders_are_full() -> None:
    load = replace(QUIET, nvdec_load=0.8, nvdec_cameras=4)
    assert refusal(load) == "nvdec: one more camera needs 0.2 of the GPU's decoders, 0.1 of the GPU's decoders are left"
    assert refusal(replace(load, nvdec_load=0.6)) is None


def test_a_camera_is_refused_while_others_are_decoded_with_less_work() -> None:
    assert "2 of 2 cameras are decoded with less work" in (refusal(replace(QUIET, degraded=2)) or "")


def test_the_first_camera_is_refused_only_by_an_engine_that_is_too_slow_for_it() -> None:
    alone = replace(QUIET, cameras=0, decode=replace(COST, needed_cores=9.0))
    assert refusal(alone) is None
    assert refusal(replace(alone, capacity_fps=None)) is None
    assert refusal(replace(alone, capacity_fps=0.5)) is not None


@pytest.mark.parametrize(
    ("load", "room"),
    [
        (QUIET, 5),  # decoding: 1.3 cores left at 0.25 each
        (replace(QUIET, decode=replace(COST, needed_cores=1e-4)), 98),
        (replace(QUIET, capacity_fps=3.0), 1),
        (replace(QUIET, capacity_fps=2.0), 0),
        (replace(QUIET, memory_free_bytes=(128 + 70) << 20), 2),
        (replace(QUIET, degraded=1), 0),
    ],
)
def test_room_is_what_the_scarcest_resource_leaves(load: Load, room: int) -> None:
    assert room_for(load) == room


def test_room_and_refusal_agree() -> None:
    for cameras in range(1, 120):
        decode = DecodeCost(used_cores=0.016 * cameras, expected_cores=0.0, needed_cores=0.016, measured=cameras)
        load = replace(QUIET, cameras=cameras, decode=decode)
        assert (room_for(load) == 0) == (refusal(load) is not None), cameras


def test_a_camera_that_is_not_measured_yet_costs_what_its_kind_costs() -> None:
    measured = [CameraCost(kind=HD, cores=0.3), CameraCost(kind=SD, cores=0.1)]
    cost = decode_cost([*measured, CameraCost(kind=HD, cores=None)])
    assert cost.used_cores == pytest.approx(0.4)
    assert cost.expected_cores == pytest.approx(0.3)
    assert cost.measured == 2
    unknown = decode_cost([*measured, CameraCost(kind=None, cores=None)]).with_unknown(2)
    assert unknown.expected_cores == pytest.approx(3 * 0.2)
    assert unknown.needed_cores == pytest.approx(0.2)


def test_a_burst_of_registrations_does_not_outrun_the_first_measurement() -> None:
    taken = 0
    while refusal(replace(QUIET, cameras=taken, capacity_fps=None, decode=decode_cost([]).with_unknown(taken))) is None:
        taken += 1
    assert taken == int(0.9 * 2 / ASSUMED_CORES)
    cost = decode_cost([CameraCost(kind=HD, cores=0.3)])
    taken = 1
    while refusal(replace(QUIET, cameras=taken, decode=cost.with_unknown(taken - 1))) is None:
        taken += 1
    assert taken == 6
