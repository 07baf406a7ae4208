"""Who gets which frame of a live stream."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from app.simulator.rtp import MediaFrame, RtpBurst, RtpStream, media_frame
from app.simulator.tracks import InterleavedSink, LiveTrack, MediaClock, UdpSink, UdpSockets


class ScriptedSink:
    """Keeps what it gets; its backlog is what the test says."""

    def __init__(self) -> None:
        self.backlog_bytes = 0
        self.sent: list[str] = []

    def send_media(self, burst: RtpBurst) -> None:
        self.sent += [bytes(datagram[12:]).decode() for datagram in burst.datagrams()]

    def send_control(self, packet: bytes) -> None:
        assert packet[1] == 200, "a compound RTCP packet starts with a report"
        self.sent.append("report+bye" if packet[-7] == 203 else "report")


class Clocks:
    def __init__(self) -> None:
        self.now_at = 100.0
        self.wall_utc = 1_700_000_000.0

    def pass_time(self, seconds: float) -> None:
        self.now_at += seconds
        self.wall_utc += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def track(clocks: Clocks) -> LiveTrack:
    clock = MediaClock(started_at=100.0, monotonic=lambda: clocks.now_at, wall=lambda: clocks.wall_utc)
    stream = RtpStream(ssrc=1, first_sequence=0, first_timestamp=0)
    return LiveTrack(stream, clock, max_backlog_bytes=1000, report_interval_s=5.0)


def frame_of(text: str) -> MediaFrame:
    packet = b"\x80\xe0" + bytes(10) + text.encode()
    return media_frame([packet], decode_ticks=0, present_ticks=0, is_key=text.startswith("K"))


def send(track: LiveTrack, *texts: str) -> None:
    for text in texts:
        track.send(frame_of(text), 0, lead_ticks=0, harm=lambda burst: burst)


def test_new_sink_starts_at_a_keyframe_behind_a_report(track: LiveTrack) -> None:
    sink = ScriptedSink()
    track.join(sink)
    send(track, "d1", "d2", "K3", "d4")
    assert sink.sent == ["report", "K3", "d4"]


def test_second_sink_gets_its_own_first_report(track: LiveTrack) -> None:
    first, second = ScriptedSink(), ScriptedSink()
    track.join(first)
    send(track, "K1")
    track.join(second)
    send(track, "K2")
    assert first.sent == ["report", "K1", "K2"]
    assert second.sent == ["report", "K2"]


def test_reports_are_repeated(track: LiveTrack, clocks: Clocks) -> None:
    sink = ScriptedSink()
    track.join(sink)
    send(track, "K1")
    clocks.pass_time(4.9)
    send(track, "d2")
    clocks.pass_time(0.2)
    send(track, "d3", "d4")
    assert sink.sent == ["report", "K1", "d2", "report", "d3", "d4"]


def test_full_sink_goes_on_at_a_keyframe_and_the_loss_is_counted(track: LiveTrack) -> None:
    slow, quick = ScriptedSink(), ScriptedSink()
    track.join(slow)
    track.join(quick)
    send(track, "K1")
    slow.backlog_bytes = 1001
    send(track, "d2", "K3")
    slow.backlog_bytes = 1000
    send(track, "d4", "K5", "d6")
    assert slow.sent == ["report", "K1", "report", "K5", "d6"]
    assert [text for text in quick.sent if text != "report"] == ["K1", "d2", "K3", "d4", "K5", "d6"]
    assert (track.frames_skipped, track.frames_sent) == (2, 9)


def test_after_a_hold_every_sink_goes_on_at_a_keyframe(track: LiveTrack) -> None:
    sink = ScriptedSink()
    track.join(sink)
    send(track, "K1")
    track.hold(frame_of("d2"))
    send(track, "d3", "K4")
    assert sink.sent == ["report", "K1", "report", "K4"]


def test_sink_that_left_gets_nothing(track: LiveTrack) -> None:
    sink = ScriptedSink()
    track.join(sink)
    track.leave(sink)
    track.leave(sink)
    send(track, "K1")
    track.say_goodbye()
    assert (sink.sent, track.sinks) == ([], 0)


def test_goodbye_comes_behind_a_report(track: LiveTrack) -> None:
    sink = ScriptedSink()
    track.join(sink)
    track.say_goodbye()
    assert sink.sent == ["report+bye"]


def test_clock_counts_ticks_and_lateness_from_its_start(clocks: Clocks) -> None:
    clock = MediaClock(started_at=101.0, monotonic=lambda: clocks.now_at, wall=lambda: clocks.wall_utc)
    assert clock.due_at(45_000, 90_000) == 101.5
    clocks.pass_time(3.0)
    assert (clock.ticks(8000), clock.lateness_s(90_000, 90_000)) == (16_000, 1.0)
    clock.postpone(1.0)
    assert (clock.ticks(8000), clock.lateness_s(90_000, 90_000)) == (8_000, 0.0)


async def test_udp_sockets_are_a_pair_and_send_what_they_are_given() -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    sockets = await UdpSockets.open("127.0.0.1")
    try:
        rtp_port, rtcp_port = sockets.ports
        assert (rtp_port % 2, rtcp_port) == (0, rtp_port + 1)
        port = receiver.getsockname()[1]
        sink = UdpSink(sockets, "127.0.0.1", rtp_port=port, rtcp_port=port)
        stream = RtpStream(ssrc=1, first_sequence=0, first_timestamp=0)
        sink.send_media(stream.stamp(frame_of("K1"), 0))
        sink.send_control(stream.goodbye())
        loop = asyncio.get_running_loop()
        assert (await loop.sock_recv(receiver, 2000))[12:] == b"K1"
        assert (await loop.sock_recv(receiver, 2000))[1] == 203
    finally:
        sockets.close()
        receiver.close()


async def test_datagram_that_cannot_be_sent_is_lost_and_counted() -> None:
    sockets = await UdpSockets.open("127.0.0.1")
    try:
        sockets.send_rtp(memoryview(bytes(70_000)), ("127.0.0.1", 9))
        assert sockets.datagrams_lost == 1
    finally:
        sockets.close()


class WrittenTransport(asyncio.WriteTransport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))


def test_interleaved_sink_frames_media_and_reports_for_its_channels() -> None:
    transport = WrittenTransport()
    sink = InterleavedSink(transport, 2)
    stream = RtpStream(ssrc=1, first_sequence=0, first_timestamp=0)
    sink.send_media(stream.stamp(frame_of("K1"), 0))
    sink.send_media(RtpBurst(bytearray(), ()))
    sink.send_control(b"12345678")
    assert [data[:4] for data in transport.written] == [b"$\x02\x00\x0e", b"$\x03\x00\x08"]
    assert struct.unpack_from(">BB", transport.written[0], 4) == (0x80, 0xE0)
    assert sink.backlog_bytes == 18 + 12
