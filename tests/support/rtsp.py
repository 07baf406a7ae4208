"""Two clients that the tests look at cameras with: FFmpeg's (through PyAV), and a raw one that shows every byte."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import av
import numpy as np

from tests.support.clips import read_frame_number


@dataclass(kw_only=True)
class View:
    """What a client saw of a camera. Index i of the lists is the i-th decoded frame or packet."""

    codec: str = ""
    streams: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # the frames' own numbers
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)  # of the packets that have one, in 1/90000 s
    keyframes: list[bool] = field(default_factory=list)  # of the packets
    ages_s: list[float] = field(default_factory=list)  # of packets: now minus the time that sender reports give them
    corrupt: int = 0  # frames that the decoder marked
    audio_packets: int = 0
    error: Exception | None = None
    seconds: float = 0.0


def watch(
    url: str,
    *,
    frames: int = 10,
    transport: str = "tcp",
    timeout_s: float = 2.0,
    limit_s: float = 10.0,
    audio: bool = False,
    done: Callable[[View], bool] | None = None,
    options: Mapping[str, str] | None = None,
) -> View:
    """Open a camera with FFmpeg and decode until `frames` frames came, `done` says so, it fails, or `limit_s` is over.

    Blocking; FFmpeg's read timeout is `timeout_s`. An error is part of the view, not raised. `options` are FFmpeg's.
    """
    view = View()
    started_at = time.monotonic()
    all_options = {
        "rtsp_transport": transport,
        "timeout": str(int(timeout_s * 1e6)),
        "analyzeduration": "0",
        "probesize": "32",
        "fpsprobesize": "0",
        **({} if audio else {"allowed_media_types": "video"}),
        **(options or {}),
    }
    try:
        # The demuxer is closed before its container: one that outlives it reads freed memory when it is collected.
        with (
            av.open(url, format="rtsp", options=all_options) as container,
            contextlib.closing(container.demux()) as packets,
        ):
            view.streams = [stream.type for stream in container.streams]
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            view.codec = video.codec_context.codec.canonical_name
            for packet in packets:
                if packet.stream.type == "audio":
                    view.audio_packets += packet.size > 0
                else:
                    _see(view, packet)
                is_done = done(view) if done else len(view.numbers) >= frames
                if is_done or time.monotonic() - started_at > limit_s:
                    break
    except (av.FFmpegError, OSError, ValueError) as exc:
        view.error = exc
    view.seconds = time.monotonic() - started_at
    return view


def _see(view: View, packet: av.Packet[av.VideoStream]) -> None:
    if packet.size:
        view.keyframes.append(packet.is_keyframe)
    if packet.pts is not None:
        view.pts.append(packet.pts)
    if packet.has_sidedata("prft"):
        captured_us: int = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))[0]
        view.ages_s.append(time.time() - captured_us / 1e6)
    for frame in packet.decode():
        view.corrupt += frame.is_corrupt
        view.sizes.append((frame.width, frame.height))
        view.numbers.append(read_frame_number(frame.to_ndarray(format="gray").astype(np.uint8, copy=False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: str


class RawRtspClient:
    """Speaks RTSP by hand: `ask` sends one request, `read_media` reads what comes interleaved."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str) -> None:
        self.reader = reader
        self.writer = writer
        self.url = url
        self._cseq = 0

    @classmethod
    async def connect(cls, url: str, *, tls: ssl.SSLContext | None = None) -> RawRtspClient:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
        return cls(reader, writer, url)

    async def ask(
        self, method: str, headers: dict[str, str] | None = None, *, track: str = "", url: str | None = None
    ) -> Reply:
        """Send a request and read its answer, past any media."""
        self._cseq += 1
        lines = [f"{method} {(url or self.url) + track} RTSP/1.0", f"CSeq: {self._cseq}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())
        return await self.read_reply()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_reply(self) -> Reply:
        while (first := await self.reader.readexactly(1)) == b"$":
            await self._read_packet()
        head = (first + await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(status=int(head[0].split(" ")[1]), headers=headers, body=body.decode())

    async def play(self, *, track: str = "/trackID=0", transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1") -> Reply:
        """SETUP one track and PLAY; return the answer to SETUP."""
        reply = await self.ask("SETUP", {"Transport": transport}, track=track)
        await self.ask("PLAY", {"Session": reply.headers.get("session", "")})
        return reply

    async def read_media(self) -> tuple[int, bytes]:
        """Read one interleaved packet: its channel and its bytes."""
        first = await self.reader.readexactly(1)
        assert first == b"$", f"expected an interleaved packet, got {first!r}"
        return await self._read_packet()

    async def _read_packet(self) -> tuple[int, bytes]:
        channel, size = struct.unpack(">BH", await self.reader.readexactly(3))
        return channel, await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the server may have dropped it first
            await self.writer.wait_closed()
