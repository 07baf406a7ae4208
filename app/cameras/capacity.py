"""How much this machine can carry, from what was measured, and whether one more camera fits. Pure.

A camera's cost in cores is the CPU time of its own thread. One that was registered and has not been measured yet counts
with what cameras of its kind cost, or else all that were measured, so that a burst of registrations cannot outrun the
first measurement.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

# Decoding can hardly be shed: above this share of the cores, readers fall behind their streams.
MOST_DECODE_LOAD = 0.9
# A camera's share of a core before any was measured: no more than a small stream takes. It counts for seconds.
ASSUMED_CORES = 0.02
ASSUMED_BYTES = 16 << 20
# Of the memory that is free, left for others.
SPARE_BYTES = 128 << 20
Resource: TypeAlias = Literal["decode", "inference", "memory", "nvdec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamKind:
    """Streams of a kind cost about the same."""

    codec: str
    width: int
    height: int
    decoder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraCost:
    """What one enabled camera costs. None: not known, or not measured yet."""

    kind: StreamKind | None
    cores: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCost:
    """What all enabled cameras' threads take, and what one more is expected to."""

    used_cores: float  # of those that were measured
    expected_cores: float  # of the others
    needed_cores: float  # of one more
    measured: int  # cameras

    def with_unknown(self, cameras: int) -> DecodeCost:
        """The same with cameras that have come just now."""
        return replace(self, expected_cores=self.expected_cores + max(0, cameras) * self.needed_cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is used now, and what one more camera needs."""

    cameras: int  # enabled
    decode: DecodeCost
    cores: int
    inferred_fps: float
    capacity_fps: float | None  # what the engine can infer
    memory_used_bytes: int
    memory_free_bytes: int
    needed_bytes: int
    least_fps: float = 1.0  # inferred, that each camera is to be left with
    degraded: int = 0  # cameras whose decoding is cut down already
    nvdec_load: float | None = None  # share of the GPU's decoders in use; None: no camera is decoded there
    nvdec_cameras: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left of one resource, in `unit`."""

    resource: Resource
    left: float
    needed: float
    unit: str

    @property
    def cameras(self) -> int:
        return max(0, int(self.left / self.needed + 1e-9))


def decode_cost(costs: Collection[CameraCost]) -> DecodeCost:
    """Add up what cameras cost."""
    cores = [cost.cores for cost in costs if cost.cores is not None]
    used = sum(cores)
    usual = used / len(cores) if cores else ASSUMED_CORES
    kinds: dict[StreamKind, list[float]] = {}
    for cost in costs:
        if cost.kind is not None and cost.cores is not None:
            kinds.setdefault(cost.kind, []).append(cost.cores)
    usual_of = {kind: sum(of) / len(of) for kind, of in kinds.items()}
    waiting = [cost.kind for cost in costs if cost.cores is None]
    expected = sum(usual if kind is None else usual_of.get(kind, usual) for kind in waiting)
    return DecodeCost(
        used_cores=used,
        expected_cores=expected,
        needed_cores=max(usual, 1e-4),
        measured=len(cores),
    )


def rooms(load: Load) -> list[Room]:
    """What is left of each resource that is known."""
    left_cores = MOST_DECODE_LOAD * load.cores - load.decode.used_cores - load.decode.expected_cores
    found = [Room(resource="decode", left=left_cores, needed=load.decode.needed_cores, unit="cores")]
    if load.capacity_fps is not None:
        left_fps = load.capacity_fps - load.least_fps * load.cameras
        found.append(Room(resource="inference", left=left_fps, needed=load.least_fps, unit="frames a second"))
    left_bytes = load.memory_free_bytes - SPARE_BYTES
    found.append(Room(resource="memory", left=left_bytes / 2**20, needed=load.needed_bytes / 2**20, unit="MiB"))
    if load.nvdec_load is not None and load.nvdec_cameras:
        needed = load.nvdec_load / load.nvdec_cameras
        if needed > 0:
            left = MOST_DECODE_LOAD - load.nvdec_load
            found.append(Room(resource="nvdec", left=left, needed=needed, unit="of the GPU's decoders"))
    return found


def refusal(load: Load) -> str | None:
    """Why one more camera would not be served, as a sentence with the numbers; None when it would."""
    if not load.cameras and (load.capacity_fps is None or load.capacity_fps >= load.least_fps):
        return None  # whoever has no camera may try one
    if load.degraded:
        return (
            f"decoding: {load.degraded} of {load.cameras} cameras are decoded with less work already, "
            "since this machine is overloaded"
        )
    for room in rooms(load):
        if not room.cameras:
            return _sentence(room, load)
    return None


def room_for(load: Load) -> int:
    """How many more cameras like the present ones fit."""
    return 0 if refusal(load) is not None else max(1, min(room.cameras for room in rooms(load)))


def _sentence(room: Room, load: Load) -> str:
    if room.resource == "inference":
        share_fps = (load.capacity_fps or 0.0) / (load.cameras + 1)
        return (
            f"inference: the engine infers {load.capacity_fps:.1f} frames a second; "
            f"shared by {load.cameras + 1} cameras that is {share_fps:.2f} each, less than {load.least_fps:g}"
        )
    amount = "{:.3g} {}".format
    sentence = f"{room.resource}: one more camera needs {amount(room.needed, room.unit)}"
    sentence += f", {amount(max(0.0, room.left), room.unit)} are left"
    if room.resource == "decode":
        sentence += (
            f": {load.cameras} cameras take {load.decode.used_cores + load.decode.expected_cores:.2f} "
            f"of {load.cores} cores, and above {MOST_DECODE_LOAD:.0%} they would fall behind"
        )
    return sentence
