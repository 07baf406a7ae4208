"""RTP and RTCP bytes, read back field by field."""

from __future__ import annotations

import struct

import pytest

from app.simulator.rtp import MediaFrame, RtpStream, interleaved, media_frame


def frame_of(*payloads: bytes) -> MediaFrame:
    packets = [b"\x80\xe0" + bytes(10) + payload for payload in payloads]
    return media_frame(packets, decode_ticks=0, present_ticks=0, is_key=True)


def test_stamped_packets_carry_sequence_timestamp_and_ssrc() -> None:
    stream = RtpStream(ssrc=0xCAFE0001, first_sequence=65534, first_timestamp=100)
    burst = stream.stamp(frame_of(b"a", b"bb", b"ccc"), 9000)
    headers = [struct.unpack_from(">BBHII", datagram) for datagram in burst.datagrams()]
    assert headers == [(0x80, 0xE0, sequence, 9100, 0xCAFE0001) for sequence in (65534, 65535, 0)]
    assert [bytes(datagram[12:]) for datagram in burst.datagrams()] == [b"a", b"bb", b"ccc"]
    assert (stream.packets, stream.octets) == (3, 6)


@pytest.mark.parametrize(
    ("first_timestamp", "ticks", "timestamp"),
    [(0xFFFFFFFF, 1, 0), (0, -1, 0xFFFFFFFF), (5, 3 * (1 << 32) + 2, 7)],
)
def test_timestamps_wrap_at_32_bits(first_timestamp: int, ticks: int, timestamp: int) -> None:
    stream = RtpStream(ssrc=1, first_sequence=0, first_timestamp=first_timestamp)
    assert struct.unpack_from(">I", stream.stamp(frame_of(b"a"), ticks).wire, 8)[0] == timestamp


def test_each_stamping_is_a_fresh_copy() -> None:
    stream, frame = RtpStream(ssrc=1, first_sequence=0, first_timestamp=0), frame_of(b"a")
    first = stream.stamp(frame, 0)
    before = bytes(first.wire)
    stream.stamp(frame, 3600)
    assert bytes(first.wire) == before


def test_skipped_frame_leaves_a_gap_in_the_sequence() -> None:
    stream = RtpStream(ssrc=1, first_sequence=10, first_timestamp=0)
    stream.skip(frame_of(b"a", b"b"))
    assert struct.unpack_from(">H", stream.stamp(frame_of(b"c"), 0).wire, 6)[0] == 12
    assert stream.packets == 1


def test_jump_moves_packets_and_reports_alike() -> None:
    stream = RtpStream(ssrc=1, first_sequence=0, first_timestamp=1000)
    stream.jump(-400)
    assert struct.unpack_from(">I", stream.stamp(frame_of(b"a"), 0).wire, 8)[0] == 600
    assert struct.unpack_from(">I", stream.sender_report(0, 0.0), 16)[0] == 600


def test_interleaved_bytes_are_framed_for_the_clients_channel() -> None:
    burst = RtpStream(ssrc=1, first_sequence=0, first_timestamp=0).stamp(frame_of(b"a", b"bcd"), 0)
    wire = bytes(burst.on_channel(6))
    assert wire[:4] == b"$\x06\x00\x0d"
    assert wire[17:21] == b"$\x06\x00\x0f"
    assert burst.on_channel(0) is burst.wire
    assert wire.replace(b"$\x06", b"$\x00") == bytes(burst.wire)


def test_sender_report_pairs_wall_clock_and_media_clock() -> None:
    stream = RtpStream(ssrc=0xABCD, first_sequence=0, first_timestamp=50)
    stream.stamp(frame_of(b"12345"), 0)
    report = stream.sender_report(90_000, 1_700_000_000.25)
    version, kind, words, ssrc, seconds, fraction, timestamp, packets, octets = struct.unpack_from(">BBHIIIIII", report)
    assert (version, kind, words, ssrc) == (0x80, 200, 6, 0xABCD)
    assert seconds + fraction / (1 << 32) - 2_208_988_800 == 1_700_000_000.25
    assert (timestamp, packets, octets) == (90_050, 1, 5)


def test_report_and_goodbye_are_whole_rtcp_packets() -> None:
    stream = RtpStream(ssrc=0xABCD, first_sequence=0, first_timestamp=0)
    compound = stream.sender_report(0, 0.0) + stream.goodbye()
    kinds = []
    while compound:
        kinds.append(compound[1])
        size = 4 * (struct.unpack_from(">H", compound, 2)[0] + 1)
        assert len(compound) >= size
        compound = compound[size:]
    assert kinds == [200, 202, 203]


def test_interleaving_puts_four_bytes_before_a_packet() -> None:
    assert interleaved(b"xyz", channel=3) == b"$\x03\x00\x03xyz"
