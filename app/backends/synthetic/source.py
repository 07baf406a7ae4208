"""Cameras that exist only as a script in their URL: for tests, demos and load without video.

`rtsp://anything/path?fps=25&width=1280&height=720&fail=read_timeout&after=50&hang=1`:
`fail` raises that code after `after` frames (0: at once), `hang` stops delivering then instead, until interrupted.
`still=1` keeps the scene's object where it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import numpy as np

from app.cameras.source import DecodeEffort, SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.types import BgrImage, FrameTimes, GreyPicture, SourceFrame, StreamInfo


@dataclass(slots=True)
class SyntheticSurface:
    """A picture without pixels: it knows its size and the moment it shows."""

    width: int
    height: int
    at_s: float
    released: int = 0

    def to_bgr(self) -> BgrImage:
        image = np.full((self.height, self.width, 3), 96, dtype=np.uint8)
        x1, y1, x2, y2 = (int(v) for v in box_at(self.at_s, self.width, self.height))
        image[y1:y2, x1:x2] = (40, 160, 240)
        return image

    def luma(self, width: int, height: int) -> GreyPicture:
        picture = np.full((height, width), 96, dtype=np.uint8)
        x1, y1, x2, y2 = (round(v) for v in box_at(self.at_s, width, height))
        picture[y1:y2, x1:x2] = 160
        return picture

    def release(self) -> None:
        self.released += 1


def box_at(at_s: float, width: int, height: int) -> tuple[float, float, float, float]:
    """Where the one object of a synthetic scene is: it crosses the frame from left to right every 8 seconds."""
    w, h = width / 8, height / 2
    x = (at_s % 8.0) / 8.0 * (width - w)
    return x, h / 2, x + w, h / 2 + h


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a synthetic camera does."""

    fps: float = 25.0
    width: int = 1280
    height: int = 720
    fail: SourceErrorCode | None = None
    after: int = 0
    hang: bool = False
    still: bool = False

    @classmethod
    def of(cls, url: str) -> Script:
        query = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
        return cls(
            fps=float(query.get("fps", 25)),
            width=int(query.get("width", 1280)),
            height=int(query.get("height", 720)),
            fail=SourceErrorCode(query["fail"]) if "fail" in query else None,
            after=int(query.get("after", 0)),
            hang=query.get("hang", "0") == "1",
            still=query.get("still", "0") == "1",
        )


class SyntheticSource:
    """Implements `FrameSource[SyntheticSurface]`, live-paced."""

    def __init__(self, request: SourceRequest, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._script = Script.of(request.url)
        self._clock = clock
        self._interrupted = threading.Event()
        self._info: StreamInfo | None = None

    @property
    def info(self) -> StreamInfo | None:
        return self._info

    def frames(self) -> Iterator[SourceFrame[SyntheticSurface]]:
        script = self._script
        started_at = self._clock()
        self._check(0)
        self._info = StreamInfo(
            codec="synthetic", width=script.width, height=script.height, declared_fps=script.fps, decoder="synthetic"
        )
        number = 0
        while not self._interrupted.wait(max(0.0, started_at + number / script.fps - self._clock())):
            self._check(number)
            if self._interrupted.is_set():
                return
            yield self._frame(number / script.fps)
            number += 1

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        pass  # nothing is decoded, so nothing can be saved

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._info = None

    def _check(self, number: int) -> None:
        if number < self._script.after:
            return
        if self._script.hang:
            self._interrupted.wait()
        elif self._script.fail is not None:
            raise SourceError(self._script.fail, f"the script fails after {self._script.after} frames")

    def _frame(self, at_s: float) -> SourceFrame[SyntheticSurface]:
        now = self._clock()
        times = FrameTimes(arrived_at=now, decoded_at=now, decode_s=0.0, captured_utc=time.time(), clock="arrival")
        surface = SyntheticSurface(self._script.width, self._script.height, 0.0 if self._script.still else at_s)
        return SourceFrame(pts_s=at_s, times=times, surface=surface)
