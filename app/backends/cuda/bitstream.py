"""A stream's packets in the form that NVDEC takes, and what must be known of its pictures before NVDEC sees one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import av
from av import CodecContext, VideoFrame
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from app.backends.cuda.nvdec import Chroma
from app.backends.ffmpeg.decoder import plausible_fps
from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.surface import HostSurface
from app.inference.colour import ColorMatrix

# The first leaves a stream alone that is Annex B already; the second brings parameter sets out as side data.
_FILTERS = {
    "h264": "h264_mp4toannexb,extract_extradata",
    "hevc": "hevc_mp4toannexb,extract_extradata",
    "av1": "extract_extradata",
}
_AV1C_MARKER = 0x81
_AV1C_HEADER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """What a decoder is opened for. Two streams of equal format may go through the same decoder."""

    codec: str
    width: int  # of the picture that is shown
    height: int
    coded_width: int
    coded_height: int
    chroma: Chroma
    bit_depth: int
    full_range: bool
    matrix: ColorMatrix
    reordered: bool  # has B-frames: shown in another order than sent
    declared_fps: float | None = field(default=None, compare=False)


class Bitstream:
    """Turns packets into what a decoder without a container needs: start codes, parameter sets within the stream."""

    def __init__(self, video: VideoStream) -> None:
        context = video.codec_context
        self._filter = BitStreamFilterContext(_FILTERS[context.codec.canonical_name], video)
        # The newest parameter sets, in the form that they have within the stream; empty while none are known.
        self.parameter_sets = _in_stream_form(context.extradata or b"")

    def convert(self, packet: VideoPacket) -> VideoPacket | None:
        """Give a packet's converted copy; None when there is nothing in it. Raises `av.FFmpegError`."""
        # A filter takes a packet's bytes away, and the software decoder may still want it.
        for converted in self._filter.filter(_packet(bytes(packet), pts=packet.pts)):
            if converted.has_sidedata("new_extradata"):
                self.parameter_sets = bytes(converted.get_sidedata("new_extradata"))
            return converted
        return None

    def complete(self, packet: VideoPacket) -> VideoPacket:
        """The packet that a new decoder begins with: preceded by the parameter sets if it has none itself.

        RTSP cameras may send them in the session's description only.
        """
        if packet.has_sidedata("new_extradata") or not self.parameter_sets:
            return packet
        return _packet(self.parameter_sets + bytes(packet), pts=packet.pts)


class FormatProbe:
    """Learns a stream's format by decoding it in software up to its first picture.

    What a container or a session description says of size, range and matrix is often absent and sometimes wrong.
    """

    def __init__(self, video: VideoStream) -> None:
        context = video.codec_context
        self._codec = context.codec.canonical_name
        self._declared = context.framerate
        self._reordered = bool(context.has_b_frames)
        decoder = CodecContext.create(context.name, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        self._decoder = decoder

    def learn(self, packet: VideoPacket, *, is_key: bool) -> VideoFormat | None:
        """Decode one more packet; None when no picture came of it yet."""
        try:
            pictures = self._decoder.decode(packet)
            if is_key and not pictures:
                pictures = self._decoder.decode(None)
                self._decoder.flush_buffers()
        except av.FFmpegError:
            return None
        return self._describe(pictures[0]) if pictures else None

    def _describe(self, picture: VideoFrame) -> VideoFormat:
        decoder, surface = self._decoder, HostSurface(picture)
        return VideoFormat(
            codec=self._codec,
            width=picture.width,
            height=picture.height,
            coded_width=max(picture.width, decoder.coded_width),
            coded_height=max(picture.height, decoder.coded_height),
            chroma=_chroma(picture),
            bit_depth=picture.format.components[0].bits,
            full_range=surface.full_range,
            matrix=surface.matrix,
            reordered=self._reordered or bool(decoder.has_b_frames),
            declared_fps=plausible_fps(decoder.framerate or self._declared),
        )


def _packet(data: bytes, *, pts: int | None) -> VideoPacket:
    packet = Packet(data)
    packet.pts = pts
    return cast(VideoPacket, packet)


def _chroma(picture: VideoFrame) -> Chroma:
    components = picture.format.components
    if len(components) == 1:
        return "400"
    if picture.format.is_rgb or len(components) != 3:
        return "other"
    across = 1 if components[1].width == picture.width else 2
    down = 1 if components[1].height == picture.height else 2
    chromas: dict[tuple[int, int], Chroma] = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}
    if components[1].width < picture.width // 2:
        return "other"
    return chromas.get((across, down), "other")


def _in_stream_form(extradata: bytes) -> bytes:
    if extradata[:1] == bytes([_AV1C_MARKER]):
        return extradata[_AV1C_HEADER_BYTES:]
    # avcC and hvcC: the filter puts them before key packets itself. What remains of AV1 is a bare sequence header.
    is_record = extradata[:1] == b"\1"
    return b"" if is_record else extradata
