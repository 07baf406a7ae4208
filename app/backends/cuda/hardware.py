"""One stream on NVDEC: its pictures are copied into the camera's ring and dated by the packets that carried them."""

from __future__ import annotations

from collections.abc import Callable

from app.backends.cuda.bitstream import VideoFormat
from app.backends.cuda.guard import Opening
from app.backends.cuda.nvdec import DecodedPicture, HardwareDecoder, NvdecError
from app.backends.cuda.surface import PITCH_ALIGNMENT, CudaSurface, copies_between
from app.backends.cuda.writer import SurfaceWriter
from app.backends.ffmpeg.reader import VideoPacket
from app.backends.ffmpeg.timing import Arrival, Carried, Dated, Dating
from app.errors import DeviceLost, EngineError
from app.types import SourceFrame, StreamInfo

# A decoder holds back at most the 16 pictures that H.264 may reorder, and as many fields again.
_LONGEST_SILENCE = 64
# Each packet is numbered, and carries its number as pts times this. The driver's parser may make up a pts for a second
# picture in a packet by adding a frame's time, in milliseconds: far less than a step.
_PTS_STEP = 1 << 16


class NvdecDecoder:
    """Decodes the packets of one format. Belongs to the thread that reads the stream, inside `driver.bound()`."""

    def __init__(
        self,
        decoder: HardwareDecoder,
        video: VideoFormat,
        *,
        time_base_s: float,
        writer: SurfaceWriter,
        opening: Opening,
        clock: Callable[[], float],
    ) -> None:
        self.info: StreamInfo | None = None
        self.undecodable = 0
        self.corrupt_frames = 0
        self.is_new = True  # saw no packet yet
        self._decoder = decoder
        self._video = video
        self._writer = writer
        self._opening = opening
        self._clock = clock
        self._dating = Dating(time_base_s)
        self._carried: dict[int, Carried] = {}  # the packets whose pictures have not come out, by number
        self._number = 0
        self._silent_for = 0  # packets since the last picture

    def decode_converted(self, packet: VideoPacket, *, arrival: object, alone: bool) -> list[SourceFrame[CudaSurface]]:
        """Decode a packet of the elementary stream. Raises `NvdecError`, `SourceError`."""
        started_at = self._clock()
        self._number += 1
        self._silent_for += 1
        self._carry(packet.pts, arrival)
        self.is_new = False
        try:
            # The packet's memory is FFmpeg's, and stays where it is while the packet is referred to here.
            pictures = self._decoder.decode(packet.buffer_ptr, packet.buffer_size, pts=self._number * _PTS_STEP)
            frames = self._take(pictures, started_at)
        finally:
            self._opening.made()
        if alone and not pictures:
            frames += self.drain()
        if self._silent_for > _LONGEST_SILENCE:
            raise NvdecError(f"NVDEC gave no picture for {self._silent_for} packets")
        return frames

    def decode(self, packet: VideoPacket, *, alone: bool) -> list[SourceFrame[CudaSurface]]:
        """For the packet that is empty: take out what is held back."""
        assert not packet.size
        return self.drain()

    def drain(self) -> list[SourceFrame[CudaSurface]]:
        """Take out the pictures that are held back. What NVDEC refuses now is lost without harm."""
        started_at = self._clock()
        try:
            return self._take(self._decoder.flush(), started_at)
        except NvdecError:
            self.undecodable += 1
            return []

    def close(self) -> None:
        try:
            self._decoder.close()
        finally:
            self._opening.done()

    def _carry(self, pts: int | None, arrival: object) -> None:
        known = arrival if isinstance(arrival, Arrival) else None
        if known is not None:
            self._dating.sent(known)
        self._carried[self._number] = Carried(pts=pts, arrival=known)
        if len(self._carried) > _LONGEST_SILENCE:
            del self._carried[next(iter(self._carried))]

    def _take(self, pictures: list[DecodedPicture], started_at: float) -> list[SourceFrame[CudaSurface]]:
        """Copy pictures out of the decoder's memory, which its next call overwrites, and date them."""
        if not pictures:
            return []
        self._silent_for = 0
        surfaces: list[CudaSurface | None] = []
        try:
            while len(surfaces) < len(pictures):
                surfaces.append(self._copy(pictures[len(surfaces)]))
            self._writer.wait()
        except BaseException as exc:
            for surface in surfaces:
                if surface is not None:
                    surface.release()
            if isinstance(exc, EngineError) and not isinstance(exc, DeviceLost):
                raise NvdecError(f"a picture could not be copied from NVDEC: {exc}") from exc
            raise
        self._opening.done()
        decoded_at = self._clock()
        dates = self._dating.date(
            [self._carried.pop(each.pts // _PTS_STEP, Carried(pts=None, arrival=None)) for each in pictures],
            decoded_at=decoded_at,
            took_s=decoded_at - started_at,
        )
        self._describe()
        return [
            frame
            for surface, dated in zip(surfaces, dates, strict=True)
            if (frame := _frame(surface, dated)) is not None
        ]

    def _copy(self, picture: DecodedPicture) -> CudaSurface | None:
        video = self._video
        if picture.height != video.height or not 0 <= picture.width - video.width <= 1:
            got, wanted = f"{picture.width}x{picture.height}", f"{video.width}x{video.height}"
            raise NvdecError(f"NVDEC gave a picture of {got} for a stream of {wanted}")
        packed = picture.layout(width=video.width, alignment=1)
        source = packed.planes(picture.address, full_range=video.full_range, matrix=video.matrix)
        layout = picture.layout(width=video.width, alignment=PITCH_ALIGNMENT)
        return self._writer.copy(
            layout,
            lambda target: copies_between(source, target, layout),
            full_range=video.full_range,
            matrix=video.matrix,
        )

    def _describe(self) -> None:
        if self.info is None:
            video = self._video
            self.info = StreamInfo(
                codec=video.codec,
                width=video.width,
                height=video.height,
                declared_fps=video.declared_fps,
                decoder="nvdec",
            )


def _frame(surface: CudaSurface | None, dated: Dated | None) -> SourceFrame[CudaSurface] | None:
    if surface is None:
        return None
    if dated is None:
        surface.release()
        return None
    return SourceFrame(
        pts_s=dated.pts_s,
        times=dated.times,
        surface=surface,
        packet_bytes=dated.packet_bytes,
        is_key=dated.is_key,
    )
