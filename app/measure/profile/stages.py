"""The component table: from spans to what a stage costs. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.measure.figures import Percentiles, percentiles
from app.measure.profile.spans import Span

DeviceName: TypeAlias = Literal["cpu", "cuda"]

READ, DECODE, HAND_OVER, TABLE, TO_DEVICE = "read", "decode", "hand-over", "picture table", "host to device"
PREPROCESS, INFER, POSTPROCESS, FROM_DEVICE = "preprocess", "infer", "postprocess", "device to host"
WAIT, SLAB, TRACK, PUBLISH = "wait", "read results", "track", "publish"
# In a frame's order; a device has those that are not None here, and says "-" for the others.
STAGES: Mapping[DeviceName, tuple[str, ...]] = {
    "cpu": (READ, DECODE, HAND_OVER, TO_DEVICE, PREPROCESS, INFER, FROM_DEVICE, POSTPROCESS, TRACK, PUBLISH),
    "cuda": (
        *(READ, DECODE, HAND_OVER, TABLE, TO_DEVICE, PREPROCESS, INFER, POSTPROCESS, FROM_DEVICE, WAIT, SLAB),
        *(TRACK, PUBLISH),
    ),
}
WORDS: Mapping[DeviceName, tuple[str, str, str]] = {
    "cpu": ("CPU-BOUND", "MIXED", "WAITING"),
    "cuda": ("GPU OPTIMIZED", "MIXED", "CPU BOTTLENECK"),
}
HIGH, LOW = 0.8, 0.5
# On a CPU the engine computes in threads of its own, so only the whole process' clock sees its work.
ENGINE_THREADS = frozenset({INFER})


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What a stage cost. Times of one call are in ms; a call of a batch stage is a batch."""

    stage: str
    calls: int
    frame_ms: float  # wall time of all calls, by frame
    mean_ms: float
    wall_ms: Percentiles
    device_ms: float | None  # mean of a call; None where no device works
    efficiency: float | None  # device over wall time
    verdict: str | None
    share: float  # of the wall time of all stages
    bytes_per_call: float | None
    gb_per_s: float | None
    device_clock: str | None


def verdict(efficiency: float, device: DeviceName) -> str:
    """More than 80 %, from 50 to 80 %, less than 50 %: of a GPU the words are the seed's, of a CPU they are true."""
    high, mixed, low = WORDS[device]
    return high if efficiency > HIGH else low if efficiency < LOW else mixed


def stage_costs(
    spans: Sequence[Span], *, frames: int, moved: Mapping[str, float], device: DeviceName
) -> tuple[StageCost, ...]:
    """A row for each stage of the device that there were spans of, in a frame's order. `moved`: bytes of all calls."""
    by_stage: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_stage[span.stage].append(span)
    whole_s = sum(span.own_s for span in spans)
    return tuple(
        _cost(stage, by_stage[stage], frames, whole_s, moved.get(stage), device)
        for stage in STAGES[device]
        if by_stage[stage]
    )


def absent(costs: Sequence[StageCost], device: DeviceName) -> tuple[str, ...]:
    """The stages of the device's list that nothing went through."""
    seen = {cost.stage for cost in costs}
    return tuple(stage for stage in STAGES[device] if stage not in seen)


def cpu_ms_per_frame(spans: Sequence[Span], frames: int) -> float:
    """CPU time of all stages, by frame: what a frame takes away from the cores."""
    return 1e3 * sum(_cpu_s(span) for span in spans) / max(1, frames)


def _cpu_s(span: Span) -> float:
    if span.stage in ENGINE_THREADS and span.process_s is not None:
        return span.process_s
    return span.cpu_s


_CLOCKS: Mapping[DeviceName, Callable[[Span], float | None]] = {"cpu": _cpu_s, "cuda": lambda span: span.device_s}


def _cost(
    stage: str, spans: Sequence[Span], frames: int, whole_s: float, moved: float | None, device: DeviceName
) -> StageCost:
    wall_s = sum(span.own_s for span in spans)
    device_times = [took for span in spans if (took := _CLOCKS[device](span)) is not None]
    device_s = sum(device_times) if device_times else None
    efficiency = None if device_s is None or not wall_s else device_s / wall_s
    return StageCost(
        stage=stage,
        calls=len(spans),
        frame_ms=1e3 * wall_s / max(1, frames),
        mean_ms=1e3 * wall_s / len(spans),
        wall_ms=percentiles([1e3 * span.own_s for span in spans]),
        device_ms=None if device_s is None else 1e3 * device_s / len(spans),
        efficiency=efficiency,
        verdict=None if efficiency is None else verdict(efficiency, device),
        share=wall_s / whole_s if whole_s else 0.0,
        bytes_per_call=None if not moved else moved / len(spans),
        gb_per_s=None if not moved or not wall_s else moved / wall_s / 1e9,
        device_clock=None if device_s is None else _clock_name(stage, device),
    )


def _clock_name(stage: str, device: DeviceName) -> str:
    if device == "cuda":
        return "CUDA events"
    return "process CPU time" if stage in ENGINE_THREADS else "thread CPU time"
