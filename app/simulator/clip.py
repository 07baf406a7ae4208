"""A video file, cut into RTP packets once, ready to be sent for ever."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from app.simulator.errors import ClipError
from app.simulator.rtp import RTP_CLOCK_HZ, MediaFrame, media_frame

Codec = Literal["h264", "hevc", "mjpeg", "av1"]

_PACKET_BYTES = 1400  # with its RTP header: fits an Ethernet frame
MAX_CLIP_BYTES = 512 * 1024 * 1024  # a clip is held in memory whole
_FALLBACK_FPS = 25  # of raw streams that carry no clock at all
# Parameter sets before every keyframe, as cameras do it: clients join there, and the picture may change its size there.
_FILTERS = {"h264": "h264_mp4toannexb,dump_extra", "hevc": "hevc_mp4toannexb,dump_extra"}
_START_CODE = re.compile(b"\0\0\1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One loop of a video. Ticks count 1/90000 s."""

    name: str
    codec: Codec
    width: int
    height: int
    payload_type: int
    parameter_sets: tuple[bytes, ...]  # NAL units, without start codes; empty for mjpeg and av1
    frames: tuple[MediaFrame, ...]  # in decoding order; the first one is a keyframe
    duration_ticks: int  # from the first frame to the first frame of the next loop
    lead_ticks: int  # how far presentation runs ahead of sending at most: 0 without B-frames

    @property
    def fps(self) -> float:
        return len(self.frames) * RTP_CLOCK_HZ / self.duration_ticks


def load_clip(path: Path, *, name: str | None = None, max_bytes: int = MAX_CLIP_BYTES) -> Clip:
    """Read a file and cut its first video stream into RTP packets, by FFmpeg's own `rtp` muxer.

    `name` is the file's stem when None. Blocking: call it from a worker thread. Raises `ClipError` when the file cannot
    be read, has no video, has a codec other than H.264, H.265, MJPEG and AV1, or needs more memory than `max_bytes`.
    """
    try:
        with av.open(str(path)) as source:
            if not source.streams.video:
                raise ClipError(f"clip {path} has no video stream")
            return _packetise(source, path, name or path.stem, max_bytes)
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise ClipError(f"clip {path} cannot be read: {_reason(exc)}") from exc


