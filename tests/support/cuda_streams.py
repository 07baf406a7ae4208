"""Streams for tests of the CUDA decoders: clips in any pixel format, and a file that is fed packet by packet."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from app.backends.cuda.choice import DecoderChoice, DecoderMode
from app.backends.cuda.decoder import CudaDecoder
from app.backends.cuda.guard import OpeningGuard
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.ring import SurfacePool
from app.backends.cuda.writer import SurfaceWriter
from app.backends.ffmpeg.decoder import FrameDecoder, PacketDecoder
from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.timing import Arrival
from app.types import S, SourceFrame
from tests.support.clips import draw_test_image
from tests.support.fake_nvdec import FakeNvdec
from tests.support.host_driver import HostDriver
from tests.support.scheduling import scheduled_as_before

log = logging.getLogger("vidette.test")
BT709, FULL_RANGE = 1, 2


@scheduled_as_before()
def write_clip(
    path: Path,
    *,
    encoder: str = "libx264",
    pixels: str = "yuv420p",
    width: int = 96,
    height: int = 64,
    frames: int = 6,
    gop: int = 3,
    colorspace: int | None = None,
    color_range: int | None = None,
    format: str | None = None,
) -> Path:
    """Encode a short clip in this pixel format and these colours; return `path`."""
    options = {"preset": "ultrafast", "tune": "zerolatency"} if encoder == "libx264" else {}
    if encoder == "libx265":
        options = {"preset": "ultrafast", "x265-params": f"keyint={gop}:bframes=0:pools=none:log-level=error"}
    with av.open(str(path), "w", format=format) as container:
        video: Any = container.add_stream(
            encoder, rate=25, width=width, height=height, pix_fmt=pixels, gop_size=gop, options=options
        )
        video.codec_context.thread_count = 1
        if colorspace is not None:
            video.codec_context.colorspace = colorspace
        if color_range is not None:
            video.codec_context.color_range = color_range
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(draw_test_image(index, width=width, height=height), format="rgb24")
            frame = picture.reformat(format=pixels, dst_colorspace=colorspace, dst_color_range=color_range)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@dataclass(kw_only=True)
class Device:
    """A host driver, a fake NVDEC on it, and what its cameras share. `now` is the clock of failures."""

    folder: Path
    mode: DecoderMode = "auto"
    memory_bytes: int = 1 << 30
    budget_bytes: int = 1 << 28
    now: float = 1000.0
    with_nvdec: bool = True
    driver: HostDriver = field(init=False)
    nvdec: FakeNvdec = field(init=False)
    choice: DecoderChoice = field(init=False)
    pool: SurfacePool = field(init=False)

    def __post_init__(self) -> None:
        self.driver = HostDriver(memory_bytes=self.memory_bytes)
        self.nvdec = FakeNvdec(self.driver)
        self.choice = DecoderChoice(
            mode=self.mode,
            nvdec=self.nvdec if self.with_nvdec else None,
            missing="PyNvVideoCodec cannot be loaded: it is not installed",
            guard=OpeningGuard(self.folder / "openings.json"),
            driver=self.driver,
            clock=lambda: self.now,
        )
        self.pool = SurfacePool(self.driver, MemoryBudget(self.budget_bytes))

    @contextlib.contextmanager
    def camera(self, path: Path, *, camera_id: str = "cam", slots: int = 6) -> Iterator[Feed]:
        """A file on a `CudaDecoder`, which is closed in the end."""

        def open_decoder(video: av.video.stream.VideoStream) -> CudaDecoder:
            writer = SurfaceWriter(self.driver, self.pool.ring(slots=slots, log=log, wait_s=0.01))
            try:
                return CudaDecoder(camera_id, video, choice=self.choice, writer=writer, log=log, clock=time.monotonic)
            except BaseException:
                writer.close()
                raise

        with self.driver.bound(), feeding(path, open_decoder) as feed:
            yield feed

    def assert_nothing_left(self) -> None:
        self.pool.close()
        assert self.driver.left_open == []
        assert all(decoder.closed for decoder in self.nvdec.opened)


class Feed(Iterator[Any]):
    """A file's packets, as a reader gives them, and the decoder that they go to."""

    def __init__(self, container: av.container.InputContainer, decoder: PacketDecoder[S]) -> None:
        self.decoder: Any = decoder
        self._packets = container.demux(video=0)
        self._count = 0

    def __next__(self) -> Any:
        packet: Any = next(self._packets)
        if packet.size:
            self._count += 1
            packet.opaque = Arrival(
                at=float(self._count),
                captured_utc=1e9 + self._count,
                clock="arrival",
                packet_bytes=packet.size,
                is_key=packet.is_keyframe,
            )
        return packet

    def decode(self, packet: VideoPacket, *, alone: bool = False) -> list[SourceFrame[Any]]:
        return list(self.decoder.decode(packet, alone=alone))

    def close(self) -> None:
        close: Any = self._packets
        close.close()

    def pictures(self, *, alone: bool = False) -> list[Picture]:
        """Decode the rest of the file."""
        return [picture(frame) for packet in self for frame in self.decode(packet, alone=alone and packet.size > 0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    bgr: NDArray[np.uint8]
    pts_s: float | None
    arrived_at: float


def picture(frame: SourceFrame[Any]) -> Picture:
    """What a frame shows and when; the frame is released."""
    try:
        return Picture(bgr=frame.surface.to_bgr(), pts_s=frame.pts_s, arrived_at=frame.times.arrived_at)
    finally:
        frame.surface.release()


@contextlib.contextmanager
def feeding(path: Path, open_decoder: Callable[[Any], PacketDecoder[S]]) -> Iterator[Feed]:
    with av.open(str(path)) as container:
        decoder = open_decoder(container.streams.video[0])
        feed = Feed(container, decoder)
        try:
            yield feed
        finally:
            feed.close()
            decoder.close()


def in_software(path: Path) -> list[Picture]:
    """What FFmpeg's decoder makes of a file."""
    with feeding(path, lambda video: FrameDecoder(video, log=log)) as feed:
        return feed.pictures()
