"""The figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from app.measure.peers.job import Seen
from app.measure.peers.race import Turn
from app.measure.peers.scoring import Sighting, agreement, boxes_by_frame, latency_growth, ratios, samples, sightings
from app.measure.peers.timeline import Timeline
from app.measure.samples import Sample
from tests.unit.test_peers_timeline import STARTED_AT, clip_of

PERSON = [10.0, 10.0, 50.0, 90.0, 0.8, 0]


def turn(results: Sequence[Seen], *, details: dict[str, object] | None = None) -> Turn:
    clip = clip_of((0, 0), (1, 1), (2, 2), (3, 3))
    return Turn(
        began_at=STARTED_AT + 1.0,
        ended_at=STARTED_AT + 3.0,
        results=results,
        timelines={"cam-0": Timeline(clip, STARTED_AT), "cam-1": Timeline(clip, STARTED_AT)},
        cpu_s=0.5,
        memory_bytes=3 * 2**20,
        simulator_cores=0.1,
        other_cores=0.0,
        frames_skipped=2,
        late_ms=1.0,
        speed=1000.0,
        details=details or {},
    )


def seen_at(at_s: float, *, picture: int = 7, camera: str = "cam-0") -> Seen:
    return Seen(camera, STARTED_AT + at_s, picture, None, [PERSON])


ALIKE = {7: [0], 8: [1], 9: [2]}


def test_latency_counts_from_the_cameras_sending() -> None:
    found = sightings(turn([seen_at(1.25), seen_at(1.45, picture=8)]), ALIKE)

    assert [one.frame for one in found] == [12, 13]
    assert [one.latency_s for one in found] == pytest.approx([0.05, 0.15])


def test_a_result_with_a_capture_time_needs_no_picture() -> None:
    found = sightings(turn([Seen("cam-1", STARTED_AT + 1.5, None, STARTED_AT + 1.1, [])]), {})

    assert [(one.frame, round(one.latency_s, 6)) for one in found] == [(11, 0.4)]


def test_only_the_measured_time_counts() -> None:
    one_turn = turn([seen_at(0.9), seen_at(1.5), seen_at(2.9), seen_at(3.0), seen_at(2.0, camera="cam-1")])

    figures = samples(one_turn, sightings(one_turn, ALIKE))

    assert figures["inferred_fps"].value == pytest.approx(1.5)
    assert (figures["camera_fps.min"].value, figures["camera_fps.max"].value) == pytest.approx((0.5, 1.0))
    assert figures["cpu_ms_per_frame"].value == pytest.approx(500 / 3)
    assert figures["memory_mib"].value == pytest.approx(3.0)


def test_a_camera_without_a_result_counts_as_none_a_second() -> None:
    one_turn = turn([seen_at(1.5)])

    assert samples(one_turn, sightings(one_turn, ALIKE))["camera_fps.min"].value == 0.0


def test_a_result_of_an_unknown_picture_counts_without_a_latency() -> None:
    one_turn = turn([seen_at(1.5), seen_at(1.6, picture=1234)])

    figures = samples(one_turn, sightings(one_turn, ALIKE))

    assert figures["inferred_fps"].value == 1.0
    assert figures["unrecognised"].value == 1.0
    assert figures["latency_ms.p99"].value == pytest.approx(300.0)


def test_the_limit_is_reported_where_it_was_measured() -> None:
    one_turn = turn([seen_at(1.5), seen_at(2.5)], details={"limit_fps": 2.0})

    assert samples(one_turn, sightings(one_turn, ALIKE))["limit_ratio"].value == pytest.approx(0.5)
    assert "limit_ratio" not in samples(turn([]), [])


@pytest.mark.parametrize("growth_s", [0.0, 0.25])
def test_latency_growth_is_the_slope_of_the_latency(growth_s: float) -> None:
    found = [Sighting(camera="cam-0", at=10.0 + n, frame=n, latency_s=0.1 + growth_s * n, boxes=[]) for n in range(5)]

    assert latency_growth(found) == pytest.approx(1e3 * growth_s)
    assert math.isnan(latency_growth(found[:1]))


def test_boxes_agree_when_class_and_place_are_the_same() -> None:
    shifted = [11.0, 10.0, 51.0, 90.0, 0.41, 0]
    elsewhere = [30.0, 10.0, 70.0, 90.0, 0.9, 0]
    other_class = [*PERSON[:5], 2]

    assert agreement({3: [PERSON]}, {3: [shifted]}).share == 1.0
    assert agreement({3: [PERSON]}, {3: [elsewhere]}).share == 0.0
    assert agreement({3: [PERSON]}, {3: [other_class]}).share == 0.0
    assert agreement({3: [PERSON]}, {3: []}).share == 0.0


def test_an_unsure_box_may_be_missing_and_may_confirm_a_sure_one() -> None:
    unsure = [*PERSON[:4], 0.39, 0]

    assert agreement({3: [unsure]}, {3: []}).boxes == 0
    assert agreement({3: [PERSON]}, {3: [unsure]}).share == 1.0


def test_boxes_are_compared_only_in_frames_that_both_saw() -> None:
    assert agreement({3: [PERSON]}, {4: []}).boxes == 0


def test_a_frame_of_a_later_loop_is_the_same_frame() -> None:
    sighting = Sighting(camera="cam-0", at=0.0, frame=9, latency_s=0.1, boxes=[PERSON])

    assert boxes_by_frame([sighting], 4) == {1: [PERSON]}


def test_ratios_are_above_one_where_we_are_better() -> None:
    def figures(fps: float, cpu_ms: float, p99_ms: float) -> dict[str, Sample]:
        values = {"inferred_fps": fps, "cpu_ms_per_frame": cpu_ms, "latency_ms.p99": p99_ms}
        return {name: Sample(value=value, unit="", better="neither") for name, value in values.items()}

    found = ratios({"ours_fp32": figures(30, 20, 100), "opencv_loop": figures(20, 50, 400)})

    assert {name: sample.value for name, sample in found.items()} == {
        "ratio.fp32.opencv_loop": 1.5,
        "cpu_ratio.fp32.opencv_loop": 2.5,
        "p99_ratio.fp32.opencv_loop": 4.0,
    }
