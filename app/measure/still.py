"""A scene in which nothing moves but the sensor's noise: one picture, and grain that is new in every frame."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

from app.measure.retime import clip_fps
from app.simulator.scenes import Scene, write_clip
from app.types import BgrImage, FloatArray, IntArray

NOISE = 2.0  # standard deviation in grey levels, as the demo's scenes have it
_SLACK = 64
_SECONDS = 12.0


class StillScene(Scene):
    """`picture`, for ever. Not thread-safe."""

    def __init__(self, picture: BgrImage) -> None:
        height, width, _ = picture.shape
        super().__init__(0, width, height, noise=0.0)
        self._picture = picture.astype(np.int16)
        self._rng = np.random.default_rng(0)
        self._noise = np.rint(self._rng.normal(0, NOISE, (height + _SLACK, width + _SLACK, 3))).astype(np.int16)

    def render(self, t_s: float) -> tuple[BgrImage, FloatArray, IntArray]:
        dx, dy = (int(v) for v in self._rng.integers(0, _SLACK, 2))
        noise = self._noise[dy : dy + self.height, dx : dx + self.width]
        image = np.clip(self._picture + noise, 0, 255).astype(np.uint8)
        return image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32)


def still_clip(clip: Path, path: Path) -> Path:
    """Write the first picture of `clip` to `path` for 12 s at the clip's rate, a keyframe each second. Blocking."""
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    picture = np.asarray(frame.to_ndarray(format="bgr24"))
    picture = cv2.resize(picture, (frame.width // 2 * 2, frame.height // 2 * 2))  # H.264 in 4:2:0 has even sides
    write_clip(path, StillScene(picture), seconds=_SECONDS, fps=max(1, round(clip_fps(clip))), gop_s=1.0)
    return path


def keyframe_interval_s(clip: Path) -> float:
    """The longest time between two keyframes of a clip, its end and the next loop's begin included. Blocking."""
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        keys = [packet.is_keyframe for packet in container.demux(video) if packet.size]
    at = [number for number, key in enumerate(keys) if key]
    gaps = [b - a for a, b in zip(at, [*at[1:], len(keys)], strict=True)]
    return max(gaps, default=0) / clip_fps(clip)
