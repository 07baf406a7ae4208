"""The clips that chaos cameras show: small, short, drawn in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

import av
import numpy as np

from app.types import BgrImage

ClipName: TypeAlias = Literal["plain", "small", "hevc", "mjpeg", "slow", "fast", "large"]
FPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """How a clip looks; keyframes come once a second, or with every frame of a slow one."""

    codec: Literal["libx264", "libx265", "mjpeg"] = "libx264"
    width: int = 320
    height: int = 240
    fps: int = FPS
    frames: int = 2 * FPS


CLIPS: dict[ClipName, ClipSpec] = {
    "plain": ClipSpec(),
    "small": ClipSpec(width=192, height=144),
    "hevc": ClipSpec(codec="libx265"),
    "mjpeg": ClipSpec(codec="mjpeg"),
    "slow": ClipSpec(fps=1, frames=3),
    "fast": ClipSpec(height=180, fps=120, frames=120),
    "large": ClipSpec(width=3840, height=2160, fps=5, frames=5),
}
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "28", "bf": "0", "sc_threshold": "0"},
    "libx265": {
        "preset": "ultrafast",
        "x265-params": "keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:pools=none:frame-threads=1:log-level=error",
    },
    # RFC 2435 carries no Huffman tables: only pictures with the standard ones go over RTP.
    "mjpeg": {"huffman": "default", "qmin": "5", "qmax": "8"},
}


def draw_clip(folder: Path, name: ClipName) -> Path:
    """Draw a clip into `folder`, once. Blocking; 4K takes a second."""
    path, spec = folder / f"{name}.mp4", CLIPS[name]
    if path.is_file():
        return path
    options = {key: value.format(gop=spec.fps) for key, value in _OPTIONS[spec.codec].items()}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(spec.codec, rate=spec.fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = spec.width, spec.height
        stream.pix_fmt = "yuvj420p" if spec.codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = spec.fps
        stream.codec_context.thread_count = 1
        for index in range(spec.frames):
            frame = av.VideoFrame.from_ndarray(_picture(index, spec), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, spec.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _picture(index: int, spec: ClipSpec) -> BgrImage:
    """A sliding gradient and a moving square: u8[height, width, 3]."""
    image = np.full((spec.height, spec.width, 3), 96, np.uint8)
    image[..., 0] = ((np.arange(spec.width) * 320 // spec.width + 7 * index) % 256)[None, :]
    image[..., 1] = np.linspace(0, 160, spec.height)[:, None]
    side = spec.height // 4
    left, top = (11 * index) % (spec.width - side), (5 * index) % (spec.height - side)
    image[top : top + side, left : left + side] = (40, 220, 250)
    return image
