"""The newest results of each camera, in memory."""

from __future__ import annotations

from collections import deque

from app.results.wire import Result


class History:
    """Keeps `size` results a camera, oldest first. Event loop only."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._cameras: dict[str, deque[Result]] = {}
        self._lost_before: dict[str, int] = {}

    def add(self, result: Result) -> None:
        kept = self._cameras.setdefault(result.camera_id, deque(maxlen=self.size))
        if len(kept) == self.size:
            self._lost_before[result.camera_id] = kept[0].seq
        kept.append(result)

    def latest(self, camera_id: str) -> Result | None:
        kept = self._cameras.get(camera_id)
        return kept[-1] if kept else None

    def newest(self, camera_id: str, *, limit: int, since_seq: int | None = None) -> list[Result]:
        """Up to `limit` newest results, oldest first; with `since_seq` only those after it."""
        kept = self._cameras.get(camera_id, ())
        after = [result for result in kept if since_seq is None or result.seq > since_seq]
        return after[max(0, len(after) - limit) :]

    def lost_before(self, camera_id: str) -> int:
        """The newest `seq` that memory had to give up for this camera, 0 when none."""
        return self._lost_before.get(camera_id, 0)

    def forget(self, camera_id: str) -> None:
        self._cameras.pop(camera_id, None)
        self._lost_before.pop(camera_id, None)
