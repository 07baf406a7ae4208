"""A decoded picture in host memory, as the CPU backend's sources give it and its detector reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from app.inference.colour import ColorMatrix
from app.types import BgrImage, GreyPicture

Plane: TypeAlias = NDArray[np.uint8]

# 8-bit, one component a plane. Any chroma subsampling will do: the detector scales each plane by itself.
_PLANAR_FORMATS = frozenset(
    {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "yuvj440p", "yuv411p", "yuvj411p"}
)
_OTHER_LUMA = frozenset({"nv12", "nv16", "nv21", "nv24", "gray"})  # whose first plane is 8-bit luma, too
LUMA_ROWS = 2  # that are looked at for each row of a small picture
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
# AVColorSpace, ITU-T H.273 table 4. Unspecified means BT.601, as in swscale, so that both conversions agree.
_MATRICES: dict[int, ColorMatrix] = {1: "bt709", 9: "bt2020", 10: "bt2020"}
_UNSPECIFIED = 2
_CONVERTIBLE = frozenset({0, 1, 2, 4, 5, 6, 7, 9})  # that swscale knows; a camera may name any number


@dataclass(frozen=True, slots=True, kw_only=True)
class YuvPlanes:
    """Views of a frame's planes, never copies: u8[height, width], chroma subsampled as the stream has it.

    Lines may be padded, so rows need not be contiguous. The views keep the pixels alive: they outlive
    `HostSurface.release`.
    """

    y: Plane
    u: Plane
    v: Plane
    full_range: bool  # 0..255 (JPEG) instead of 16..235
    matrix: ColorMatrix


class HostSurface:
    """A picture in host memory: a decoder's frame, kept as it is until somebody needs its pixels, or a BGR image.

    One owner at a time; may move between threads.
    """

    __slots__ = ("_frame", "_height", "_image", "_width")

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame: av.VideoFrame | None = frame
        self._image: BgrImage | None = None
        self._width = frame.width
        self._height = frame.height

    @classmethod
    def from_bgr(cls, image: BgrImage) -> HostSurface:
        """Wrap a u8[height, width, 3] BGR image, without a copy: the caller must not write to it again."""
        surface = cls.__new__(cls)
        surface._frame = None
        surface._image = image
        surface._height, surface._width = image.shape[:2]
        return surface

    def __repr__(self) -> str:
        pixels = (
            self._frame.format.name if self._frame is not None else "bgr24" if self._image is not None else "released"
        )
        return f"HostSurface({self._width}x{self._height} {pixels})"

    @property
    def width(self) -> int:
        return self._width

    @property
    def height(self) -> int:
        return self._height

    @property
    def full_range(self) -> bool:
        """Whether luma runs over 0..255 instead of 16..235. True for a BGR image."""
        frame = self._frame
        return frame is None or frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")

    @property
    def matrix(self) -> ColorMatrix:
        """The matrix between RGB and YUV that the stream names, BT.601 when it names none."""
        return "bt601" if self._frame is None else _MATRICES.get(self._frame.colorspace, "bt601")

    def planes(self) -> YuvPlanes | None:
        """Views of the planes of 8-bit planar YUV; None when the pixels are anything else: then use `to_bgr`."""
        frame = self._frame
        if frame is None or frame.format.name not in _PLANAR_FORMATS:
            return None
        planes = frame.planes  # made anew each time it is asked for
        if any(plane.line_size <= 0 for plane in planes):  # an upside-down picture
            return None
        y, u, v = (_view(plane) for plane in planes)
        return YuvPlanes(y=y, u=u, v=v, full_range=self.full_range, matrix=self.matrix)

    def as_planes(self) -> YuvPlanes:
        """`planes`, of a converted copy when the pixels are anything else than 8-bit planar YUV (not BGR images)."""
        planes = self.planes()
        if planes is None:
            if self._frame is None:
                raise ValueError("the surface holds no decoded frame")
            planes = HostSurface(_convertible(self._frame).reformat(format="yuv420p", threads=1)).planes()
            assert planes is not None
        return planes

    def to_bgr(self) -> BgrImage:
        """Copy the picture out as u8[height, width, 3] BGR. Blocking, 0.5 ms for 720p."""
        if self._image is not None:
            return np.array(self._image)
        if self._frame is None:
            raise ValueError("the surface was released, its pixels are gone")
        # threads=1: swscale's default is one thread per core for every single frame.
        return cast(BgrImage, _convertible(self._frame).to_ndarray(format="bgr24", threads=1))

    def luma(self, width: int, height: int) -> GreyPicture:
        """Its brightness as u8[height, width], whatever the pixels are.

        For 64 x 36 of 8-bit 720p 0.05 ms, 0.2 ms where caches are cold. Formats without a plane of 8-bit luma are
        converted by swscale first.
        """
        if self._image is not None:
            small = scaled_luma(self._image, width, height)
            return cast(GreyPicture, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
        frame = self._frame
        if frame is None:
            raise ValueError("the surface was released, its pixels are gone")
        plane = frame.planes[0]
        if not (frame.format.name in _PLANAR_FORMATS or frame.format.name in _OTHER_LUMA) or plane.line_size <= 0:
            plane = _convertible(frame).reformat(format="yuv420p", threads=1).planes[0]
        return scaled_luma(_view(plane), width, height)

    def release(self) -> None:
        """Let the pixels go; `width` and `height` stay readable. Idempotent."""
        self._frame = None
        self._image = None


def scaled_luma(rows: Plane, width: int, height: int) -> Plane:
    """Scale u8[rows, columns, ...] to u8[height, width, ...] by means over areas, of `LUMA_ROWS` rows for each.

    Some columns at the sides are left out, fewer than `width`.
    """
    # All rows would cost five times as much, and the forty samples of 720p are enough for a mean. OpenCV is quick where
    # an area is a whole number of rows and columns, and slow everywhere else.
    step, uneven = divmod(rows.shape[0], LUMA_ROWS * height)
    if uneven and step:
        rows = rows[np.arange(LUMA_ROWS * height) * rows.shape[0] // (LUMA_ROWS * height)]
    elif step:
        rows = rows[::step]
    margin = rows.shape[1] % width if rows.shape[1] > width else 0
    inner = rows[:, margin // 2 : rows.shape[1] - (margin - margin // 2)]
    return cast(Plane, cv2.resize(inner, (width, height), interpolation=cv2.INTER_AREA))


def _convertible(frame: av.VideoFrame) -> av.VideoFrame:
    """The same frame; a matrix or range that swscale would refuse to convert is taken for none."""
    if frame.colorspace not in _CONVERTIBLE:
        frame.colorspace = _UNSPECIFIED
    if frame.color_range > _FULL_RANGE:
        frame.color_range = 0
    return frame


def _view(plane: av.video.plane.VideoPlane) -> Plane:
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
    return cast(Plane, rows[:, : plane.width])
