"""Reading packets from an open stream: what to do with silence, with its end, with a file that comes too fast."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, TypeAlias

import av
from av import error as av_error
from av.packet import Packet
from av.video.stream import VideoStream

from app.backends.ffmpeg.faults import read_failed
from app.backends.ffmpeg.open import OpenStream
from app.backends.ffmpeg.timing import LagMeter, Pacer, date_packet
from app.errors import SourceError, SourceErrorCode

if TYPE_CHECKING:
    VideoPacket: TypeAlias = Packet[VideoStream]
else:  # generic in the stubs only
    VideoPacket = Packet

_SILENCE = (av_error.ExitError, av_error.TimeoutError)


class PacketReader:
    """Yields an open stream's packets, each with its `Arrival` as `opaque`. One thread; it alone may also close it.

    Raises `SourceError` for silence longer than `stall_timeout_s`, for a broken connection and for the end.
    """

    def __init__(
        self,
        stream: OpenStream,
        *,
        stall_timeout_s: float,
        opened_at: float,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.lag = LagMeter()
        self._stream = stream
        self._stall_timeout_s = stall_timeout_s
        self._stop = stop
        self._clock = clock
        self._wall_clock = wall_clock
        self._pacer = Pacer() if stream.camera.path is not None else None
        self._time_base = float(stream.video.time_base or 0)
        self._demux: Iterator[VideoPacket] | None = None
        self._packet_at = opened_at
        self._keys = False  # there was one
        self._key_at = opened_at
        self._key_gap_s = 0.0  # the longest between two keyframes so far; 0: not known
        # Connecting may have taken long; the first frame gets at least one look-up's time.
        self._alive_at = max(opened_at, clock() - stall_timeout_s / 2)

    def packets(self) -> Iterator[VideoPacket]:
        """Yield packets until `stop` is set. An empty packet means: give out what the decoder holds back."""
        while not self._stop.is_set():
            read_at = self._clock()
            try:
                self._demux = self._stream.container.demux(self._stream.video)
                for packet in self._demux:
                    late = packet.size > 0 and self._arrived(packet, read_at)
                    if self._stop.is_set():
                        return
                    yield packet
                    if self._stop.is_set():  # and perhaps closed: FFmpeg must not be asked for another
                        return
                    if late:
                        self.check_stall()
                    read_at = self._clock()
            except _SILENCE:
                # FFmpeg keeps the session and the position, so reading goes on where it was.
                self.check_stall()
                continue
            except (av.FFmpegError, MemoryError) as exc:
                if self._stop.is_set():
                    return
                silent_s = self._clock() - self._packet_at
                raise read_failed(
                    exc, self._stream.camera, silent_s=silent_s, patience_s=self._stream.patience_s
                ) from None
            if not self._stop.is_set():
                how = "ended the stream" if self._pacer is None else "was played to its end"
                raise SourceError(SourceErrorCode.END_OF_STREAM, f"{self._stream.camera.address} {how}")

    def close(self) -> None:
        """Close the container. Idempotent. `packets` may still be suspended, but must not be under way."""
        demux, self._demux = self._demux, None
        if isinstance(demux, Generator):
            demux.close()  # PyAV's generators free nothing when they are only dropped: 100 KB for each H.264 camera
        self._stream.container.close()

    def media_s(self, packet: VideoPacket) -> float | None:
        """The packet's place in decoding order on the stream's own clock; None for the first packets of a camera."""
        return None if packet.dts is None else packet.dts * self._time_base

    def progressed(self) -> None:
        """Take note that the last packet led to a picture."""
        self._alive_at = max(self._alive_at, self._packet_at)

    def left_out(self) -> None:
        """Take note that the last packet was left out on purpose. Raises when the keyframe to go on with never comes.

        Never is the stall timeout and twice as long as keyframes were ever apart, or three of the first where only one
        was seen. A new connection begins with one.
        """
        waited_s = self._packet_at - self._key_at
        least_s = self._stall_timeout_s * (1 if self._key_gap_s else 3)
        if self._pacer is None and waited_s >= max(least_s, 2 * self._key_gap_s):
            raise SourceError(
                SourceErrorCode.DECODE_FAILED,
                f"{self._stream.camera.address} has sent no keyframe for {waited_s:.0f} seconds, "
                "and decoding has to begin with one",
            )
        self.progressed()

    def check_stall(self) -> None:
        """Raise when nothing good came for `stall_timeout_s`."""
        now = self._clock()
        # 0.95: the second of two look-ups may come a little before twice the first.
        if self._pacer is not None or now - self._alive_at < 0.95 * self._stall_timeout_s:
            return
        address = self._stream.camera.address
        if now - self._packet_at < self._stream.patience_s and self._packet_at > self._alive_at:
            raise SourceError(SourceErrorCode.DECODE_FAILED, f"{address} sends video that cannot be decoded")
        raise SourceError(
            SourceErrorCode.READ_TIMEOUT, f"{address} sent no video for {self._stall_timeout_s:g} seconds"
        )

    def _arrived(self, packet: VideoPacket, read_at: float) -> bool:
        """Date a packet. True when it comes from before a silence: FFmpeg's parser held it until a read timed out."""
        media_s = self.media_s(packet)
        at = self._clock()
        late = self._pacer is None and at - read_at >= 0.9 * self._stream.patience_s
        self._packet_at = read_at if late else at
        if packet.is_keyframe:
            if self._keys:
                self._key_gap_s = max(self._key_gap_s, self._packet_at - self._key_at)
            self._keys, self._key_at = True, self._packet_at
        if media_s is not None and self._pacer is not None:
            self._stop.wait(self._pacer.delay_s(media_s, at))
            at = self._clock()
        elif media_s is not None:
            self.lag.observe(media_s, self._packet_at)
        packet.opaque = date_packet(
            at=at,
            utc=self._wall_clock(),
            lag_s=self.lag.lag_s,
            sender_utc=_sender_utc(packet),
            packet_bytes=packet.size,
            is_key=packet.is_keyframe,
        )
        return late


def _sender_utc(packet: VideoPacket) -> float | None:
    """The packet's date by the last RTCP sender report, once there was one."""
    if not packet.has_sidedata("prft"):
        return None
    # AVProducerReferenceTime begins with the wall clock in µs since 1970.
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return float(microseconds) / 1e6
