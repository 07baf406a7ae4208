"""Clips for the gate: one second after the other of the same video, long enough for a measurement."""

from __future__ import annotations

from pathlib import Path

from app.commands.clips import render_clip
from app.measure import retime
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
    retime.looped(clip, half_written, seconds=seconds, fps=fps)
    half_written.rename(path)
    return path
