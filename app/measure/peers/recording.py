"""How a peer's process notes its results, and when it stops.

    python -m app.measure.peers.recording CLIP      prints the fingerprints of a clip's frames, as a JSON list

Runs in a peer's own environment: nothing but the standard library, numpy and OpenCV.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import zlib
from typing import Any

import cv2
import numpy as np

from app.measure.peers.job import Answer, Job, Seen


def fingerprint(image: Any) -> int:
    """A checksum of a picture's pixels on a grid of 12 x 16. Microseconds.

    A decoder gives the same pixels for the same frame, whether it comes from a file or from a camera.
    """
    height, width = image.shape[:2]
    grid = image[height // 24 :: max(1, height // 12), width // 32 :: max(1, width // 16)]
    return zlib.crc32(grid.tobytes())


def fingerprints(clip: str) -> list[int]:
    """Of every frame of a clip, in the order of presentation. Blocking: decodes it all."""
    capture = cv2.VideoCapture(clip)
    found: list[int] = []
    while True:
        read, image = capture.read()
        if not read:
            capture.release()
            return found
        found.append(fingerprint(image))


class Recorder:
    """Collects results in memory until our standard input ends. `result` may be called by any thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._results: list[tuple[Any, ...]] = []
        self._waiting = set(job.cameras)
        self._ended = threading.Event()
        threading.Thread(target=self._wait_for_the_end, name="recorder", daemon=True).start()

    @property
    def recording(self) -> bool:
        """False when it is time to stop."""
        return not self._ended.is_set()

    def wait(self) -> None:
        """Until it is time to stop."""
        self._ended.wait()

    def result(self, camera: str, image: Any, boxes: Any, scores: Any, class_ids: Any) -> None:
        """Note a frame's result at this moment. boxes: [n, 4] x1 y1 x2 y2 in source pixels."""
        self._results.append((camera, time.monotonic(), fingerprint(image), boxes, scores, class_ids))
        if camera in self._waiting:
            self._waiting.discard(camera)
            if not self._waiting:
                self._job.running.touch()

    def write(self, **details: Any) -> None:
        """Write what was noted into the job's answer."""
        results = [
            Seen(camera, at, picture, None, rows(boxes, scores, class_ids))
            for camera, at, picture, boxes, scores, class_ids in self._results
        ]
        Answer(results, details).write(self._job.answer)

    def _wait_for_the_end(self) -> None:
        sys.stdin.read()
        self._ended.set()


def rows(boxes: Any, scores: Any, class_ids: Any) -> list[list[float]]:
    """Arrays of boxes, scores and classes as plain lists, one for each box."""
    together = (np.asarray(boxes).reshape(-1, 4), np.reshape(scores, (-1, 1)), np.reshape(class_ids, (-1, 1)))
    plain: list[list[float]] = np.concatenate(together, axis=1).tolist()
    return plain


if __name__ == "__main__":
    sys.stdout.write(json.dumps(fingerprints(sys.argv[1])))
