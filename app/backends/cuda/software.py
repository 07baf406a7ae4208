"""One stream decoded in software, its pictures copied to the device: for what NVDEC cannot or must not decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream

from app.backends.cuda.driver import Copy2D
from app.backends.cuda.surface import CudaSurface, DevicePlanes, PictureLayout
from app.backends.cuda.writer import SurfaceWriter
from app.backends.ffmpeg.decoder import FrameDecoder, Log
from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.surface import HostSurface, YuvPlanes
from app.cameras.source import DecodeEffort
from app.types import SourceFrame, StreamInfo


class UploadDecoder:
    """`PacketDecoder[CudaSurface]` on FFmpeg's decoders. Belongs to one thread, inside `driver.bound()`.

    Planes of 8-bit YUV are copied as they are, anything else is converted to 4:2:0 first.
    """

    def __init__(
        self,
        video: VideoStream,
        *,
        reason: str,
        writer: SurfaceWriter,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self._decoder = FrameDecoder(video, log=log, clock=clock)
        self._reason = reason
        self._writer = writer
        self._clock = clock
        self._described: tuple[StreamInfo, StreamInfo] | None = None

    @property
    def info(self) -> StreamInfo | None:
        known = self._decoder.info
        if known is None:
            return None
        if self._described is None or self._described[0] is not known:
            self._described = known, replace(known, decoder_reason=self._reason)
        return self._described[1]

    @property
    def undecodable(self) -> int:
        return self._decoder.undecodable

    @property
    def corrupt_frames(self) -> int:
        return self._decoder.corrupt_frames

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[CudaSurface]]:
        frames = self._decoder.decode(packet, alone=alone)
        uploaded = []
        try:
            for frame in frames:
                surface = self._upload(frame.surface)
                if surface is not None:
                    uploaded.append(self._redated(frame, surface))
        except BaseException:
            for done in uploaded:
                done.surface.release()
            raise
        return uploaded

    def drain(self) -> list[SourceFrame[CudaSurface]]:
        """Take out the pictures that are held back."""
        return self.decode(cast(VideoPacket, Packet()), alone=False)

    def spend(self, effort: DecodeEffort) -> None:
        self._decoder.spend(effort)

    def restart(self, reason: str) -> None:
        """Begin anew, at a key packet, after it was drained and something else decoded the stream for a while."""
        self._reason = reason
        self._described = None
        self._decoder.restart()

    def close(self) -> None:
        self._decoder.close()

    def _upload(self, picture: HostSurface) -> CudaSurface | None:
        planes = picture.as_planes()
        layout = PictureLayout(
            width=picture.width,
            height=picture.height,
            chroma_width=planes.u.shape[1],
            chroma_height=planes.u.shape[0],
            sample_bytes=1,
            interleaved=False,
        )
        surface = self._writer.upload(
            layout,
            lambda target: _copies_in(planes, target),
            full_range=planes.full_range,
            matrix=planes.matrix,
        )
        if surface is not None:
            try:
                self._writer.wait()
            except BaseException:
                surface.release()
                raise
        return surface

    def _redated(self, frame: SourceFrame[HostSurface], surface: CudaSurface) -> SourceFrame[CudaSurface]:
        times, now = frame.times, self._clock()
        spent_s = times.decode_s + now - times.decoded_at
        return SourceFrame(
            pts_s=frame.pts_s,
            times=replace(times, decoded_at=now, decode_s=spent_s),
            surface=surface,
            packet_bytes=frame.packet_bytes,
            is_key=frame.is_key,
        )


def _copies_in(planes: YuvPlanes, target: DevicePlanes) -> Iterator[Copy2D]:
    addresses = (target.y, target.y_pitch), (target.u, target.chroma_pitch), (target.v, target.chroma_pitch)
    for plane, (address, pitch) in zip((planes.y, planes.u, planes.v), addresses, strict=True):
        yield Copy2D(
            target=address,
            target_pitch=pitch,
            source=plane.ctypes.data,
            source_pitch=plane.strides[0],
            width_bytes=plane.shape[1],
            height=plane.shape[0],
        )
