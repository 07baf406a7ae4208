"""RTP and RTCP on the wire (RFC 3550), interleaved into RTSP (RFC 2326, 10.12).

The packets of one picture are kept as one ready buffer, each behind its four interleaving bytes (`$`, channel, length).
Sending then costs one copy of the buffer and a few patched bytes in each packet, whatever the codec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RTP_CLOCK_HZ = 90_000  # of every video format here (RFC 6184, 7798, 2435 and AV1's)
RTP_HEADER_BYTES = 12
FRAME_HEADER_BYTES = 4  # `$`, channel, length
_NTP_UNIX_OFFSET_S = 2_208_988_800  # 1900-01-01 to 1970-01-01 (RFC 3550, 4)
_FRAME_HEADER = struct.Struct(">cBH")
_STAMP = struct.Struct(">HII")  # sequence number, timestamp, SSRC: bytes 2 to 11 of the header
_SENDER_REPORT = struct.Struct(">BBHIIIIII")
_CNAME = b"simulator"
_GARBAGE_DATAGRAM_BYTES = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFrame:
    """The RTP packets of one picture (or one piece of sound), ready but for sequence number, timestamp and SSRC."""

    decode_ticks: int  # when to send it, from the start of its clip, in RTP clock ticks
    present_ticks: int  # its RTP timestamp, from the start of its clip; differs from `decode_ticks` with B-frames
    is_key: bool
    wire: bytes
    offsets: tuple[int, ...]  # where each interleaved packet starts in `wire`


@dataclass(frozen=True, slots=True)
class RtpBurst:
    """Stamped packets on their way out. No offsets: bytes that are no packets (the garbage fault)."""

    wire: bytearray
    offsets: tuple[int, ...]

    def on_channel(self, channel: int) -> bytearray:
        """The interleaved bytes for one client. Shared where the channel is 0: nobody writes to them any more."""
        if channel == 0 or not self.offsets:
            return self.wire
        copy = bytearray(self.wire)
        for offset in self.offsets:
            copy[offset + 1] = channel
        return copy

    def datagrams(self) -> Iterator[memoryview]:
        """The RTP packets alone, for UDP."""
        view = memoryview(self.wire)
        if not self.offsets:
            if self.wire:
                yield view[:_GARBAGE_DATAGRAM_BYTES]
            return
        for start, end in zip(self.offsets, (*self.offsets[1:], len(self.wire)), strict=True):
            yield view[start + FRAME_HEADER_BYTES : end]

    def packets(self) -> list[bytes]:
        """A copy of each RTP packet; none of bytes that are no packets."""
        return [bytes(packet) for packet in self.datagrams()] if self.offsets else []

    @classmethod
    def of(cls, packets: Sequence[bytes]) -> RtpBurst:
        """RTP packets as they are, on channel 0."""
        wire, offsets = _joined(packets)
        return cls(wire, offsets)

    def keep(self, wanted: Sequence[bool]) -> RtpBurst:
        """Only the packets for which `wanted` (one for each) is true."""
        if all(wanted):
            return self
        wire, offsets = bytearray(), []
        ends = (*self.offsets[1:], len(self.wire))
        for start, end, is_wanted in zip(self.offsets, ends, wanted, strict=True):
            if is_wanted:
                offsets.append(len(wire))
                wire += self.wire[start:end]
        return RtpBurst(wire, tuple(offsets))


def media_frame(packets: Sequence[bytes], *, decode_ticks: int, present_ticks: int, is_key: bool) -> MediaFrame:
    """Join RTP packets (header and payload each) into one ready buffer on channel 0."""
    wire, offsets = _joined(packets)
    return MediaFrame(
        decode_ticks=decode_ticks, present_ticks=present_ticks, is_key=is_key, wire=bytes(wire), offsets=offsets
    )


def _joined(packets: Sequence[bytes]) -> tuple[bytearray, tuple[int, ...]]:
    wire, offsets = bytearray(), []
    for packet in packets:
        offsets.append(len(wire))
        wire += interleaved(packet, channel=0)
    return wire, tuple(offsets)


def interleaved(packet: bytes, *, channel: int) -> bytes:
    return _FRAME_HEADER.pack(b"$", channel, len(packet)) + packet


class RtpStream:
    """The numbers of one RTP stream: SSRC, sequence, timestamp origin, and what was sent so far."""

    def __init__(self, *, ssrc: int, first_sequence: int, first_timestamp: int, clock_hz: int = RTP_CLOCK_HZ) -> None:
        self.ssrc = ssrc
        self.clock_hz = clock_hz
        self.packets = 0
        self.octets = 0
        self._sequence = first_sequence & 0xFFFF
        self._first_timestamp = first_timestamp

    def stamp(self, frame: MediaFrame, ticks: int) -> RtpBurst:
        """Copy a frame's packets and number them. ticks: the stream's media clock, any size; it wraps at 32 bits."""
        wire = bytearray(frame.wire)
        timestamp = self._timestamp(ticks)
        sequence, ssrc, pack_into = self._sequence, self.ssrc, _STAMP.pack_into
        for offset in frame.offsets:
            pack_into(wire, offset + FRAME_HEADER_BYTES + 2, sequence, timestamp, ssrc)
            sequence = (sequence + 1) & 0xFFFF
        self._sequence = sequence
        self.packets += len(frame.offsets)
        self.octets += len(wire) - len(frame.offsets) * (FRAME_HEADER_BYTES + RTP_HEADER_BYTES)
        return RtpBurst(wire, frame.offsets)

    def skip(self, frame: MediaFrame) -> None:
        """Number a frame's packets without sending them: who listens sees a gap."""
        self._sequence = (self._sequence + len(frame.offsets)) & 0xFFFF

    def jump(self, ticks: int) -> None:
        """Move all timestamps from here on."""
        self._first_timestamp += ticks

    def wrap(self, ticks: int, *, in_ticks: int) -> None:
        """Move all timestamps from here on so that they wrap `in_ticks` behind the media clock's `ticks`."""
        self._first_timestamp = -(ticks + in_ticks)

    def sender_report(self, ticks: int, wall_utc: float) -> bytes:
        """Build a compound SR + SDES that says: at `wall_utc` (Unix seconds) the media clock stood at `ticks`."""
        seconds = int(wall_utc)
        fraction = int((wall_utc - seconds) * (1 << 32))
        report = _SENDER_REPORT.pack(
            0x80,
            200,
            6,
            self.ssrc,
            (seconds + _NTP_UNIX_OFFSET_S) & 0xFFFFFFFF,
            fraction,
            self._timestamp(ticks),
            self.packets & 0xFFFFFFFF,
            self.octets & 0xFFFFFFFF,
        )
        # RFC 3550, 6.5: an item list ends with at least one zero byte, up to a 32-bit boundary.
        items = struct.pack(">BB", 1, len(_CNAME)) + _CNAME
        items += bytes(4 - len(items) % 4)
        return report + struct.pack(">BBHI", 0x81, 202, 1 + len(items) // 4, self.ssrc) + items

    def goodbye(self) -> bytes:
        """Build an RTCP BYE."""
        return struct.pack(">BBHI", 0x81, 203, 1, self.ssrc)

    def _timestamp(self, ticks: int) -> int:
        return (self._first_timestamp + ticks) & 0xFFFFFFFF
