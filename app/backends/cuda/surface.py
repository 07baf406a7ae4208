"""A decoded picture in device memory, as the CUDA backend's sources give it and its detector reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np

from app.backends.cuda.driver import Copy2D, Driver
from app.backends.ffmpeg.surface import LUMA_ROWS, HostSurface, scaled_luma
from app.inference.colour import ColorMatrix
from app.types import BgrImage, GreyPicture

# Rows in our own memory begin at multiples of this: what the copy engine and a warp's loads like best.
PITCH_ALIGNMENT = 256
# AVColorSpace and AVColorRange, ITU-T H.273 table 4.
_COLORSPACES: dict[ColorMatrix, int] = {"bt601": 6, "bt709": 1, "bt2020": 9}
_FULL_RANGE, _LIMITED_RANGE = 2, 1
# (chroma step, bytes a sample, width over chroma width, height over chroma height): FFmpeg's name.
_PIXEL_FORMATS: dict[tuple[int, int, int, int], str] = {
    (2, 1, 2, 2): "nv12",
    (2, 1, 2, 1): "nv16",
    (2, 2, 2, 2): "p016le",
    (2, 2, 2, 1): "p216le",
    (1, 1, 2, 2): "yuv420p",
    (1, 1, 2, 1): "yuv422p",
    (1, 1, 1, 1): "yuv444p",
    (1, 1, 1, 2): "yuv440p",
    (1, 1, 4, 1): "yuv411p",
    (1, 2, 1, 1): "yuv444p16le",
}
# swscale turns planar pixels into RGB by another, coarser way than these: only by way of planes do pictures look the
# same whatever decoded them.
_PLANAR = {
    "nv12": "yuv420p",
    "nv16": "yuv422p",
    "p016le": "yuv420p10le",
    "p216le": "yuv422p10le",
    "yuv444p16le": "yuv444p10le",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlanes:
    """Where a picture's samples lie in device memory: NV12, P016 and planar YUV of any chroma subsampling.

    Addresses and pitches are in bytes. `chroma_step` counts samples between two neighbours of one chroma component:
    1 when u and v have planes of their own, 2 when they alternate (then v is one sample behind u).
    """

    y: int
    u: int
    v: int
    y_pitch: int
    chroma_pitch: int
    chroma_step: int
    chroma_width: int  # chroma samples in a row, of each component
    chroma_height: int
    sample_bytes: int  # 1 or 2
    white: float  # a sample of this value is 255 in 8 bits: 255 for 8 bits, 255 x 256 for P016
    full_range: bool  # 0..255 (JPEG) instead of 16..235
    matrix: ColorMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLayout:
    """How the planes of a picture follow each other in one block of memory, luma first."""

    width: int
    height: int
    chroma_width: int
    chroma_height: int
    sample_bytes: int
    interleaved: bool  # u and v alternate in one plane
    alignment: int = PITCH_ALIGNMENT  # of rows; 1 for NVDEC's own pictures, which are packed tight

    @property
    def chroma_row_bytes(self) -> int:
        return self.chroma_width * self.sample_bytes * (2 if self.interleaved else 1)

    @property
    def y_pitch(self) -> int:
        # An odd width: NVDEC's rows of luma are as long as those of chroma, which come in pairs.
        return self._aligned(max(self.width * self.sample_bytes, self.chroma_row_bytes))

    @property
    def chroma_pitch(self) -> int:
        return self._aligned(self.chroma_row_bytes)

    @property
    def nbytes(self) -> int:
        chroma_planes = 1 if self.interleaved else 2
        return self.y_pitch * self.height + chroma_planes * self.chroma_pitch * self.chroma_height

    def planes(self, address: int, *, full_range: bool, matrix: ColorMatrix) -> DevicePlanes:
        """The planes of a picture that begins at `address`."""
        u = address + self.y_pitch * self.height
        v = u + (self.sample_bytes if self.interleaved else self.chroma_pitch * self.chroma_height)
        return DevicePlanes(
            y=address,
            u=u,
            v=v,
            y_pitch=self.y_pitch,
            chroma_pitch=self.chroma_pitch,
            chroma_step=2 if self.interleaved else 1,
            chroma_width=self.chroma_width,
            chroma_height=self.chroma_height,
            sample_bytes=self.sample_bytes,
            white=255.0 if self.sample_bytes == 1 else 255.0 * 256,
            full_range=full_range,
            matrix=matrix,
        )

    def _aligned(self, nbytes: int) -> int:
        return -(-nbytes // self.alignment) * self.alignment


class Slot(Protocol):
    """The memory that a surface lies in, and that goes back when nobody needs the picture any more."""

    def release(self) -> None:
        """Called once, by any thread; does not block and needs no device."""
        ...


class CudaSurface:
    """A picture in a camera's own device memory. The work that filled it is done: any stream may read it.

    One owner at a time; may move between threads. `release` neither blocks nor touches the device, so that the event
    loop may call it; whoever releases has made sure that no kernel reads the picture any more.
    """

    __slots__ = ("_driver", "_height", "_planes", "_slot", "_width")

    def __init__(self, *, width: int, height: int, planes: DevicePlanes, slot: Slot, driver: Driver) -> None:
        self._width = width
        self._height = height
        self._planes = planes
        self._slot: Slot | None = slot
        self._driver = driver

    def __repr__(self) -> str:
        state = _pixel_format(self) if self._slot is not None else "released"
        return f"CudaSurface({self._width}x{self._height} {state})"

    @property
    def width(self) -> int:
        return self._width

    @property
    def height(self) -> int:
        return self._height

    @property
    def planes(self) -> DevicePlanes:
        """Where the samples are, until `release`."""
        return self._planes

    def to_bgr(self) -> BgrImage:
        """Copy the picture out as u8[height, width, 3] BGR, by the same conversion as in software. Blocking."""
        if self._slot is None:
            raise ValueError("the surface was released, its pixels are gone")
        frame = av.VideoFrame(self._width, self._height, _pixel_format(self))
        frame.colorspace = _COLORSPACES[self._planes.matrix]
        frame.color_range = _FULL_RANGE if self._planes.full_range else _LIMITED_RANGE
        self._copy_out(_copies_out(self._planes, frame))
        planar = _PLANAR.get(frame.format.name)
        return HostSurface(frame if planar is None else frame.reformat(format=planar, threads=1)).to_bgr()

    def luma(self, width: int, height: int) -> GreyPicture:
        """Its brightness as u8[height, width]. Blocking: copies the few rows out that it looks at, 0.1 MB of 720p."""
        if self._slot is None:
            raise ValueError("the surface was released, its pixels are gone")
        planes = self._planes
        step = max(1, self._height // (LUMA_ROWS * height))
        rows = np.empty((-(-self._height // step), self._width * planes.sample_bytes), np.uint8)
        copy = Copy2D(
            target=rows.ctypes.data,
            target_pitch=rows.shape[1],
            source=planes.y,
            source_pitch=planes.y_pitch * step,
            width_bytes=rows.shape[1],
            height=rows.shape[0],
        )
        self._copy_out([copy])
        # Of 16-bit samples the upper byte, which comes second.
        samples = np.ascontiguousarray(rows[:, planes.sample_bytes - 1 :: planes.sample_bytes])
        return scaled_luma(samples, width, height)

    def release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _copy_out(self, copies: Iterable[Copy2D]) -> None:
        with self._driver.bound():
            stream = self._driver.stream()
            try:
                for copy in copies:
                    self._driver.copy_2d_out(copy, stream=stream)
                stream.synchronize()
            finally:
                stream.close()


def copies_between(source: DevicePlanes, target: DevicePlanes, layout: PictureLayout) -> Iterator[Copy2D]:
    """The copies that move a picture of this layout, whatever the two pitches are."""
    yield Copy2D(
        target=target.y,
        target_pitch=target.y_pitch,
        source=source.y,
        source_pitch=source.y_pitch,
        width_bytes=layout.width * layout.sample_bytes,
        height=layout.height,
    )
    for source_plane, target_plane in ((source.u, target.u), (source.v, target.v))[: 1 if layout.interleaved else 2]:
        yield Copy2D(
            target=target_plane,
            target_pitch=target.chroma_pitch,
            source=source_plane,
            source_pitch=source.chroma_pitch,
            width_bytes=layout.chroma_row_bytes,
            height=layout.chroma_height,
        )


def _copies_out(planes: DevicePlanes, frame: av.VideoFrame) -> Iterator[Copy2D]:
    chroma_row_bytes = planes.chroma_width * planes.chroma_step * planes.sample_bytes
    sources = [(planes.y, planes.y_pitch, frame.width * planes.sample_bytes, frame.height)]
    sources += [
        (address, planes.chroma_pitch, chroma_row_bytes, planes.chroma_height)
        for address in (planes.u, planes.v)[: 1 if planes.chroma_step == 2 else 2]
    ]
    for (address, pitch, width_bytes, height), target in zip(sources, frame.planes, strict=True):
        yield Copy2D(
            target=target.buffer_ptr,
            target_pitch=target.line_size,
            source=address,
            source_pitch=pitch,
            width_bytes=width_bytes,
            height=height,
        )


def _pixel_format(surface: CudaSurface) -> str:
    planes = surface.planes
    across = 1 if planes.chroma_width == surface.width else round(surface.width / planes.chroma_width)
    down = 1 if planes.chroma_height == surface.height else round(surface.height / planes.chroma_height)
    return _PIXEL_FORMATS[planes.chroma_step, planes.sample_bytes, across, down]
