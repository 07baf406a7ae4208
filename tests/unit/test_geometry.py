"""The letterbox and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.geometry import Letterbox, letterbox, to_source

sizes = st.integers(1, 4000)


def test_a_wide_frame_touches_the_sides_and_lies_at_the_top() -> None:
    box = letterbox(1280, 720, 416, 416, "top_left")
    assert (box.x, box.y, box.width, box.height) == (0, 0, 416, 234)


def test_a_wide_frame_is_centred_when_the_model_wants_that() -> None:
    box = letterbox(1920, 1080, 640, 640, "centre")
    assert (box.x, box.y, box.width, box.height) == (0, 140, 640, 360)


def test_a_tall_frame_is_centred_between_left_and_right() -> None:
    box = letterbox(720, 1280, 640, 640, "centre")
    assert (box.x, box.y, box.width, box.height) == (140, 0, 360, 640)


def test_an_odd_pixel_of_padding_goes_to_the_right() -> None:
    box = letterbox(810, 1080, 637, 640, "centre")
    assert (box.width, box.x) == (480, 78)


def test_a_size_is_rounded_to_the_nearest_pixel() -> None:
    assert letterbox(848, 464, 416, 416, "top_left").height == 228  # 227.62
    assert letterbox(768, 432, 416, 416, "top_left").height == 234  # 233.99999999999997 in floats


def test_a_small_frame_is_enlarged() -> None:
    assert letterbox(100, 50, 640, 640, "top_left").width == 640


def test_a_line_of_a_frame_keeps_a_pixel() -> None:
    assert letterbox(4000, 1, 64, 64, "centre").height == 1


@given(width=sizes, height=sizes, placement=st.sampled_from(["top_left", "centre"]))
def test_a_frame_always_lies_inside_the_input(width: int, height: int, placement: str) -> None:
    box = letterbox(width, height, 640, 384, placement)
    assert box.x >= 0 and box.y >= 0 and box.width >= 1 and box.height >= 1
    assert box.x + box.width <= 640 and box.y + box.height <= 384


@given(width=sizes, height=sizes, placement=st.sampled_from(["top_left", "centre"]))
def test_the_whole_frame_comes_back_as_the_whole_frame(width: int, height: int, placement: str) -> None:
    box = letterbox(width, height, 640, 384, placement)
    content = np.array([[box.x, box.y, box.x + box.width, box.y + box.height]], dtype=np.float32)
    back = to_source(content, box)
    assert back[0] == pytest.approx([0, 0, width, height], rel=1e-5, abs=1e-3)


def test_boxes_go_back_to_the_frame_that_they_were_found_in() -> None:
    boxes = np.array([[64, 144, 128, 208], [0, 0, 64, 64], [320, 320, 640, 640]], dtype=np.float32)
    before = boxes.copy()
    wide, tall = letterbox(1280, 720, 640, 640, "centre"), letterbox(320, 640, 640, 640, "centre")
    assert to_source(boxes[:1], wide).tolist() == [[128, 8, 256, 136]]
    assert to_source(boxes[1:], tall).tolist() == [[0, 0, 0, 64], [160, 320, 320, 640]]
    assert to_source(boxes, tall).dtype == np.float32
    assert np.array_equal(boxes, before)


def test_boxes_are_clipped_to_the_frame() -> None:
    box = letterbox(100, 100, 100, 100, "top_left")
    back = to_source(np.array([[-5, -1, 200, 101]], dtype=np.float32), box)
    assert back.tolist() == [[0, 0, 100, 100]]


def test_no_boxes_give_no_boxes() -> None:
    box = Letterbox(source_width=8, source_height=8, x=0, y=0, width=8, height=8)
    assert to_source(np.empty((0, 4), dtype=np.float32), box).shape == (0, 4)
