"""The simulator's cameras, started at given moments."""

from __future__ import annotations

import time
from pathlib import Path

from app.simulator.process import SimulatorProcess

# From the first command to the first frame: as long as all commands take, so that no camera is late.
_START_S = 0.3
_COMMAND_S = 0.01


def start_cameras(simulator: SimulatorProcess, clip: Path, phases_s: tuple[float, ...]) -> dict[str, str]:
    """Start a camera for each phase, all against one clock; returns their URLs by id. Blocking."""
    simulator.load_clip(clip)  # else the first camera's command would take as long as reading the file
    starts_at = time.monotonic() + _START_S + _COMMAND_S * len(phases_s)
    return {
        f"cam-{number}": simulator.add_camera(f"cam-{number}", clip, phase_s=starts_at + phase_s - time.monotonic())
        for number, phase_s in enumerate(phases_s)
    }
