"""How much this machine can carry, from what was measured, and whether one more camera fits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Under this a camera is registered but not watched; nobody wants that without having said so.
LEAST_FPS = 1.0
# Decoding cannot be shed like inference can: above this share of the cores, readers fall behind their streams.
MOST_DECODE_LOAD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is used now. Measured, except where a camera has not yet run."""

    cameras: int  # enabled
    decode_cores: float  # CPU seconds a second spent in decoders
    cores: int
    inferred_fps: float
    capacity_fps: float | None  # what the engine can infer, measured at start-up
    memory_used_bytes: int
    memory_free_bytes: int


def refusal(load: Load) -> str | None:
    """Why one more camera would not be served, as a sentence; None when it would."""
    share_fps = None if load.capacity_fps is None else load.capacity_fps / (load.cameras + 1)
    if share_fps is not None and share_fps < LEAST_FPS:
        return (
            f"the engine infers {load.capacity_fps:.1f} frames a second; "
            f"shared by {load.cameras + 1} cameras that is {share_fps:.2f} each, less than {LEAST_FPS:g}"
        )
    if load.cameras and load.decode_cores > MOST_DECODE_LOAD * load.cores:
        return (
            f"decoding uses {load.decode_cores:.1f} of {load.cores} cores; "
            f"above {MOST_DECODE_LOAD:.0%} the cameras that are running would fall behind"
        )
    return None


def room_for(load: Load) -> int | None:
    """How many more cameras like the present ones fit; None when nothing is measured yet."""
    limits = []
    if load.capacity_fps is not None:
        limits.append(int(load.capacity_fps / LEAST_FPS) - load.cameras)
    if load.cameras and load.decode_cores > 0:
        left = MOST_DECODE_LOAD * load.cores - load.decode_cores
        limits.append(int(left / (load.decode_cores / load.cameras)))
    return max(0, min(limits)) if limits else None
