"""Writing pictures into a camera's ring, on a stream of the camera's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from app.backends.cuda.driver import Copy2D, Driver, OutOfDeviceMemory, Stream
from app.backends.cuda.ring import SurfaceRing
from app.backends.cuda.surface import CudaSurface, DevicePlanes, PictureLayout
from app.errors import SourceError, SourceErrorCode
from app.inference.colour import ColorMatrix


class SurfaceWriter:
    """Owns a camera's stream and ring. Belongs to the thread that reads the camera, inside `driver.bound()`."""

    def __init__(self, driver: Driver, ring: SurfaceRing) -> None:
        self._driver = driver
        self._ring = ring
        self._stream = driver.stream()
        try:
            self._written = driver.event()  # a thread sleeps on it; on a stream it may spin
        except BaseException:
            self._stream.close()
            raise
        self._closed = False

    @property
    def stream(self) -> Stream:
        return self._stream

    def copy(
        self,
        layout: PictureLayout,
        copies_to: Callable[[DevicePlanes], Iterable[Copy2D]],
        *,
        full_range: bool,
        matrix: ColorMatrix,
    ) -> CudaSurface | None:
        """Queue the copies of a picture within the device; None when the ring is full. `wait` before it is used.

        Raises `SourceError` when the device has no memory for it, `EngineError`.
        """
        return self._write(layout, copies_to, self._driver.copy_2d, full_range=full_range, matrix=matrix)

    def upload(
        self,
        layout: PictureLayout,
        copies_to: Callable[[DevicePlanes], Iterable[Copy2D]],
        *,
        full_range: bool,
        matrix: ColorMatrix,
    ) -> CudaSurface | None:
        """`copy`, from host memory that must stay until `wait` returns."""
        return self._write(layout, copies_to, self._driver.copy_2d_in, full_range=full_range, matrix=matrix)

    def wait(self) -> None:
        """Sleep until everything that was queued is done. Raises `EngineError`, `DeviceLost`."""
        self._written.record(stream=self._stream)
        self._written.synchronize()

    def close(self) -> None:
        """Free the stream and the slots that are not out. Idempotent."""
        if not self._closed:
            self._closed = True
            try:
                self._ring.close()
            finally:
                self._written.close()
                self._stream.close()

    def _write(
        self,
        layout: PictureLayout,
        copies_to: Callable[[DevicePlanes], Iterable[Copy2D]],
        queue: Callable[..., None],
        *,
        full_range: bool,
        matrix: ColorMatrix,
    ) -> CudaSurface | None:
        try:
            slot = self._ring.acquire(layout.nbytes)
        except OutOfDeviceMemory as exc:
            size = f"{layout.width}x{layout.height}"
            message = f"the GPU has no room for pictures of {size}, {layout.nbytes} bytes each: {exc}"
            raise SourceError(SourceErrorCode.RESOURCE_EXHAUSTED, message) from exc
        if slot is None:
            return None
        planes = layout.planes(slot.address, full_range=full_range, matrix=matrix)
        try:
            for copy in copies_to(planes):
                queue(copy, stream=self._stream)
        except BaseException:
            slot.release()
            raise
        return CudaSurface(width=layout.width, height=layout.height, planes=planes, slot=slot, driver=self._driver)
