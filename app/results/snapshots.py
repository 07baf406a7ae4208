"""The newest inferred picture of each camera, and a JPEG of it on demand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from app.errors import NotReady, PictureFailed
from app.types import Detections, Frame, S

logger = logging.getLogger("vidette.hub")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A JPEG and the frame it shows."""

    jpeg: bytes
    seq: int
    captured_utc: float


class Snapshots(Generic[S]):
    """Owns one surface a camera, the newest; the one before it is released. Event loop only.

    Pictures are copied to the host and encoded in a worker thread, only when somebody asks.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._kept: dict[str, tuple[Frame[S], Detections]] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self._gone: set[str] = set()
        self._closed = False

    def offer(self, frame: Frame[S], found: Detections) -> None:
        """Take over a frame's surface and show it from now on, unless a newer one is shown already."""
        if self._closed:
            frame.surface.release()
            return
        # Contexts finish out of order: what comes last is not always the newest.
        older, newer = self._kept.get(frame.camera_id), (frame, found)
        if older is not None and older[0].seq > frame.seq:
            older, newer = newer, older
        self._kept[frame.camera_id] = newer
        if older is not None:
            older[0].surface.release()

    async def jpeg(self, camera_id: str, *, overlay: bool = True, quality: int = 85) -> Snapshot:
        """The newest frame as JPEG, with boxes when `overlay`. Raises `NotReady` without a frame, `PictureFailed`."""
        lock = self._busy.setdefault(camera_id, asyncio.Lock())
        async with lock:
            if camera_id not in self._kept:
                raise NotReady(f"camera {camera_id!r} has not shown a frame yet")
            # Out of the shelf while a thread reads it, so that a newer frame cannot release it under the thread.
            frame, found = self._kept.pop(camera_id)
            try:
                data = await asyncio.to_thread(self._encode, frame, found, overlay, quality)
            except MemoryError:
                raise PictureFailed(f"no memory was left for the picture of camera {camera_id!r}") from None
            except Exception as exc:
                logger.exception("the picture of camera %s cannot be made", camera_id)
                raise PictureFailed(f"the picture of camera {camera_id!r} cannot be made; the log says why") from exc
            finally:
                self._put_back(camera_id, frame, found)
        return Snapshot(jpeg=data, seq=frame.seq, captured_utc=frame.times.captured_utc)

    def forget(self, camera_id: str) -> None:
        kept = self._kept.pop(camera_id, None)
        if kept is not None:
            kept[0].surface.release()
        if camera_id in self._busy and self._busy[camera_id].locked():
            self._gone.add(camera_id)
        else:
            self._busy.pop(camera_id, None)

    def close(self) -> None:
        self._closed = True
        for camera_id in list(self._kept):
            self.forget(camera_id)

    def _put_back(self, camera_id: str, frame: Frame[S], found: Detections) -> None:
        if camera_id in self._gone:
            self._gone.discard(camera_id)
            self._busy.pop(camera_id, None)
            frame.surface.release()
        else:
            self.offer(frame, found)

    def _encode(self, frame: Frame[S], found: Detections, overlay: bool, quality: int) -> bytes:
        from app.results import drawing  # late: cv2 takes half a second to import, and a headless API may never ask

        image = frame.surface.to_bgr()
        if overlay:
            drawing.draw_boxes(image, found, self._classes)
        return drawing.encode_jpeg(image, quality)
