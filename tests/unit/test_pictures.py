"""The table of pictures: the struct that the kernels read, byte by byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.cuda.pictures import _HEAD, _LAYOUT, PICTURE, PictureTable
from app.backends.cuda.surface import DevicePlanes
from app.inference.colour import yuv_to_rgb
from tests.support.host_kernels import KERNELS
from tests.support.raw_outputs import Head

SPEC = Head(family="yolov8", width=64, height=48).spec()

PLANES = DevicePlanes(
    y=0x7F00_0000_1000,
    u=0x7F00_0000_2000,
    v=0x7F00_0000_2001,
    y_pitch=2048,
    chroma_pitch=1024,
    chroma_step=2,
    chroma_width=640,
    chroma_height=360,
    sample_bytes=1,
    white=255.0,
    full_range=False,
    matrix="bt709",
)


class Picture:
    def __init__(self, width: int = 1280, height: int = 720, planes: DevicePlanes = PLANES) -> None:
        self.width = width
        self.height = height
        self.planes = planes


def memory(capacity: int) -> NDArray[np.uint8]:
    return np.full(PictureTable.nbytes(capacity), 0xFF, dtype=np.uint8)


def test_a_row_says_where_the_picture_is_and_where_it_goes() -> None:
    array = memory(2)
    PictureTable(SPEC, array, 2).write([Picture()], [0.25], rows=1)
    row = array.view(PICTURE)[0]
    for name in ("y", "u", "v", "y_pitch", "chroma_pitch", "chroma_step", "chroma_width", "chroma_height"):
        assert row[name] == getattr(PLANES, name)
    assert (row["sample_bytes"], row["min_score"]) == (1, 0.25)
    assert (row["width"], row["height"]) == (1280, 720)
    assert (row["left"], row["top"], row["box_width"], row["box_height"]) == (0, 6, 64, 36)
    assert (row["scale_x"], row["scale_y"]) == (20.0, 20.0)
    assert np.array_equal(row["colour"], yuv_to_rgb("bt709", False, "rgb").astype(np.float32))


def test_the_colour_map_takes_deep_samples_as_they_are() -> None:
    array = memory(1)
    deep = replace(PLANES, sample_bytes=2, white=255.0 * 256)
    PictureTable(SPEC, array, 1).write([Picture(planes=deep)], [0.25], rows=1)
    wanted = yuv_to_rgb("bt709", False, "rgb")
    assert array.view(PICTURE)[0]["colour"][:, :3] == pytest.approx(wanted[:, :3] / 256)
    assert array.view(PICTURE)[0]["colour"][:, 3] == pytest.approx(wanted[:, 3])


def test_rows_without_a_picture_are_blank() -> None:
    array = memory(4)
    table = PictureTable(SPEC, array, 4)
    assert not array.any()
    table.write([Picture()] * 3, [0.1, 0.2, 0.3], rows=3)
    assert array.view(PICTURE)["width"].tolist() == [1280, 1280, 1280, 0]
    table.write([Picture()], [0.5], rows=3)
    assert array.view(PICTURE)["width"].tolist() == [1280, 0, 0, 0]


def test_a_picture_that_changes_changes_its_row() -> None:
    array = memory(1)
    table = PictureTable(SPEC, array, 1)
    table.write([Picture()], [0.5], rows=1)
    table.write([Picture(640, 640, replace(PLANES, y=64, full_range=True))], [0.125], rows=1)
    row = array.view(PICTURE)[0]
    assert (row["y"], row["width"], row["box_width"], row["min_score"]) == (64, 640, 48, 0.125)
    assert np.array_equal(row["colour"], yuv_to_rgb("bt709", True, "rgb").astype(np.float32))


def test_both_halves_of_a_row_have_the_layout_of_the_kernels_struct() -> None:
    assert _HEAD.size + _LAYOUT.size == PICTURE.itemsize == 136
    assert PICTURE.fields is not None and PICTURE.fields["width"][1] == _HEAD.size
    assert "sizeof(Picture) == 136" in (KERNELS / "picture.cuh").read_text(encoding="utf-8")


def test_what_does_not_fit_is_refused() -> None:
    table = PictureTable(SPEC, memory(2), 2)
    for pictures, scores, rows in ((3, 3, 3), (1, 2, 2), (2, 2, 1), (1, 1, 3)):
        with pytest.raises(ValueError, match="a table of 2 rows takes no"):
            table.write([Picture()] * pictures, [0.5] * scores, rows=rows)
    with pytest.raises(ValueError, match="a table of 3 rows has 408 bytes, not 272"):
        PictureTable(SPEC, memory(2), 3)


def test_a_picture_that_no_kernel_could_read_is_refused() -> None:
    table = PictureTable(SPEC, memory(1), 1)
    for picture in (Picture(0, 720), Picture(planes=replace(PLANES, sample_bytes=4))):
        with pytest.raises(ValueError, match="cannot be scaled"):
            table.write([picture], [0.5], rows=1)
