"""Frames into the batch buffer: where they lie, in which colours, and what is around them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from app.backends.cpu.preprocess import Preprocessor
from app.backends.ffmpeg.surface import HostSurface
from app.inference.colour import yuv_to_rgb
from app.inference.model import ModelSpec

SPEC = ModelSpec(
    name="m",
    path=Path("m.onnx"),
    sha256="",
    family="yolox",
    input_width=64,
    input_height=64,
    colour="bgr",
    letterbox="top_left",
    pad=114,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    classes=("person",),
    licence=None,
    input_name="images",
    output_names=("output",),
    dynamic_batch=False,
)
# Primaries, so that every entry of a colour matrix matters.
COLOURS = [(30, 30, 200), (30, 200, 30), (200, 30, 30), (220, 220, 220), (16, 16, 16)]


def _stripes(width: int, height: int) -> NDArray[np.uint8]:
    """A BGR picture of five colours side by side."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    for number, colour in enumerate(COLOURS):
        image[:, number * width // 5 : (number + 1) * width // 5] = colour
    return image


def _yuv(image: NDArray[np.uint8], pixels: str, matrix: Colorspace, colour_range: ColorRange) -> HostSurface:
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
        format=pixels, dst_colorspace=matrix, dst_color_range=colour_range
    )
    frame.colorspace, frame.color_range = matrix, colour_range
    return HostSurface(frame)


def _middles(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.int64]:
    """The pixel in the middle of every stripe of a content of this size."""
    return image[height // 2, [(2 * number + 1) * width // 10 for number in range(5)]].astype(np.int64)


def test_the_frame_lies_at_the_top_left_and_padding_around_it() -> None:
    preprocessor = Preprocessor(SPEC, 1)
    (box,) = preprocessor.write([HostSurface.from_bgr(np.zeros((40, 80, 3), dtype=np.uint8))])
    assert (box.x, box.y, box.width, box.height) == (0, 0, 64, 32)
    assert not preprocessor.images[0, :32].any()
    assert (preprocessor.images[0, 32:] == 114).all()


def test_the_frame_lies_in_the_centre_with_the_models_own_padding() -> None:
    preprocessor = Preprocessor(replace(SPEC, letterbox="centre", pad=0), 1)
    preprocessor.write([HostSurface.from_bgr(np.full((40, 80, 3), 255, dtype=np.uint8))])
    assert (preprocessor.images[0, 16:48] == 255).all()
    assert not preprocessor.images[0, :16].any() and not preprocessor.images[0, 48:].any()


def test_nothing_is_left_of_a_frame_of_another_shape() -> None:
    preprocessor = Preprocessor(SPEC, 1)
    preprocessor.write([HostSurface.from_bgr(np.zeros((80, 80, 3), dtype=np.uint8))])
    preprocessor.write([HostSurface.from_bgr(np.zeros((80, 40, 3), dtype=np.uint8))])
    assert (preprocessor.images[0, :, 32:] == 114).all()
    preprocessor.write([HostSurface.from_bgr(np.zeros((80, 80, 3), dtype=np.uint8))])
    assert not preprocessor.images[0].any()


def test_an_image_is_scaled_bilinearly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    preprocessor = Preprocessor(SPEC, 1)
    preprocessor.write([HostSurface.from_bgr(image)])
    assert np.array_equal(preprocessor.images[0, :36], cv2.resize(image, (64, 36), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize("colour", ["bgr", "rgb"])
def test_an_image_comes_in_the_models_colour_order(colour: str) -> None:
    preprocessor = Preprocessor(replace(SPEC, colour=colour), 1)  # type: ignore[arg-type]
    preprocessor.write([HostSurface.from_bgr(_stripes(80, 40))])
    wanted = np.array(COLOURS)[:, :: 1 if colour == "bgr" else -1]
    assert np.array_equal(_middles(preprocessor.images[0], 64, 32), wanted)


@pytest.mark.parametrize("colour", ["bgr", "rgb"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("colour_range", [ColorRange.MPEG, ColorRange.JPEG])
def test_yuv_becomes_the_colours_that_were_encoded(
    colour: str, pixels: str, matrix: Colorspace, colour_range: ColorRange
) -> None:
    preprocessor = Preprocessor(replace(SPEC, colour=colour), 1)  # type: ignore[arg-type]
    preprocessor.write([_yuv(_stripes(160, 80), pixels, matrix, colour_range)])
    wanted = np.array(COLOURS)[:, :: 1 if colour == "bgr" else -1]
    assert np.abs(_middles(preprocessor.images[0], 64, 32) - wanted).max() <= 3


def test_planes_scaled_by_themselves_look_like_the_scaled_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    surface = _yuv(smooth, "yuv420p", Colorspace.ITU601, ColorRange.MPEG)
    preprocessor = Preprocessor(SPEC, 1)
    preprocessor.write([surface])
    picture = cv2.resize(surface.to_bgr(), (64, 48), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(preprocessor.images[0, :48].astype(int) - picture)
    assert difference.mean() < 3 and np.percentile(difference, 99) <= 12


def test_frames_that_are_neither_planar_nor_bgr_go_through_a_picture() -> None:
    frame = av.VideoFrame.from_ndarray(_stripes(160, 80), format="bgr24").reformat(format="rgb24")
    preprocessor = Preprocessor(SPEC, 1)
    preprocessor.write([HostSurface(frame)])
    assert np.abs(_middles(preprocessor.images[0], 64, 32) - np.array(COLOURS)).max() <= 1


def test_a_batch_of_mixed_sizes_fills_its_slots_in_place() -> None:
    preprocessor = Preprocessor(SPEC, 4)
    memory = preprocessor.images.__array_interface__["data"]
    surfaces = [
        HostSurface.from_bgr(np.full((height, width, 3), value, dtype=np.uint8))
        for value, (width, height) in enumerate([(64, 64), (33, 17), (1, 1)], start=1)
    ]
    boxes = preprocessor.write(surfaces)
    assert [(box.width, box.height) for box in boxes] == [(64, 64), (64, 33), (64, 64)]
    assert [int(preprocessor.images[slot, 0, 0, 0]) for slot in range(4)] == [1, 2, 3, 114]
    assert preprocessor.images.__array_interface__["data"] == memory


def test_grey_stays_grey_in_every_matrix() -> None:
    for matrix in ("bt601", "bt709", "bt2020"):
        limited = yuv_to_rgb(matrix, False, "rgb")
        assert limited @ [16, 128, 128, 1] == pytest.approx([0, 0, 0])
        assert limited @ [235, 128, 128, 1] == pytest.approx([255, 255, 255])
        full = yuv_to_rgb(matrix, True, "bgr")
        assert full @ [77, 128, 128, 1] == pytest.approx([77, 77, 77])
