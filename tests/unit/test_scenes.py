"""The drawn scenes: the same again for the same seed, labelled truly, looping without a jump."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from app.simulator.casting import Actor, Pacing
from app.simulator.props import container
from app.simulator.scenes import CLASS_NAMES, DEMO_SCENES, PLACES, Place, Scene, demo_scene, truth_path, write_clip
from app.simulator.vehicles import car

SEED = 501


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.param
    return chosen


def test_same_seed_and_time_give_the_same_picture_and_boxes(place: Place) -> None:
    one, other = Scene(SEED, 320, 180, place=place), Scene(SEED, 320, 180, place=place)
    other.render(7.7)  # what was rendered before must not matter
    for a, b in zip(one.render(2.3), other.render(2.3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_gives_another_picture(place: Place) -> None:
    one, other = Scene(SEED, 320, 180, place=place), Scene(SEED + 1, 320, 180, place=place)
    assert np.abs(one.render(1.0)[0].astype(int) - other.render(1.0)[0]).mean() > 5


def test_boxes_lie_inside_the_frame_and_have_a_known_class(place: Place) -> None:
    scene = Scene(SEED, 640, 360, place=place)
    for t_s in np.arange(0, 12, 0.8):
        image, boxes, class_ids = scene.render(float(t_s))
        assert image.shape == (360, 640, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(class_ids), 4) and boxes.dtype == np.float32 and class_ids.dtype == np.int32
        assert (boxes >= 0).all() and (boxes[:, 2:] <= (640, 360)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 6).all()
        assert np.isin(class_ids, range(len(CLASS_NAMES))).all()


def test_a_period_later_everything_is_where_it_was(place: Place) -> None:
    scene = Scene(SEED, 320, 180, place=place, period_s=8.0)
    for a, b in zip(scene.render(1.25), scene.render(1.25 + 3 * 8.0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loop_closes_as_smoothly_as_any_other_step(place: Place) -> None:
    scene = Scene(SEED, 320, 180, place=place, noise=0)
    frames = [scene.render(i / 15)[0].astype(int) for i in range(180)]
    steps = [np.abs(b - a).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert steps[-1] <= 1.5 * np.median(steps[:-1]) + 0.2
    assert min(steps) > 0  # it moves


def test_a_box_follows_its_object_without_jumps() -> None:
    scene = Scene(12, 640, 360, place="street", noise=0)
    buses = []
    for i in range(12, 30):  # before that, something hides its rear
        _, boxes, class_ids = scene.render(i / 30)
        buses.append(boxes[class_ids == CLASS_NAMES.index("bus")])
    assert all(len(found) == 1 for found in buses)
    steps = np.diff(np.concatenate(buses)[:, 0])
    assert (np.abs(steps) < 20).all()
    assert np.abs(steps.sum()) > 20


def test_a_box_is_drawn_tightly_around_what_differs_from_the_empty_place() -> None:
    """Of a scene's frames, the pixels that change lie in the boxes, shadows and hidden objects apart."""
    scene = Scene(SEED, 640, 360, place="plaza", noise=0, light=1.0)
    first, last = scene.render(0.0), scene.render(0.4)
    changed = np.abs(first[0].astype(int) - last[0]).max(axis=2) > 60
    inside = np.zeros((360, 640), bool)
    for x0, y0, x1, y1 in np.concatenate([first[1], last[1]]).astype(int):
        inside[y0:y1, x0:x1] = True
    assert changed.sum() > 100
    assert (changed & inside).sum() > 0.9 * changed.sum()


def test_every_class_is_seen_somewhere_in_the_demo() -> None:
    seen: set[int] = set()
    for name in DEMO_SCENES:
        scene = demo_scene(name)
        for t_s in range(12):
            seen.update(scene.render(float(t_s))[2].tolist())
    assert {CLASS_NAMES[i] for i in seen} == set(CLASS_NAMES)


@pytest.mark.parametrize(("shift_m", "boxes_left"), [(0.0, 0), (4.0, 1)])
def test_a_box_is_around_what_can_be_seen_and_a_hidden_object_has_none(shift_m: float, boxes_left: int) -> None:
    scene, rng = Scene(SEED, 640, 360, noise=0), np.random.default_rng(1)

    def still(x: float, y: float) -> Pacing:
        return Pacing(x=x, y=y, radius_x=0, radius_y=0, offset=0, leftward=False)

    scale = scene.view.scale_at(200)
    behind = Actor((car(rng, scale),), still(320, 200), scale)
    in_front = Actor((container(rng, scale),), still(320 + shift_m * scale, 203), scene.view.scale_at(203))
    scene._actors = [in_front, behind]
    _, boxes, class_ids = scene.render(0.0)
    assert class_ids.tolist() == [CLASS_NAMES.index("car")] * boxes_left
    left_of_container = 320 + (shift_m - 3.0) * scale
    assert (abs(boxes[:, 2] - left_of_container) < 4).all()


@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("h265", ".mp4"), ("mjpeg", ".mkv")])
def test_a_clip_has_one_truth_for_each_frame(codec: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    frames = write_clip(path, Scene(SEED, 320, 180), seconds=2, fps=10, codec=codec)  # type: ignore[arg-type]
    truth = json.loads(truth_path(path).read_text())
    assert truth["frames"] == frames
    assert (truth["width"], truth["height"], truth["fps"], truth["classes"]) == (320, 180, 10, list(CLASS_NAMES))
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == len(frames) == 20
    assert [frame.time for frame in decoded] == pytest.approx([f["pts_s"] for f in frames], abs=0.002)
    assert all(len(f["boxes"]) == len(f["class_ids"]) for f in frames)


def test_a_clip_has_a_keyframe_each_gop_and_no_frames_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, Scene(SEED, 320, 180), seconds=3, fps=10, gop_s=1.0)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert [i for i, p in enumerate(packets) if p.is_keyframe] == [0, 10, 20]
    assert all(p.pts == p.dts for p in packets)


def test_a_clip_shows_the_scene_it_was_made_from(tmp_path: Path) -> None:
    path, scene = tmp_path / "clip.mp4", Scene(SEED, 320, 180, noise=0)
    write_clip(path, scene, seconds=1, fps=10)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert np.abs(decoded[5].astype(int) - scene.render(0.5)[0]).mean() < 6


def test_an_unknown_demo_scene_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        demo_scene("beach")
