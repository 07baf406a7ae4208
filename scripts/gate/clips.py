"""Clips for the gate: one second after the other of the same video, long enough for a measurement."""

from __future__ import annotations

from pathlib import Path

import av

from app.commands.clips import render_clip
from app.measure.retime import clip_fps
from scripts.gate.plan import GatePlan

_SCENE = "plaza"


def source_clip(plan: GatePlan) -> Path:
    """The clip that the plan names, or the demo's scene, drawn once."""
    if plan.clip is not None:
        return Path(plan.clip)
    path = plan.folder / f"{_SCENE}.mp4"
    return path if path.is_file() else render_clip(path, _SCENE)


def looped(clip: Path, folder: Path, *, seconds: float, fps: float) -> Path:
    """Write `clip`'s video again and again at `fps` frames a second until it lasts `seconds`. Nothing is decoded."""
    path = folder / f"{clip.stem}-{seconds:.0f}s-{fps:.0f}fps.mp4"
    if path.is_file():
        return path
    half_written = path.with_suffix(".part.mp4")
    stretch = clip_fps(clip) / fps
    with av.open(str(half_written), "w") as target:
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
    half_written.rename(path)
    return path
