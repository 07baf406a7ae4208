"""A clip at another frame rate: the same pictures, other timestamps."""

from __future__ import annotations

from pathlib import Path

import av

from app.errors import ConfigError


def clip_fps(clip: Path) -> float:
    """Frames a second of a clip's first video stream. Blocking. Raises `ConfigError` for a file without video."""
    try:
        with av.open(str(clip)) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
    except (av.FFmpegError, OSError) as exc:
        raise ConfigError(f"clip {clip} cannot be read: {exc.strerror}") from None
    if not rate:
        raise ConfigError(f"clip {clip} has no video stream, or one without a frame rate")
    return float(rate)


def retimed(clip: Path, path: Path, *, fps: float) -> Path:
    """Write `clip`'s video to `path` with `fps` frames a second. Nothing is decoded. Blocking."""
    stretch = clip_fps(clip) / fps
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is None:
                continue  # the demuxer's empty last one
            packet.dts = round(packet.dts * stretch)
            packet.pts = None if packet.pts is None else round(packet.pts * stretch)
            packet.duration = round((packet.duration or 0) * stretch)
            packet.stream = copy
            target.mux(packet)
    return path
