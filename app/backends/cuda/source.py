"""A camera or a file whose pictures are decoded into device memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from av.video.stream import VideoStream

from app.backends.cuda.choice import DecoderChoice, DecoderMode
from app.backends.cuda.decoder import CudaDecoder
from app.backends.cuda.driver import Driver
from app.backends.cuda.guard import FILE_NAME, OpeningGuard
from app.backends.cuda.nvdec import Nvdec, NvdecError, load_nvdec
from app.backends.cuda.ring import Budget, SurfacePool
from app.backends.cuda.surface import CudaSurface
from app.backends.cuda.writer import SurfaceWriter
from app.backends.ffmpeg.decoder import Log, PacketDecoder
from app.backends.ffmpeg.source import FfmpegSource
from app.cameras.source import SourceRequest
from app.types import SourceFrame

# Beside the pictures that contexts work on: one waits in the mailbox, one is being written, one is the newest that a
# snapshot may show, and one to spare.
_SLOTS_BESIDE_CONTEXTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaVideo:
    """What the cameras of one device share: who decodes what, and the memory that pictures lie in."""

    driver: Driver
    choice: DecoderChoice
    pool: SurfacePool
    slots: int  # pictures of one camera in device memory, at most

    def close(self) -> None:
        """Free the memory of cameras that are gone. After the last source was closed and its frames were released."""
        self.pool.close()


def open_cuda_video(
    driver: Driver,
    *,
    mode: DecoderMode,
    data_dir: Path,
    budget: Budget,
    contexts: int,
    load: Callable[[Driver], Nvdec] = load_nvdec,
) -> CudaVideo:
    """Load NVDEC unless the setting asks for software, and read whom the guard suspects. Blocking."""
    nvdec, missing = None, ""
    if mode != "software":
        try:
            with driver.bound():
                nvdec = load(driver)
        except NvdecError as exc:
            missing = str(exc)
    guard = OpeningGuard(data_dir / FILE_NAME)
    return CudaVideo(
        driver=driver,
        choice=DecoderChoice(mode=mode, nvdec=nvdec, missing=missing, guard=guard, driver=driver),
        pool=SurfacePool(driver, budget),
        slots=contexts + _SLOTS_BESIDE_CONTEXTS,
    )


class CudaSource(FfmpegSource[CudaSurface]):
    """`FrameSource[CudaSurface]`. The thread that reads `frames` has the device's context until it closes the source.

    A camera that the guard suspects connects after the others; see `OpeningGuard`.
    """

    def __init__(
        self,
        request: SourceRequest,
        *,
        video: CudaVideo,
        tls_ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(request, self._open_cuda_decoder, tls_ca_file=tls_ca_file, clock=clock, wall_clock=wall_clock)
        self._cuda = video
        self._reading: Generator[SourceFrame[CudaSurface], None, None] | None = None

    def frames(self) -> Iterator[SourceFrame[CudaSurface]]:
        self._reading = self._read()
        return self._reading

    def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()  # lets go of the context, in this thread, if it was not read to its end
        with self._cuda.driver.bound():
            super().close()

    def _read(self) -> Generator[SourceFrame[CudaSurface], None, None]:
        choice, camera_id = self._cuda.choice, self._request.camera_id
        choice.guard.connecting(camera_id, self._request.url)
        if choice.comes_last(camera_id) and not choice.guard.wait_turn(self._stop.wait):
            return
        with self._cuda.driver.bound():
            yield from super().frames()

    def _open_cuda_decoder(
        self, video: VideoStream, *, log: Log, clock: Callable[[], float]
    ) -> PacketDecoder[CudaSurface]:
        cuda = self._cuda
        writer = SurfaceWriter(cuda.driver, cuda.pool.ring(slots=cuda.slots, log=log))
        try:
            return CudaDecoder(self._request.camera_id, video, choice=cuda.choice, writer=writer, log=log, clock=clock)
        except BaseException:
            writer.close()
            raise
