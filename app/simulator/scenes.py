"""Endless drawn scenes with known boxes, for the demo, the tests and the training of the model that ships."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from math import floor, pi, sin
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import av.video
import cv2
import numpy as np

from app.simulator.backdrops import PLACES, Place, View, backdrop
from app.simulator.canvas import SOLID_ALPHA, Sprite
from app.simulator.casting import Actor, Casting
from app.simulator.figures import CLASS_NAMES, Rng
from app.types import BgrImage, FloatArray, IntArray

__all__ = ["CLASS_NAMES", "DEMO_SCENES", "PLACES", "Place", "Scene", "demo_scene", "truth_path", "write_clip"]

MIN_VISIBLE = 0.3  # an object with less than this share of its pixels in view is not labelled
MIN_SIDE_PX = 6

# Seeds below 1,000 belong to the demo and the tests; the training never sees them.
_DEMO: dict[str, tuple[int, Place, float]] = {
    "street": (12, "street", 0.98),
    "plaza": (1, "plaza", 0.97),
    "yard": (14, "yard", 0.95),
    "shop": (6, "shop", 1.0),
}
DEMO_SCENES: tuple[str, ...] = tuple(_DEMO)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """What one figure covered in one frame: its place in the frame and how many pixels it has in all."""

    class_id: int
    mark: int
    pixels: int
    window: tuple[slice, slice]


class Scene:
    """A place with people, animals and vehicles in it, the same for the same seed, and the same again every period.

    `width`, `height` in pixels. `place`, `light` (1.0 is full day) and `noise` (standard deviation in grey levels) are
    drawn from the seed when not given. Not thread-safe.
    """

    def __init__(
        self,
        seed: int,
        width: int = 640,
        height: int = 360,
        *,
        place: Place | None = None,
        light: float | None = None,
        noise: float | None = None,
        period_s: float = 12.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.seed, self.width, self.height, self.period_s = seed, width, height, period_s
        # Everything is drawn whether or not it was given, so that a seed has the same cast in any light.
        drawn_place, drawn_light, drawn_noise = PLACES[int(rng.integers(4))], rng.uniform(0.45, 1.15), rng.gamma(2, 2.0)
        drawn_tint = rng.uniform(0.92, 1.06, 3)
        self.place: Place = drawn_place if place is None else place
        self._light, self._tint = (float(drawn_light), drawn_tint) if light is None else (light, np.ones(3))
        self._cloud = float(rng.uniform(0.02, 0.1))
        horizon = float(rng.uniform(0.27, 0.36)) * height
        # Pixels to the metre go with the frame's height; people fill more of it indoors and on foot.
        near, far = (4.2, 5.8) if self.place in ("street", "yard") else (2.9, 4.8)
        camera_m = float(rng.uniform(near, far))
        self.view = View(width=width, height=height, horizon_y=horizon, camera_m=camera_m)
        self._backdrop = backdrop(self.place, self.view, rng)
        self._grain = _grain(rng, width, height, float(drawn_noise) if noise is None else noise)
        self._actors = Casting(self.place, self.view, period_s, rng).actors()
        self._marks = np.zeros((height, width), np.uint8)

    def render(self, t_s: float) -> tuple[BgrImage, FloatArray, IntArray]:
        """Draw the scene at `t_s` seconds.

        Returns the picture u8[height, width, 3] BGR, the boxes f32[n, 4] as x1 y1 x2 y2 in pixels around what can be
        seen of each object, and class ids i32[n] into `CLASS_NAMES`. An object that is mostly hidden has no box.
        """
        turn = round((t_s / self.period_s) % 1.0, 6) % 1.0
        image = self._backdrop.copy()
        self._marks.fill(0)
        placed = [(actor, *actor.path.at(turn)) for actor in self._actors]
        placed.sort(key=lambda item: item[2])  # the lower on the screen, the nearer
        traces: list[_Trace] = []
        for item in placed:
            traces += self._draw_actor(image, *item, first_mark=len(traces) + 1)
        boxes, class_ids = self._label(traces)
        return self._develop(image, turn), boxes, class_ids

    def _draw_actor(
        self, image: BgrImage, actor: Actor, x: float, y: float, left: bool, *, first_mark: int
    ) -> list[_Trace]:
        traces: list[_Trace] = []
        scale = self.view.scale_at(y)
        forward_m = (-x if left else x) / scale
        for figure, flipped in actor.parts:
            phase = floor(forward_m / figure.cycle_m * len(figure.phases)) % len(figure.phases)
            sprite = flipped[phase] if left else figure.phases[phase]
            mark = first_mark + len(traces) if figure.class_id is not None else 0
            window, pixels = _paste(image, self._marks, sprite, x, y, scale / actor.px_per_m, mark)
            if figure.class_id is not None and pixels:
                traces.append(_Trace(class_id=figure.class_id, mark=mark, pixels=pixels, window=window))
        return traces

    def _label(self, traces: list[_Trace]) -> tuple[FloatArray, IntArray]:
        boxes: list[tuple[int, int, int, int]] = []
        class_ids: list[int] = []
        for trace in traces:
            seen = (self._marks[trace.window] == trace.mark).view(np.uint8)
            if cv2.countNonZero(seen) < MIN_VISIBLE * trace.pixels:
                continue
            x, y, w, h = cv2.boundingRect(seen)
            if min(w, h) >= MIN_SIDE_PX:
                x, y = x + trace.window[1].start, y + trace.window[0].start
                boxes.append((x, y, x + w, y + h))
                class_ids.append(trace.class_id)
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int32)

    def _develop(self, image: BgrImage, turn: float) -> BgrImage:
        """Light that comes and goes, and the grain of a sensor."""
        gain = self._light * (1 + self._cloud * sin(2 * pi * turn)) * self._tint
        levels = np.arange(256)[:, None] * gain
        table = np.clip(levels, 0, 255).astype(np.uint8)
        lit = cv2.LUT(image, table.reshape(1, 256, 3))
        if self._grain is None:
            return np.asarray(lit)
        rng = np.random.default_rng((self.seed, int(turn * 1e6)))
        dx, dy = (int(v) for v in rng.integers(0, _GRAIN_SLACK, 2))
        window = (slice(dy, dy + self.height), slice(dx, dx + self.width))
        return np.asarray(cv2.subtract(cv2.add(lit, self._grain[0][window]), self._grain[1][window]))


_GRAIN_SLACK = 64


def _grain(rng: Rng, width: int, height: int, sigma: float) -> tuple[BgrImage, BgrImage] | None:
    """What to add and what to take away: two u8 pictures are several times faster to apply than one signed."""
    if sigma <= 0:
        return None
    noise = rng.normal(0, sigma, (height + _GRAIN_SLACK, width + _GRAIN_SLACK, 3))
    return np.clip(noise, 0, 80).astype(np.uint8), np.clip(-noise, 0, 80).astype(np.uint8)


def _paste(
    image: BgrImage, marks: BgrImage, sprite: Sprite, x: float, y: float, scale: float, mark: int
) -> tuple[tuple[slice, slice], int]:
    """Blend the sprite in so that its anchor lies at x, y; returns where it lies and how many pixels it has."""
    left, top = x - sprite.anchor_x * scale, y - sprite.anchor_y * scale
    height, width = sprite.alpha.shape
    x0, y0 = floor(left), floor(top)
    a, b = max(x0, 0), min(x0 + int(width * scale) + 2, image.shape[1])
    c, d = max(y0, 0), min(y0 + int(height * scale) + 2, image.shape[0])
    if scale == 1.0:  # whole pixels will do: resampling would cost more than all the rest
        b, d = min(b, x0 + width), min(d, y0 + height)
    if a >= b or c >= d:
        return (slice(0, 0), slice(0, 0)), 0
    if scale == 1.0:
        inside = (slice(c - y0, d - y0), slice(a - x0, b - x0))
        alpha, colour = np.ascontiguousarray(sprite.alpha[inside]), np.ascontiguousarray(sprite.bgr[inside])
    else:
        matrix = np.array([[scale, 0, left - a], [0, scale, top - c]], np.float32)
        alpha = cv2.warpAffine(sprite.alpha, matrix, (b - a, d - c))
        colour = cv2.warpAffine(sprite.bgr, matrix, (b - a, d - c), borderMode=cv2.BORDER_REPLICATE)
    window = (slice(c, d), slice(a, b))
    image[window] = cv2.blendLinear(colour, np.ascontiguousarray(image[window]), alpha, 1 - alpha)
    marks[window][alpha > SOLID_ALPHA] = mark
    return window, round(sprite.solid_pixels * scale * scale)


def demo_scene(name: str) -> Scene:
    """One of `DEMO_SCENES`, 640x360. Raises KeyError for another name."""
    seed, place, light = _DEMO[name]
    return Scene(seed, 640, 360, place=place, light=light, noise=2.0)


Codec: TypeAlias = Literal["h264", "h265", "mjpeg"]
_ENCODERS: dict[Codec, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "21", "bf": "0", "sc_threshold": "0"}),
    "h265": (
        "libx265",
        "yuv420p",
        {"preset": "ultrafast", "crf": "23", "x265-params": "bframes=0:scenecut=0:log-level=none"},
    ),
    "mjpeg": ("mjpeg", "yuvj420p", {"qmin": "4", "qmax": "4"}),
}


def truth_path(clip: Path) -> Path:
    """Where `write_clip` puts the truth of a clip."""
    return clip.with_name(clip.name + ".json")


def write_clip(
    path: Path, scene: Scene, *, seconds: float, fps: int = 15, codec: Codec = "h264", gop_s: float = 1.0
) -> list[dict[str, Any]]:
    """Encode the scene from its time 0, and write what is in each frame beside it as JSON.

    The container follows the suffix (.mp4, .mkv). No B-frames; a keyframe every `gop_s`. A whole number of periods
    loops without a jump. Returns the frames of the JSON: `pts_s`, `boxes` (x1 y1 x2 y2, pixels), `class_ids`.
    Raises `av.FFmpegError` when the file cannot be written. Blocking, a few ms a frame.
    """
    name, pixel_format, options = _ENCODERS[codec]
    frames: list[dict[str, Any]] = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, pixel_format
        stream.codec_context.gop_size = max(1, round(gop_s * fps))
        stream.codec_context.thread_count = 1
        for index in range(round(seconds * fps)):
            image, boxes, class_ids = scene.render(index / fps)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
            frames.append({"pts_s": index / fps, "boxes": boxes.tolist(), "class_ids": class_ids.tolist()})
        container.mux(stream.encode(None))
    truth = {"width": scene.width, "height": scene.height, "fps": fps, "classes": CLASS_NAMES, "frames": frames}
    truth_path(path).write_text(json.dumps(truth), encoding="utf-8")
    return frames
