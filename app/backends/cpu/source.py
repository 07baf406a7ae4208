"""A camera or a file, demuxed and decoded in software by FFmpeg (PyAV) in the thread that reads it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av import VideoFrame

from app.backends.cpu.open import OpenStream, open_stream
from app.backends.cpu.reader import PacketReader, VideoPacket, arrival_of
from app.backends.cpu.surface import CpuSurface
from app.backends.cpu.timing import Arrival, Decode, DecodeGate
from app.cameras.doctor import StreamStep
from app.cameras.source import SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.types import FrameTimes, SourceFrame, StreamInfo

logger = logging.getLogger("vidette.source")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStats:
    """What happened to a source's packets since it was opened."""

    packets: int = 0
    skipped: int = 0  # not decoded on purpose: keyframes suffice, or the reader was behind
    undecodable: int = 0  # the decoder refused them
    corrupt_frames: int = 0  # given out, though parts of the picture are guessed
    lag_s: float = 0.0  # how far reading is behind the camera


class PyavSource:
    """`FrameSource[CpuSurface]` on PyAV. Nothing is converted: a surface is the decoder's own frame.

    H.264 and H.265 frames come one frame interval late, since FFmpeg's parser sees a picture's end at the next one's
    beginning; the camera's own date (`clock` rtcp) is right nevertheless. Never close a PyAV container from another
    thread than the one that reads it: it crashes the process. So `interrupt` sets a flag, and silence is bounded by
    half of `stall_timeout_s` (all of it for rtsps, where TLS does not survive a timed out read).
    """

    def __init__(
        self,
        request: SourceRequest,
        *,
        tls_ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_step: Callable[[StreamStep], None] = lambda step: None,
    ) -> None:
        self._request = request
        self._tls_ca_file = tls_ca_file
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_step = on_step
        self._steps_done: set[StreamStep] = set()
        self._stop = threading.Event()
        self._max_fps: float | None = None
        self._info: StreamInfo | None = None
        self._stream: OpenStream | None = None
        self._gate = DecodeGate()
        self._decoding_s = 0.0  # spent since the last picture came out
        self._packets = self._skipped = self._undecodable = self._corrupt_frames = self._frames = 0
        self._lag_s = 0.0
        self._time_base = 0.0

    @property
    def info(self) -> StreamInfo | None:
        return self._info

    @property
    def stats(self) -> SourceStats:
        """Counts so far. Readable from any thread."""
        return SourceStats(
            packets=self._packets,
            skipped=self._skipped,
            undecodable=self._undecodable,
            corrupt_frames=self._corrupt_frames,
            lag_s=self._lag_s,
        )

    def pace(self, max_fps: float | None) -> None:
        self._max_fps = max_fps

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.container.close()

    def frames(self) -> Iterator[SourceFrame[CpuSurface]]:
        if self._stop.is_set():
            return
        opened_at = self._clock()
        stream = self._stream = open_stream(self._request, tls_ca_file=self._tls_ca_file, clock=self._clock)
        self._step("described")
        context = stream.video.codec_context
        # PyAV's default is a thread per core and camera; frame threads would also delay pictures.
        context.thread_count = 1
        context.copy_opaque = True
        self._time_base = float(stream.video.time_base or 0)
        reader = PacketReader(
            stream,
            stall_timeout_s=self._request.stall_timeout_s,
            opened_at=opened_at,
            stop=self._stop,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )
        try:
            for packet in reader.packets():
                yield from self._take(packet, stream, reader)
        except SourceError as exc:
            if exc.code is SourceErrorCode.END_OF_STREAM and self._packets and not self._frames:
                raise SourceError(
                    SourceErrorCode.DECODE_FAILED, f"{stream.camera.address} sent video that cannot be decoded"
                ) from None
            raise

    def _take(
        self, packet: VideoPacket, stream: OpenStream, reader: PacketReader
    ) -> Iterator[SourceFrame[CpuSurface]]:
        decode = Decode.NEXT
        if packet.size:
            self._packets += 1
            self._lag_s = reader.lag.lag_s
            decode = self._gate.decide(
                is_key=packet.is_keyframe,
                media_s=reader.media_s(packet),
                max_fps=self._max_fps,
                shedding=reader.lag.shedding,
            )
            self._step("packet")
            if packet.is_keyframe:
                self._step("keyframe")
        if decode is Decode.SKIP:
            self._skipped += 1
            reader.progressed()
            return
        frames = self._decode(packet, stream, alone=decode is Decode.ALONE)
        if frames:
            reader.progressed()
            self._step("frame")
        else:
            reader.check_stall()
        decode_s = self._decoding_s / max(1, len(frames))
        for frame in frames:
            yield self._source_frame(frame, arrival_of(packet.opaque), stream, decode_s)
        if frames:
            self._decoding_s = 0.0

    def _decode(self, packet: VideoPacket, stream: OpenStream, *, alone: bool) -> list[VideoFrame]:
        started_at = self._clock()
        frames: list[VideoFrame] = []
        try:
            frames += packet.decode()
        except (av.error.InvalidDataError, av.error.PatchWelcomeError, av.error.ArgumentError) as exc:
            self._undecodable += 1
            logger.warning()
        ...