def _packetise(source: InputContainer, path: Path, name: str, max_bytes: int) -> Clip:
    stream = source.streams.video[0]
    codec = stream.codec_context.codec.canonical_name
    if codec not in ("h264", "hevc", "mjpeg", "av1"):
        raise ClipError(f"clip {path} has codec {codec}; a clip is h264, hevc, mjpeg or av1")
    frames: list[MediaFrame] = []
    parameter_sets: tuple[bytes, ...] = ()
    held_bytes = 0
    for picture in _pictures(source, codec, path):
        if not frames:
            if not picture.is_key:
                continue  # nobody could decode it
            parameter_sets = _parameter_sets(codec, picture.encoded)
            first = picture
        frames.append(
            media_frame(
                picture.packets,
                decode_ticks=max(picture.decode_ticks - first.decode_ticks, frames[-1].decode_ticks if frames else 0),
                present_ticks=_signed_32(picture.timestamp - first.timestamp),
                is_key=picture.is_key,
            )
        )
        held_bytes += len(frames[-1].wire)
        if held_bytes > max_bytes:
            raise ClipError(f"clip {path} needs more than {max_bytes} bytes; cut it shorter")
    if not frames:
        raise ClipError(f"clip {path} has no keyframe")
    return Clip(
        name=name,
        codec=cast(Codec, codec),
        width=stream.width,
        height=stream.height,
        payload_type=first.packets[0][1] & 0x7F,
        parameter_sets=parameter_sets,
        frames=tuple(frames),
        duration_ticks=_duration_ticks(frames, stream.average_rate),
        lead_ticks=max(frame.present_ticks - frame.decode_ticks for frame in frames),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    encoded: bytes
    packets: list[bytes]
    timestamp: int  # as the muxer gave it: from a random origin, modulo 2**32
    decode_ticks: int
    is_key: bool


class _PacketSink:
    """The file that the muxer writes into: one write is one RTP packet."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._packets.append(bytes(data))
        return len(data)

    def take(self) -> list[bytes]:
        packets, self._packets = self._packets, []
        return packets


def _pictures(source: InputContainer, codec: str, path: Path) -> Iterator[_Picture]:
    sink = _PacketSink()
    # strict: FFmpeg calls its AV1 packetiser experimental. skip_rtcp: sender reports are ours to make.
    options = {"packetsize": str(_PACKET_BYTES), "strict": "-2", "rtpflags": "skip_rtcp"}
    muxer = av.open(sink, "w", format="rtp", options=options)
    try:
        for packet in _filtered(source, codec, muxer):
            encoded, is_key = bytes(packet), packet.is_keyframe
            decode_ticks = round(Fraction(packet.dts or 0) * packet.time_base * RTP_CLOCK_HZ)
            muxer.mux(packet)
            packets = sink.take()
            if not packets:
                hint = (
                    "MJPEG needs the standard Huffman tables (ffmpeg -huffman default) and at most 2040 pixels a side"
                )
                raise ClipError(f"clip {path} does not fit into RTP packets" + f": {hint}" * (codec == "mjpeg"))
            yield _Picture(
                encoded=encoded,
                packets=packets,
                timestamp=struct.unpack_from(">I", packets[0], 4)[0],
                decode_ticks=decode_ticks,
                is_key=is_key,
            )
    finally:
        muxer.close()


def _filtered(source: InputContainer, codec: str, muxer: OutputContainer) -> Iterator[Packet[VideoStream]]:
    """Demux, put parameter sets in band, and see to it that every packet has both its times."""
    stream = source.streams.video[0]
    target = muxer.add_stream_from_template(stream, opaque=True)
    filters = av.BitStreamFilterContext(_FILTERS[codec], stream, target) if codec in _FILTERS else None
    frame_units = 1 / ((stream.average_rate or Fraction(_FALLBACK_FPS)) * _time_base(stream))
    index = 0
    for packet in source.demux(stream):
        if not packet.size:
            continue  # demuxers end with an empty one
        if packet.dts is None:
            packet.dts = packet.pts if packet.pts is not None else round(index * frame_units)
        if packet.pts is None:
            packet.pts = packet.dts
        index += 1
        for filtered in filters.filter(packet) if filters else [packet]:
            filtered.stream = target
            yield filtered


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, RTP_CLOCK_HZ)


def _parameter_sets(codec: str, keyframe: bytes) -> tuple[bytes, ...]:
    """Pick the parameter sets out of an Annex B keyframe, each once, in their order."""
    if codec not in _FILTERS:
        return ()
    found: dict[bytes, None] = {}
    for unit in _START_CODE.split(keyframe):
        unit = unit.rstrip(b"\0")  # the zero before a four-byte start code
        if unit and nal_type(codec, unit) in PARAMETER_SET_TYPES[codec]:
            found[unit] = None
    return tuple(found)


PARAMETER_SET_TYPES = {"h264": (7, 8), "hevc": (32, 33, 34)}  # SPS PPS (H.264, table 7-1); VPS SPS PPS (H.265, 7.4.2.2)


def nal_type(codec: str, unit: bytes) -> int:
    return unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F


def _duration_ticks(frames: list[MediaFrame], rate: Fraction | None) -> int:
    """One frame longer than the span of the frames, so that a loop joins the next without a step or an overlap."""
    present = [frame.present_ticks for frame in frames]
    span = max(max(present) - min(present), frames[-1].decode_ticks)
    if len(frames) > 1:
        return span + max(1, round(span / (len(frames) - 1)))
    return round(RTP_CLOCK_HZ / (rate or _FALLBACK_FPS))


def _signed_32(difference: int) -> int:
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
