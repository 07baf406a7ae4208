"""Packets into pictures in device memory: on NVDEC, or in software with an upload, as was chosen for the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import av
from av.video.stream import VideoStream

from app.backends.cuda.bitstream import Bitstream, FormatProbe, VideoFormat
from app.backends.cuda.choice import DecoderChoice, Refusal
from app.backends.cuda.hardware import NvdecDecoder
from app.backends.cuda.nvdec import NvdecError
from app.backends.cuda.software import UploadDecoder
from app.backends.cuda.surface import CudaSurface
from app.backends.cuda.writer import SurfaceWriter
from app.backends.ffmpeg.decoder import Log
from app.backends.ffmpeg.reader import VideoPacket
from app.cameras.source import DecodeEffort
from app.errors import SourceError, SourceErrorCode
from app.types import SourceFrame, StreamInfo

# A picture may be sent this long before one that is shown earlier; more is a jump of the camera's clock.
_LONGEST_REORDERING_S = 1.0
_REMEMBERED_FORMATS = 8


class CudaDecoder:
    """`PacketDecoder[CudaSurface]`: chooses a decoder when the stream's format is known, and again when it changes.

    Belongs to the thread that reads the stream, inside `driver.bound()`; the counters may be read from any. Takes
    over `writer` once it is made.
    """

    def __init__(
        self,
        camera_id: str,
        video: VideoStream,
        *,
        choice: DecoderChoice,
        writer: SurfaceWriter,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self._camera_id = camera_id
        self._video = video
        self._choice = choice
        self._writer = writer
        self._log = log
        self._clock = clock
        self._inner: NvdecDecoder | UploadDecoder | None = None
        self._software: UploadDecoder | None = None  # once there was one; FFmpeg's decoder cannot be made twice
        self._info: StreamInfo | None = None
        self._effort = DecodeEffort.FULL
        self._refused = 0  # packets that no decoder saw, and those of NVDEC decoders that are gone
        self._bitstream: Bitstream | None = None  # None: nothing about the stream can lead to NVDEC
        self._probe: FormatProbe | None = None
        self._formats: dict[bytes, VideoFormat] = {}  # parameter sets: what they stand for
        self._settled: bytes | None = None  # the parameter sets that the decoder is known to fit
        self._format: VideoFormat | None = None
        self._reordered = False
        self._highest_pts: int | None = None
        self._closed = False
        refusal = choice.refuse_camera(camera_id, video.codec_context.codec.canonical_name)
        if refusal is None:
            self._bitstream = Bitstream(video)
        else:
            self._inner = self._open_software(refusal)

    @property
    def info(self) -> StreamInfo | None:
        inner = self._inner
        return self._info if inner is None or inner.info is None else inner.info

    @property
    def undecodable(self) -> int:
        inner, software = self._inner, self._software
        decoders = {each for each in (inner, software) if each is not None}
        return self._refused + sum(each.undecodable for each in decoders)

    @property
    def corrupt_frames(self) -> int:
        """Only software tells: NVDEC conceals damage without a word."""
        software = self._software
        return 0 if software is None else software.corrupt_frames

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[CudaSurface]]:
        if self._bitstream is None or not packet.size:
            return [] if self._inner is None else self._inner.decode(packet, alone=alone)
        converted = self._convert(packet, self._bitstream)
        if converted is None:
            self._refused += 1
            return []
        frames: list[SourceFrame[CudaSurface]] = []
        try:
            if not self._fits(packet):
                self._settle(packet, converted, frames)
            if self._settled is None or self._inner is None:
                self._refused += 1
                return frames
            return frames + self._pass_on(packet, converted, self._inner, alone=alone)
        except BaseException:
            for frame in frames:
                frame.surface.release()
            raise

    def spend(self, effort: DecodeEffort) -> None:
        """What NVDEC decodes costs no core's time, and it has no filter to leave out."""
        self._effort = effort
        if self._software is not None:
            self._software.spend(effort)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._retire()
            finally:
                self._writer.close()

    def _convert(self, packet: VideoPacket, bitstream: Bitstream) -> VideoPacket | None:
        try:
            return bitstream.convert(packet)
        except av.FFmpegError as exc:
            self._log.warning("a packet could not be read: %s", exc.strerror)
            return None

    def _fits(self, packet: VideoPacket) -> bool:
        """Whether the decoder may see this packet: NVDEC must never meet parameter sets of another format."""
        assert self._bitstream is not None
        self._notice_reordering(packet)
        if self._settled is None or self._settled != self._bitstream.parameter_sets:
            return False
        late = self._reordered and self._format is not None and not self._format.reordered
        return not (late and packet.is_keyframe)

    def _notice_reordering(self, packet: VideoPacket) -> None:
        # Parameter sets need not tell that there are B-frames. Going on without knowing would show them out of order.
        if packet.pts is None or self._reordered:
            return
        if self._highest_pts is not None and packet.pts < self._highest_pts:
            back_s = (self._highest_pts - packet.pts) * float(self._video.time_base or 0)
            self._reordered = back_s < _LONGEST_REORDERING_S
        self._highest_pts = packet.pts

    def _settle(self, packet: VideoPacket, converted: VideoPacket, frames: list[SourceFrame[CudaSurface]]) -> None:
        """Find out what the stream's format is now, and have a decoder that fits it, if that is known yet.

        What the decoder before it held back goes into `frames`.
        """
        assert self._bitstream is not None
        self._settled = None
        video = self._learn(packet, converted, self._bitstream)
        if video is None:
            return
        self._probe = None
        if video != self._format or self._inner is None:
            if self._inner is not None:
                frames += self._inner.drain()
                self._retire()
            self._format = video
            self._inner = self._open(video)
        self._settled = self._bitstream.parameter_sets

    def _learn(self, packet: VideoPacket, converted: VideoPacket, bitstream: Bitstream) -> VideoFormat | None:
        video = self._formats.get(bitstream.parameter_sets)
        if video is None:
            if self._probe is None:
                self._probe = FormatProbe(self._video)
                converted = bitstream.complete(converted)
            video = self._probe.learn(converted, is_key=packet.is_keyframe)
            if video is None:
                return None
            if len(self._formats) >= _REMEMBERED_FORMATS:
                del self._formats[next(iter(self._formats))]
            self._formats[bitstream.parameter_sets] = video
        elif not packet.is_keyframe:
            return None  # a decoder begins with a key packet
        return replace(video, reordered=video.reordered or self._reordered)

    def _open(self, video: VideoFormat) -> NvdecDecoder | UploadDecoder:
        """Make the decoder of a format. What NVDEC refuses without harm is decoded in software at once."""
        known = self._choice.refuse_camera(self._camera_id, video.codec)
        if known is not None:  # since the connection began, by a failure of its own
            return self._open_software(known)
        nvdec = self._choice.nvdec
        assert nvdec is not None
        opening = self._choice.guard.open(self._camera_id, codec=video.codec)
        if opening is None:
            reason = "NVDEC could not be opened: another camera has been opening for too long"
            return self._open_software(Refusal(kind="failure", reason=reason))
        try:
            refusal = self._choice.refuse_format(video)
            if refusal is None:
                decoder = nvdec.open(video.codec, stream=self._writer.stream, reordered=video.reordered)
                return NvdecDecoder(
                    decoder,
                    video,
                    time_base_s=float(self._video.time_base or 0),
                    writer=self._writer,
                    opening=opening,
                    clock=self._clock,
                )
        except NvdecError as exc:
            refusal = Refusal(kind="failure", reason=str(exc))
            self._choice.failed(self._camera_id, refusal.reason)
        except BaseException:
            opening.done()
            raise
        opening.done()
        return self._open_software(refusal)

    def _open_software(self, refusal: Refusal) -> UploadDecoder:
        reason = self._choice.fall_back(refusal, log=self._log)
        if self._software is not None:
            self._software.restart(reason)
            return self._software
        self._software = UploadDecoder(
            self._video,
            reason=reason,
            writer=self._writer,
            log=self._log,
            clock=self._clock,
        )
        self._software.spend(self._effort)
        return self._software

    def _pass_on(
        self, packet: VideoPacket, converted: VideoPacket, inner: NvdecDecoder | UploadDecoder, *, alone: bool
    ) -> list[SourceFrame[CudaSurface]]:
        if isinstance(inner, UploadDecoder):
            return inner.decode(packet, alone=alone)  # FFmpeg takes the packet as it came
        assert self._bitstream is not None
        if inner.is_new:
            converted = self._bitstream.complete(converted)
        try:
            return inner.decode_converted(converted, arrival=packet.opaque, alone=alone)
        except NvdecError as exc:
            reason = str(exc)
        self._choice.failed(self._camera_id, reason)
        if inner.info is not None:
            raise SourceError(SourceErrorCode.DECODE_FAILED, f"{reason}; the next connection is decoded in software")
        # No picture came out yet, so nothing is lost by starting over in software right here.
        self._retire()
        self._inner = self._open_software(Refusal(kind="failure", reason=reason))
        return self._inner.decode(packet, alone=alone)

    def _retire(self) -> None:
        inner, self._inner = self._inner, None
        if inner is None:
            return
        self._info = inner.info or self._info
        if isinstance(inner, NvdecDecoder):
            self._refused += inner.undecodable
            inner.close()
