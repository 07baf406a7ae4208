"""NVDEC without a GPU: FFmpeg decodes what the hardware would, into the memory of a host driver.

As the real one: pictures lie tightly packed in memory that the next call overwrites; damage is concealed without a
word; a stream must bring its parameter sets itself. Where the real one would end the process or scale pictures behind
our back, this one fails the test.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeAlias, cast

import av
import numpy as np
from av import CodecContext, VideoFrame
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from app.backends.cuda.driver import DeviceMemory, Stream
from app.backends.cuda.nvdec import Chroma, DecodedPicture, NvdecCaps, NvdecError
from app.backends.ffmpeg.reader import VideoPacket
from tests.support.host_driver import HostDriver

# What cards of many generations decode. H.264 of 10 bits or in 4:2:2 is not among it before Blackwell.
Supported: TypeAlias = frozenset[tuple[str, Chroma, int]]
SUPPORTED: Supported = frozenset(
    {
        ("h264", "420", 8),
        ("hevc", "420", 8),
        ("hevc", "420", 10),
        ("hevc", "444", 8),
        ("hevc", "444", 10),
        ("av1", "420", 8),
        ("av1", "420", 10),
    }
)
_DECODERS = {"h264": "h264", "hevc": "hevc", "av1": "libdav1d"}
# (chroma, bytes a sample): NVIDIA's pixel format, and FFmpeg's.
_PIXELS = {
    ("420", 1): ("NV12", "nv12"),
    ("420", 2): ("P016", "p016le"),
    ("444", 1): ("YUV444", "yuv444p"),
    ("444", 2): ("YUV444_16Bit", "yuv444p16le"),
}
_STALE = 0xEE


class FakeNvdec:
    """Implements `Nvdec`. Faults are for the test to set, counts for it to read."""

    def __init__(self, driver: HostDriver, *, supported: Supported = SUPPORTED) -> None:
        self.driver = driver
        self.supported = supported
        self.asked: list[tuple[str, Chroma, int]] = []
        self.opened: list[FakeDecoder] = []
        self.refusal: NvdecError | None = None  # of `open`
        self.error: NvdecError | None = None  # of every `decode`
        self.silent = False  # takes packets and gives no picture
        self.on_open: Callable[[], None] = lambda: None

    def caps(self, codec: str, chroma: Chroma, bit_depth: int) -> NvdecCaps:
        self.driver.memory()  # fails the test outside of `bound`
        self.asked.append((codec, chroma, bit_depth))
        return NvdecCaps(
            supported=(codec, chroma, bit_depth) in self.supported,
            min_width=48,
            min_height=16,
            max_width=4096,
            max_height=4096,
            max_macroblocks=65536,
        )

    def open(self, codec: str, *, stream: Stream, reordered: bool) -> FakeDecoder:
        self.driver.memory()
        self.on_open()
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(FakeDecoder(self, codec, stream=stream, reordered=reordered))
        return self.opened[-1]


class FakeDecoder:
    """Implements `HardwareDecoder`."""

    def __init__(self, owner: FakeNvdec, codec: str, *, stream: Stream, reordered: bool) -> None:
        self.reordered = reordered
        self.packets = 0
        self.flushes = 0
        self.closed = False
        self._owner = owner
        self._stream = stream
        decoder = CodecContext.create(_DECODERS[codec], "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        self._decoder = decoder
        self._size: tuple[int, int] | None = None
        self._surfaces: list[DeviceMemory] = []

    def decode(self, address: int, nbytes: int, *, pts: int) -> list[DecodedPicture]:
        assert nbytes > 0, "an empty packet ends the stream"
        self._begin()
        self.packets += 1
        packet = Packet(ctypes.string_at(address, nbytes))
        packet.pts = pts
        try:
            pictures = self._decoder.decode(cast(VideoPacket, packet))
        except av.FFmpegError:
            pictures = []
        return self._give(pictures)

    def flush(self) -> list[DecodedPicture]:
        self._begin()
        self.flushes += 1
        try:
            pictures = self._decoder.decode(None)
        except av.FFmpegError:
            pictures = []
        self._decoder.flush_buffers()
        return self._give(pictures)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            for surface in self._surfaces:
                surface.close()

    def _begin(self) -> None:
        assert not self.closed, "a closed decoder was used"
        for surface in self._surfaces:
            self._owner.driver.fill(surface.address, _STALE, surface.nbytes, stream=self._stream)
        if self._owner.error is not None:
            raise self._owner.error

    def _give(self, pictures: list[VideoFrame]) -> list[DecodedPicture]:
        if self._owner.silent:
            return []
        return [self._picture(number, picture) for number, picture in enumerate(pictures)]

    def _picture(self, number: int, picture: VideoFrame) -> DecodedPicture:
        size = (picture.width, picture.height)
        self._size = self._size or size
        assert size == self._size, f"NVDEC would scale a picture of {size} to {self._size}, or end the process"
        chroma = "444" if picture.format.components[1].width == picture.width else "420"
        name, pixels = _PIXELS[chroma, 1 if picture.format.components[0].bits == 8 else 2]
        packed = _packed(picture.reformat(format=pixels, threads=1))
        if number == len(self._surfaces):
            self._surfaces.append(self._owner.driver.allocate(packed.nbytes))
        surface = self._surfaces[number]

        def write() -> None:
            ctypes.memmove(surface.address, packed.ctypes.data, packed.nbytes)

        self._owner.driver.submit(write, stream=self._stream)
        assert picture.pts is not None
        return DecodedPicture(
            address=surface.address,
            width=picture.width + (picture.width % 2 if chroma == "420" else 0),
            height=picture.height,
            pixels=name,
            pts=picture.pts,
        )


def _packed(picture: VideoFrame) -> NDArray[np.uint8]:
    """A picture's bytes without what pads its lines; where u and v alternate, an odd luma line has one sample more."""
    sample_bytes = 1 if picture.format.components[0].bits == 8 else 2
    samples = -(-picture.width // 2) * 2 if len(picture.planes) == 2 else picture.width
    lines = [
        np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
        for plane in picture.planes
    ]
    return np.concatenate([each[:, : samples * sample_bytes].reshape(-1) for each in lines])
