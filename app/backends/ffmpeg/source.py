"""A camera or a file, demuxed by FFmpeg (PyAV) in the thread that reads it, and decoded there by whatever decodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from app.backends.ffmpeg.decoder import FrameDecoder, OpenDecoder, PacketDecoder
from app.backends.ffmpeg.open import open_stream
from app.backends.ffmpeg.reader import PacketReader, VideoPacket
from app.backends.ffmpeg.surface import HostSurface
from app.backends.ffmpeg.timing import Arrival, Decode, DecodeGate
from app.cameras.doctor import StreamStep
from app.cameras.gate import StreamTime
from app.cameras.source import DecodeEffort, SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.logs import camera_logger
from app.nvtx import stage
from app.types import S, SourceFrame, StreamInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStats:
    """What happened to a source's packets since it was opened."""

    packets: int = 0
    skipped: int = 0  # not decoded on purpose: keyframes suffice, or the reader was behind
    undecodable: int = 0  # the decoder refused them
    frames: int = 0
    corrupt_frames: int = 0  # given out all the same, though a part of the picture is guessed
    lag_s: float = 0.0  # how far reading is behind the camera


class FfmpegSource(Generic[S]):
    """`FrameSource[S]`: FFmpeg reads, a `PacketDecoder[S]` decodes.

    H.264 and H.265 frames come one frame interval late, since FFmpeg's parser knows a picture's end by the beginning
    of the next; `captured_utc` is right nevertheless when its clock is rtcp.

    A `rtsps` camera is encrypted but not verified unless `tls_ca_file` is given: cameras sign their own certificates.
    Its video always comes over TCP, inside the encrypted connection.

    `frames` and `close` belong to one thread: closing a PyAV container that another thread reads crashes the process.
    So `interrupt` sets a flag, and silence is bounded by half of `stall_timeout_s` (all of it for rtsps, since no TLS
    session survives a read that timed out).
    """

    def __init__(
        self,
        request: SourceRequest,
        open_decoder: OpenDecoder[S],
        *,
        tls_ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._request = request
        self._open_decoder = open_decoder
        self._tls_ca_file = tls_ca_file
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_step: Callable[[StreamStep], None] | None = None
        self._log = camera_logger(request.camera_id)
        self._stop = threading.Event()
        self._max_fps: float | None = None
        self._effort = DecodeEffort.FULL
        self._gate = DecodeGate()
        self._time = StreamTime()
        self._reader: PacketReader | None = None
        self._decoder: PacketDecoder[S] | None = None
        self._closed_info: StreamInfo | None = None
        self._packets = self._skipped = self._frames = 0
        self._steps: set[StreamStep] = set()

    @property
    def info(self) -> StreamInfo | None:
        return self._closed_info if self._decoder is None else self._decoder.info

    @property
    def stats(self) -> SourceStats:
        """Counts so far. Readable from any thread."""
        decoder, reader = self._decoder, self._reader
        return SourceStats(
            packets=self._packets,
            skipped=self._skipped,
            undecodable=0 if decoder is None else decoder.undecodable,
            frames=self._frames,
            corrupt_frames=0 if decoder is None else decoder.corrupt_frames,
            lag_s=0.0 if reader is None else reader.lag.lag_s,
        )

    def report_steps(self, on_step: Callable[[StreamStep], None]) -> None:
        """Call `on_step` for each step of the way to the first frame, in the reader's thread; see the camera doctor."""
        self._on_step = on_step

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        self._max_fps, self._effort = max_fps, effort

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        # The decoder goes now, not when somebody collects garbage: it holds the pictures that others build on.
        self._closed_info = self.info
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()
        del decoder
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def frames(self) -> Iterator[SourceFrame[S]]:
        if self._stop.is_set():
            return
        try:
            reader, decoder = self._open()
            for packet in reader.packets():
                yield from self._take(packet, reader, decoder)
        except SourceError as exc:
            if self._stop.is_set():
                return
            if exc.code is SourceErrorCode.END_OF_STREAM and self._packets and not self._frames:
                raise SourceError(
                    SourceErrorCode.DECODE_FAILED, "the stream ended before any picture could be decoded"
                ) from None
            raise

    def _open(self) -> tuple[PacketReader, PacketDecoder[S]]:
        opened_at = self._clock()
        stream = open_stream(self._request, tls_ca_file=self._tls_ca_file, clock=self._clock)
        self._announce("described")
        self._reader = PacketReader(
            stream,
            stall_timeout_s=self._request.stall_timeout_s,
            opened_at=opened_at,
            stop=self._stop,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )
        self._decoder = self._open_decoder(stream.video, log=self._log, clock=self._clock)
        return self._reader, self._decoder

    def _take(self, packet: VideoPacket, reader: PacketReader, decoder: PacketDecoder[S]) -> Iterator[SourceFrame[S]]:
        decode = Decode.NEXT
        if packet.size:
            self._packets += 1
            self._announce("packet")
            if packet.is_keyframe:
                self._announce("keyframe")
            decode = self._gate.decide(
                is_key=packet.is_keyframe,
                media_s=self._media_s(packet, reader),
                max_fps=self._max_fps,
                shedding=reader.lag.shedding or self._effort is DecodeEffort.KEYFRAMES,
            )
            decoder.spend(self._effort)
        if decode is Decode.SKIP:
            self._skipped += 1
            reader.left_out()
            if reader.lag.shedding:
                self._log.warning("reading fell behind the camera; skipping up to its newest keyframe")
            return
        with stage("decode"):
            frames = decoder.decode(packet, alone=decode is Decode.ALONE)
        if not frames:
            reader.check_stall()
            return
        reader.progressed()
        self._frames += len(frames)
        self._announce("frame")
        yield from _hand_over(frames)

    def _media_s(self, packet: VideoPacket, reader: PacketReader) -> float | None:
        media_s, arrival = reader.media_s(packet), packet.opaque
        return media_s if media_s is None or not isinstance(arrival, Arrival) else self._time.of(media_s, arrival.at)

    def _announce(self, step: StreamStep) -> None:
        if self._on_step is not None and step not in self._steps:
            self._steps.add(step)
            self._on_step(step)


def _hand_over(frames: Iterable[SourceFrame[S]]) -> Iterator[SourceFrame[S]]:
    """Yield frames; those that nobody came for any more are released."""
    left = deque(frames)
    try:
        while left:
            yield left.popleft()
    finally:
        for frame in left:
            frame.surface.release()


class PyavSource(FfmpegSource[HostSurface]):
    """A source that decodes in software. Nothing is converted: a surface is the decoder's own frame."""

    def __init__(
        self,
        request: SourceRequest,
        *,
        tls_ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(request, FrameDecoder, tls_ca_file=tls_ca_file, clock=clock, wall_clock=wall_clock)
