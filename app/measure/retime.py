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


def excerpt(clip: Path, path: Path, *, seconds: float) -> Path:
    """Write the beginning of `clip`'s video to `path`, up to the first keyframe after `seconds`. Blocking.

    Nothing is decoded.
    """
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is None:
                continue  # the demuxer's empty last one
            shown = packet.dts if packet.pts is None else packet.pts
            if packet.is_keyframe and float((shown - (video.start_time or 0)) * packet.time_base) >= seconds:
                break
            packet.stream = copy
            target.mux(packet)
    return path


def looped(clip: Path, path: Path, *, seconds: float, fps: float) -> Path:
    """Write `clip`'s video to `path` again and again, at `fps` frames a second, until it lasts `seconds`. Blocking.

    Nothing is decoded.
    """
    stretch = clip_fps(clip) / fps
    with av.open(str(path), "w") as target:
        copy, offset, time_base = None, 0, 0.0
        while copy is None or offset * time_base < seconds:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if copy is None:
                    copy, time_base = target.add_stream_from_template(video), float(video.time_base or 1)
                end = 0
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue  # the demuxer's empty last one
                    duration = round((packet.duration or round(1 / clip_fps(clip) / time_base)) * stretch)
                    packet.dts = offset + round(packet.dts * stretch)
                    packet.pts = packet.dts if packet.pts is None else offset + round(packet.pts * stretch)
                    packet.duration, packet.stream = duration, copy
                    end = max(end, packet.pts + duration, packet.dts + duration)
                    target.mux(packet)
                offset = end
    return path
