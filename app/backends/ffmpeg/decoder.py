"""What decodes packets; and doing it in software, one thread per camera, errors tolerated and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import av
from av import VideoFrame
from av.video.stream import VideoStream

from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.surface import HostSurface
from app.backends.ffmpeg.timing import Arrival
from app.errors import SourceError, SourceErrorCode
from app.types import FrameTimes, S, SourceFrame, StreamInfo

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"
_HIGHEST_PLAUSIBLE_FPS = 240.0


class PacketDecoder(Protocol[S]):
    """Turns one stream's packets into dated frames. Belongs to the thread that reads them."""

    @property
    def info(self) -> StreamInfo | None:
        """What is known of the stream; None before its first picture. Readable from any thread."""
        ...

    @property
    def undecodable(self) -> int:
        """Packets that were refused."""
        ...

    @property
    def corrupt_frames(self) -> int:
        """Frames that were given out though a part of the picture is guessed."""
        ...

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[S]]:
        """Decode a packet, which brings its `Arrival` as `opaque`; an empty one takes out what is held back.

        `alone`: no packet that follows builds on this one, so its picture is taken out at once. Raises `SourceError`
        when no later packet can succeed either.
        """
        ...

    def close(self) -> None:
        """Free the decoder. Idempotent."""
        ...


class OpenDecoder(Protocol[S]):
    """Makes the decoder of one stream, in the thread that reads it. Raises `SourceError`."""

    def __call__(self, video: VideoStream, *, log: Log, clock: Callable[[], float]) -> PacketDecoder[S]: ...


class FrameDecoder:
    """`PacketDecoder[HostSurface]` on FFmpeg's own decoders."""

    def __init__(
        self,
        video: VideoStream,
        *,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        context = video.codec_context
        # PyAV's default is a thread per core and camera, and frame threads would also delay every picture.
        context.thread_count = 1
        # Each frame brings back the `Arrival` of the packet that carried it, whatever the decoder reorders.
        context.copy_opaque = True
        self.info: StreamInfo | None = None
        self.undecodable = 0
        self.corrupt_frames = 0
        self._context = context
        self._time_base_s = float(video.time_base or 0)
        self._log = log
        self._clock = clock
        self._spent_s = 0.0  # in the decoder since the last frame came out
        self._arrival: Arrival | None = None
        self._decoded = 0  # packets
        self._first = True  # no picture came out yet

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[HostSurface]]:
        # `skip_frame` would do the same as draining, at the same cost, but with B-frames it holds each keyframe back
        # until one or two more have come.
        if isinstance(packet.opaque, Arrival):
            self._arrival = packet.opaque
            self._decoded += 1
        started_at = self._clock()
        pictures = self._pictures(packet)
        if alone:
            pictures += self._drain()
        decoded_at = self._clock()
        self._spent_s += decoded_at - started_at
        if pictures and self._first and self._is_undatable(pictures[0]):
            del pictures[0]
            self._first = False
        if not pictures:
            return []
        decode_s, self._spent_s = self._spent_s / len(pictures), 0.0
        return [self._frame(picture, decoded_at=decoded_at, decode_s=decode_s) for picture in pictures]

    def close(self) -> None:
        """Nothing to do: FFmpeg's decoder goes with its container, which the reader closes."""

    def _pictures(self, packet: VideoPacket | None) -> list[VideoFrame]:
        try:
            return self._context.decode(packet)
        except (av.error.MemoryError, MemoryError):
            raise SourceError(SourceErrorCode.RESOURCE_EXHAUSTED, "the decoder found no memory left") from None
        except av.FFmpegError as exc:
            # A lossy link breaks pictures all the time; the reader gives up when no good one comes any more.
            self.undecodable += 1
            self._log.warning("a packet could not be decoded: %s", exc.strerror)
            return []

    def _drain(self) -> list[VideoFrame]:
        try:
            return self._pictures(None)
        finally:
            self._context.flush_buffers()

    def _frame(self, picture: VideoFrame, *, decoded_at: float, decode_s: float) -> SourceFrame[HostSurface]:
        self._describe(picture)
        self.corrupt_frames += picture.is_corrupt
        arrival = picture.opaque if isinstance(picture.opaque, Arrival) else self._arrival
        assert arrival is not None  # no picture without a packet
        return SourceFrame(
            pts_s=self._date(picture),
            times=FrameTimes(
                arrived_at=arrival.at,
                decoded_at=decoded_at,
                decode_s=decode_s,
                captured_utc=arrival.captured_utc,
                clock=arrival.clock,
            ),
            surface=HostSurface(picture),
        )

    def _is_undatable(self, picture: VideoFrame) -> bool:
        # FFmpeg leaves a camera's first packet undated. With B-frames its picture comes out some packets later, and
        # the clock's zero says nothing of it: better one picture less than a clock that goes back.
        return picture.pts is None and self._decoded > 1

    def _date(self, picture: VideoFrame) -> float | None:
        first, self._first = self._first, False
        if picture.pts is not None:
            return picture.pts * self._time_base_s
        # A camera's clock starts with its first packet, within a few milliseconds.
        return 0.0 if first else None

    def _describe(self, picture: VideoFrame) -> None:
        known = self.info
        if known is not None and (known.width, known.height) == (picture.width, picture.height):
            return
        declared = float(self._context.framerate or 0)
        self.info = StreamInfo(
            codec=self._context.codec.canonical_name,
            width=picture.width,
            height=picture.height,
            declared_fps=declared if 0 < declared <= _HIGHEST_PLAUSIBLE_FPS else None,
            decoder="software",
        )
