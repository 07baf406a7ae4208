"""What decodes packets; and doing it in software, one thread per camera, errors tolerated and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol, TypeAlias, cast

import av
from av import CodecContext, VideoFrame
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.surface import HostSurface
from app.backends.ffmpeg.timing import Arrival, Carried, Dated, Dating
from app.cameras.source import DecodeEffort
from app.errors import SourceError, SourceErrorCode
from app.types import S, SourceFrame, StreamInfo

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"
_HIGHEST_PLAUSIBLE_FPS = 240.0
# The largest picture that any level of H.264 allows (6.2: 139,264 macroblocks); 8K is a little smaller. A header of a
# few bytes may announce 64 times as much, which FFmpeg would reserve at once.
MAX_PIXELS = 139_264 * 256
# Pictures in a row for which there was no memory, until the camera is given up for a while: a second's worth.
_MEMORY_PATIENCE = 25
# Codecs whose loop filter can be left out: 0.69 to 0.79 of the work, and 99.5 % of the boxes stay where they were.
_FILTERED = frozenset({"h264", "hevc"})


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

    def spend(self, effort: DecodeEffort) -> None:
        """Tell how much work decoding may be, from the next key packet on; as far as the decoder can do with less."""
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
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
        self.info: StreamInfo | None = None
        self.undecodable = 0
        self.corrupt_frames = 0
        self._without_memory = 0
        self._context = self._whole = context
        self._light: VideoCodecContext | None = None
        self._effort = self._wanted = DecodeEffort.FULL
        self._dating = Dating(float(video.time_base or 0))
        self._log = log
        self._clock = clock

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[HostSurface]]:
        # `skip_frame` would do the same as draining, at the same cost, but with B-frames it holds each keyframe back
        # until one or two more have come.
        if isinstance(packet.opaque, Arrival):
            self._dating.sent(packet.opaque)
        started_at = self._clock()
        pictures = self._change_effort() if packet.is_keyframe and self._wanted is not self._effort else []
        pictures += self._pictures(packet)
        if alone:
            pictures += self._drain()
        decoded_at = self._clock()
        dates = self._dating.date(
            [Carried(pts=each.pts, arrival=_arrival(each)) for each in pictures],
            decoded_at=decoded_at,
            took_s=decoded_at - started_at,
        )
        return [
            self._frame(picture, dated) for picture, dated in zip(pictures, dates, strict=True) if dated is not None
        ]

    def spend(self, effort: DecodeEffort) -> None:
        self._wanted = effort

    def restart(self) -> None:
        """Begin anew at a key packet: a drained decoder takes no other."""
        for context in (self._whole, self._light):
            if context is not None and context.is_open:
                context.flush_buffers()

    def close(self) -> None:
        """Nothing to do: FFmpeg's decoder goes with its container, which the reader closes."""

    def _pictures(self, packet: VideoPacket | None) -> list[VideoFrame]:
        try:
            pictures = self._context.decode(packet)
            self._without_memory = 0
            return pictures
        except (av.error.MemoryError, MemoryError):
            return self._no_memory()
        except av.FFmpegError as exc:
            self._check_size()
            # A lossy link breaks pictures all the time; the reader gives up when no good one comes any more.
            self.undecodable += 1
            self._log.warning("a packet could not be decoded: %s", exc.strerror)
            return []

    def _no_memory(self) -> list[VideoFrame]:
        """One picture less is better than a camera less, unless it goes on like that."""
        self.undecodable += 1
        self._without_memory += 1
        if self._without_memory >= _MEMORY_PATIENCE:
            raise SourceError(SourceErrorCode.RESOURCE_EXHAUSTED, "the decoder found no memory left")
        self._log.warning("a packet could not be decoded: there is no memory left")
        return []

    def _check_size(self) -> None:
        width, height = self._context.width, self._context.height
        if width * height > MAX_PIXELS:
            raise SourceError(
                SourceErrorCode.UNSUPPORTED_CODEC,
                f"the camera announces pictures of {width}x{height}; at most {MAX_PIXELS / 1e6:.1f} million pixels are "
                "decoded",
            )

    def _change_effort(self) -> list[VideoFrame]:
        """Go on with as much work as is wanted, right before a key packet; gives what was held back until then."""
        self._effort = self._wanted
        context = self._context
        context.skip_frame = "NONREF" if self._effort is DecodeEffort.REFERENCES else "DEFAULT"
        light = self._effort is not DecodeEffort.FULL and self._whole.codec.canonical_name in _FILTERED
        if light and self._light is None:
            self._light = _without_loop_filter(self._whole)
        wanted = self._light if light and self._light is not None else self._whole
        if wanted is context:
            return []
        left = self._drain()
        wanted.skip_frame = context.skip_frame
        self._context = wanted
        return left

    def _drain(self) -> list[VideoFrame]:
        try:
            return self._pictures(None)
        finally:
            self._context.flush_buffers()

    def _frame(self, picture: VideoFrame, dated: Dated) -> SourceFrame[HostSurface]:
        self._describe(picture)
        self.corrupt_frames += picture.is_corrupt
        return SourceFrame(
            pts_s=dated.pts_s,
            times=dated.times,
            surface=HostSurface(picture),
            packet_bytes=dated.packet_bytes,
            is_key=dated.is_key,
        )

    def _describe(self, picture: VideoFrame) -> None:
        known = self.info
        if known is not None and (known.width, known.height) == (picture.width, picture.height):
            return
        self.info = StreamInfo(
            codec=self._whole.codec.canonical_name,
            width=picture.width,
            height=picture.height,
            declared_fps=plausible_fps(self._whole.framerate),
            decoder="software",
        )


def _without_loop_filter(whole: VideoCodecContext) -> VideoCodecContext:
    """A second decoder of the same stream: FFmpeg takes this option only before a decoder is opened."""
    context = cast(VideoCodecContext, CodecContext.create(whole.name, "r"))
    context.options = {"skip_loop_filter": "nokey", "max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    context.copy_opaque = True
    if whole.extradata is not None:
        context.extradata = whole.extradata
    return context


def plausible_fps(declared: Fraction | None) -> float | None:
    """The frame rate that a stream declares, None when it declares none that can be."""
    fps = float(declared or 0)
    return fps if 0 < fps <= _HIGHEST_PLAUSIBLE_FPS else None


def _arrival(picture: VideoFrame) -> Arrival | None:
    return picture.opaque if isinstance(picture.opaque, Arrival) else None
