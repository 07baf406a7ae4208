"""One RTP stream, and the clients that it goes to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from app.simulator.rtp import MediaFrame, RtpBurst, RtpStream, interleaved


class MediaClock:
    """Where a camera's media stands, against the event loop's clock and the wall clock."""

    def __init__(self, *, started_at: float, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._started_at = started_at
        self._monotonic = monotonic
        self._wall = wall

    def due_at(self, ticks: int, clock_hz: int) -> float:
        return self._started_at + ticks / clock_hz

    def lateness_s(self, ticks: int, clock_hz: int) -> float:
        return self._monotonic() - self.due_at(ticks, clock_hz)

    def ticks(self, clock_hz: int) -> int:
        """The media clock now."""
        return round((self._monotonic() - self._started_at) * clock_hz)

    def postpone(self, seconds: float) -> None:
        """Leave out time in which nothing could be sent."""
        self._started_at += seconds

    def monotonic(self) -> float:
        return self._monotonic()

    def wall_utc(self) -> float:
        return self._wall()


class MediaSink(Protocol):
    """One client's way for one stream. Sending never blocks."""

    @property
    def backlog_bytes(self) -> int:
        """What was sent but not yet taken by the operating system."""
        ...

    def send_media(self, burst: RtpBurst) -> None: ...

    def send_control(self, packet: bytes) -> None: ...


class InterleavedSink:
    """RTP in the client's RTSP connection: `channel` for RTP, the next one for RTCP."""

    def __init__(self, transport: asyncio.WriteTransport, channel: int) -> None:
        self._transport = transport
        self.channel = channel

    @property
    def backlog_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def send_media(self, burst: RtpBurst) -> None:
        if burst.wire:
            self._transport.write(burst.on_channel(self.channel))

    def send_control(self, packet: bytes) -> None:
        self._transport.write(interleaved(packet, channel=self.channel + 1))


class UdpSink:
    """RTP and RTCP to a client's two UDP ports."""

    backlog_bytes = 0  # what does not fit into the socket's buffer is lost at once, as on a network

    def __init__(self, sockets: UdpSockets, host: str, *, rtp_port: int, rtcp_port: int) -> None:
        self._sockets = sockets
        self._rtp_address = (host, rtp_port)
        self._rtcp_address = (host, rtcp_port)

    def send_media(self, burst: RtpBurst) -> None:
        for datagram in burst.datagrams():
            self._sockets.send_rtp(datagram, self._rtp_address)

    def send_control(self, packet: bytes) -> None:
        self._sockets.send_rtcp(packet, self._rtcp_address)


class UdpSockets:
    """The server's RTP port, an even one, and its RTCP port, the next (RFC 3550, 11). Sends only; never blocks."""

    _ATTEMPTS = 64

    def __init__(self, rtp: socket.socket, rtcp: socket.socket) -> None:
        self.datagrams_lost = 0
        self._rtp = rtp
        self._rtcp = rtcp

    @classmethod
    async def open(cls, host: str) -> UdpSockets:
        """Bind a free pair of ports. Raises OSError when there is none."""
        found = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
        family, *_, address = found[0]
        for _ in range(cls._ATTEMPTS):
            rtp = _bound(family, address)
            port = rtp.getsockname()[1]
            if port % 2 == 0:
                with contextlib.suppress(OSError):  # somebody may have the odd port: try another pair
                    return cls(rtp, _bound(family, (address[0], port + 1, *address[2:])))
            rtp.close()
        raise OSError("no free pair of UDP ports")

    @property
    def ports(self) -> tuple[int, int]:
        return self._rtp.getsockname()[1], self._rtcp.getsockname()[1]

    def send_rtp(self, packet: memoryview, address: tuple[str, int]) -> None:
        self._send(self._rtp, packet, address)

    def send_rtcp(self, packet: bytes, address: tuple[str, int]) -> None:
        self._send(self._rtcp, packet, address)

    def close(self) -> None:
        self._rtp.close()
        self._rtcp.close()

    def _send(self, sender: socket.socket, packet: memoryview | bytes, address: tuple[str, int]) -> None:
        try:
            sender.sendto(packet, address)
        except OSError:
            self.datagrams_lost += 1


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened


class LiveTrack:
    """Sends one RTP stream to its sinks; each of them starts at a keyframe, with a sender report before it.

    A sink whose backlog is beyond the limit gets nothing until it has drained, and then goes on at a keyframe.
    """

    def __init__(
        self, stream: RtpStream, clock: MediaClock, *, max_backlog_bytes: int, report_interval_s: float
    ) -> None:
        self.stream = stream
        self.frames_sent = 0
        self.frames_skipped = 0  # for clients with a full backlog
        self._clock = clock
        self._max_backlog_bytes = max_backlog_bytes
        self._report_interval_s = report_interval_s
        self.skew_s = 0.0  # how far ahead of the true one the wall clock of the sender reports is
        self._next_report_at = 0.0
        self._sinks: dict[MediaSink, bool] = {}  # whether it has started

    @property
    def sinks(self) -> int:
        return len(self._sinks)

    def join(self, sink: MediaSink) -> None:
        self._sinks.setdefault(sink, False)

    def leave(self, sink: MediaSink) -> None:
        self._sinks.pop(sink, None)

    def report_soon(self) -> None:
        """Send the next sender report with the next frame."""
        self._next_report_at = 0.0

    def hold(self, frame: MediaFrame) -> None:
        """Send nothing of this frame; go on at a keyframe later."""
        self.stream.skip(frame)
        for sink in self._sinks:
            self._sinks[sink] = False

    def send(self, frame: MediaFrame, ticks: int, *, lead_ticks: int, harm: Callable[[RtpBurst], RtpBurst]) -> None:
        """Send a frame to every sink that can take it. ticks: its presentation time on the media clock.

        lead_ticks: how far presentation may run ahead of sending. The sender reports move it out of the way, so that
        no frame claims to be taken after it was sent.
        """
        takers = [sink for sink, has_started in self._sinks.items() if has_started or frame.is_key]
        if not takers:
            self.stream.skip(frame)
            return
        burst = harm(self.stream.stamp(frame, ticks))
        report = b""
        is_due = self._clock.monotonic() >= self._next_report_at
        if is_due:
            self._next_report_at = self._clock.monotonic() + self._report_interval_s
        for sink in takers:
            if sink.backlog_bytes > self._max_backlog_bytes:
                self._sinks[sink] = False
                self.frames_skipped += 1
                continue
            if is_due or not self._sinks[sink]:
                report = report or self._report(lead_ticks)
                sink.send_control(report)
            self._sinks[sink] = True
            sink.send_media(burst)
            self.frames_sent += 1

    def say_goodbye(self) -> None:
        """Send RTCP BYE, behind a report: a compound packet starts with one (RFC 3550, 6.1)."""
        for sink in self._sinks:
            sink.send_control(self._report(0) + self.stream.goodbye())

    def _report(self, lead_ticks: int) -> bytes:
        wall_utc = self._clock.wall_utc() + self.skew_s
        return self.stream.sender_report(self._clock.ticks(self.stream.clock_hz) + lead_ticks, wall_utc)
