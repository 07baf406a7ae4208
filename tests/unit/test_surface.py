"""The CPU backend's picture: planes without a copy, BGR on demand."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from app.backends.ffmpeg.surface import HostSurface
from app.inference.colour import yuv_to_rgb
from app.types import Surface


def _picture(width: int = 34, height: int = 18) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _frame(pixels: str, width: int = 34, height: int = 18) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(_picture(width, height), format="bgr24").reformat(format=pixels)


def test_it_is_a_surface() -> None:
    surface = HostSurface(_frame("yuv420p"))
    assert isinstance(surface, Surface)
    assert (surface.width, surface.height) == (34, 18)
    assert repr(surface) == "HostSurface(34x18 yuv420p)"


@pytest.mark.parametrize(
    ("pixels", "chroma"),
    [("yuv420p", (9, 17)), ("yuvj420p", (9, 17)), ("yuv422p", (18, 17)), ("yuv444p", (18, 34)), ("yuvj422p", (18, 17))],
)
def test_planes_are_views_of_the_frame(pixels: str, chroma: tuple[int, int]) -> None:
    frame = _frame(pixels)
    planes = HostSurface(frame).planes()
    assert planes is not None
    assert planes.y.shape == (18, 34) and planes.u.shape == planes.v.shape == chroma
    assert planes.y.__array_interface__["data"][0] == frame.planes[0].buffer_ptr
    assert planes.v.__array_interface__["data"][0] == frame.planes[2].buffer_ptr


def test_odd_sizes_round_chroma_up() -> None:
    planes = HostSurface(_frame("yuv420p", 33, 17)).planes()
    assert planes is not None and planes.y.shape == (17, 33) and planes.u.shape == (9, 17)


def test_views_outlive_the_surface() -> None:
    surface = HostSurface(_frame("yuv420p"))
    planes = surface.planes()
    assert planes is not None
    before = planes.y.copy()
    surface.release()
    assert np.array_equal(planes.y, before)


@pytest.mark.parametrize("pixels", ["nv12", "yuv420p10le", "rgb24", "gray"])
def test_other_pixels_have_no_planes_but_a_picture(pixels: str) -> None:
    surface = HostSurface(_frame(pixels))
    assert surface.planes() is None
    assert surface.to_bgr().shape == (18, 34, 3)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj422p", "yuv444p"])
def test_planes_that_are_there_need_no_conversion(pixels: str) -> None:
    frame = _frame(pixels)
    assert HostSurface(frame).as_planes().v.__array_interface__["data"][0] == frame.planes[2].buffer_ptr


@pytest.mark.parametrize("pixels", ["nv12", "yuv420p10le", "yuv422p10le", "rgb24", "gray", "gbrp"])
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
def test_other_pixels_are_converted_to_planes_of_the_same_picture(pixels: str, color_range: ColorRange) -> None:
    smooth = np.add.outer(np.arange(18) * 6, np.arange(34) * 3)[..., None] + np.array([0, 20, 40])
    frame = av.VideoFrame.from_ndarray(smooth.astype(np.uint8), format="bgr24").reformat(format=pixels)
    if not frame.format.is_rgb:
        frame.color_range = color_range
    planes = HostSurface(frame).as_planes()
    assert planes.y.shape == (18, 34) and planes.u.shape == planes.v.shape == (9, 17)
    up = [planes.y, *(each.repeat(2, 0).repeat(2, 1) for each in (planes.u, planes.v))]
    matrix = yuv_to_rgb(planes.matrix, planes.full_range, "bgr")
    again = np.clip(np.stack(up, -1) @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    assert np.abs(again - HostSurface(frame).to_bgr()).mean() < 3


def test_a_surface_without_a_frame_has_nothing_to_convert() -> None:
    with pytest.raises(ValueError, match="no decoded frame"):
        HostSurface.from_bgr(_picture()).as_planes()


def test_to_bgr_gives_back_what_was_encoded() -> None:
    picture = np.full((18, 34, 3), (200, 120, 40), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv444p")
    assert np.abs(HostSurface(frame).to_bgr().astype(int) - picture).max() <= 3


def test_range_and_matrix_come_from_the_stream() -> None:
    frame = _frame("yuv420p")
    assert HostSurface(frame).matrix == "bt601"
    assert not HostSurface(frame).full_range
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.JPEG
    planes = HostSurface(frame).planes()
    assert planes is not None and planes.matrix == "bt709" and planes.full_range


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "gray10le", "nv12"])
@pytest.mark.parametrize(("matrix", "color_range"), [(3, 0), (8, 1), (10, 1), (14, 2), (17, 0), (1, 7)])
def test_a_matrix_or_range_that_nobody_knows_makes_no_picture_unreadable(
    pixels: str, matrix: int, color_range: int
) -> None:
    frame = _frame(pixels)
    frame.colorspace, frame.color_range = matrix, color_range
    assert HostSurface(frame).to_bgr().shape == (18, 34, 3)
    frame.colorspace, frame.color_range = matrix, color_range
    assert HostSurface(frame).as_planes().y.shape == (18, 34)
    frame.colorspace, frame.color_range = matrix, color_range
    assert HostSurface(frame).luma(64, 36).shape == (36, 64)


def test_a_jpeg_format_has_full_range_without_saying_so() -> None:
    frame = _frame("yuvj420p")
    frame.color_range = ColorRange.UNSPECIFIED
    assert HostSurface(frame).full_range


def test_a_bgr_image_is_copied_out_so_that_drawing_on_it_is_safe() -> None:
    image = _picture()
    surface = HostSurface.from_bgr(image)
    out = surface.to_bgr()
    assert np.array_equal(out, image)
    out[:] = 0
    assert image.any()
    assert (surface.width, surface.height, surface.planes()) == (34, 18, None)
    assert (surface.full_range, surface.matrix, repr(surface)) == (True, "bt601", "HostSurface(34x18 bgr24)")


@pytest.mark.parametrize("surface", [HostSurface(_frame("yuv420p")), HostSurface.from_bgr(_picture())])
def test_a_released_surface_keeps_its_size_and_nothing_else(surface: HostSurface) -> None:
    surface.release()
    surface.release()
    assert (surface.width, surface.height, surface.planes()) == (34, 18, None)
    assert repr(surface) == "HostSurface(34x18 released)"
    with pytest.raises(ValueError, match="released"):
        surface.to_bgr()


def test_an_upside_down_picture_goes_through_bgr() -> None:
    class UpsideDown:
        """What PyAV shows of a frame whose lines are stored from the bottom up."""

        width, height, format = 34, 18, _frame("yuv420p").format
        planes = (type("Plane", (), {"line_size": -64}),)

    assert HostSurface(UpsideDown()).planes() is None  # type: ignore[arg-type]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p", "nv12", "gray", "yuv420p10le", "rgb24"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (854, 480), (640, 360), (48, 30)])
def test_luma_is_the_mean_over_areas_whatever_the_pixels_are(pixels: str, width: int, height: int) -> None:
    ramp = (
        np.linspace(20, 230, width, dtype=np.float32)[None, :] * np.linspace(0.5, 1, height, dtype=np.float32)[:, None]
    )
    frame = av.VideoFrame.from_ndarray(ramp.astype(np.uint8), format="gray").reformat(
        format=pixels, dst_color_range=ColorRange.JPEG, src_color_range=ColorRange.JPEG
    )
    luma = HostSurface(frame).luma(64, 36)
    wanted = cv2.resize(ramp, (64, 36), interpolation=cv2.INTER_AREA)
    assert luma.dtype == np.uint8 and luma.shape == (36, 64)
    assert np.abs(luma - wanted).max() < 6


def test_luma_of_a_bgr_image_and_of_nothing() -> None:
    surface = HostSurface.from_bgr(np.full((72, 128, 3), (10, 20, 200), np.uint8))
    assert set(np.unique(surface.luma(64, 36))) == {73}
    surface.release()
    with pytest.raises(ValueError, match="released"):
        surface.luma(64, 36)
