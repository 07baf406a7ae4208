"""The batcher on a virtual clock: arrivals go through the service's own mailbox and `BatchPolicy` to a device.

Event-driven and exact: nothing is sampled, and the same input gives the same output. What is not modelled: decoding,
the event loop's own time (about a tenth of a millisecond a batch), and batches of one size that take more or less long.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.lane import Lane
from app.measure.figures import spread
from app.types import Frame, FrameTimes
from scripts.batching.arrivals import Arrival
from scripts.batching.device import Device

# Frames that come before this share of the time find a pipeline that still fills, and are not counted.
WARM_UP = 0.1
_EventKind: TypeAlias = Literal["timer", "open", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A policy to try. A context takes its next batch `early_s` before it is free."""

    name: str
    policy: BatchPolicy
    early_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A batch on the device. Times are virtual seconds."""

    cameras: tuple[int, ...]
    arrived_at: tuple[float, ...]
    starts_at: float
    ends_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the frames that arrived after the warm-up."""

    age_p50_ms: float  # from a frame's arrival to its result; NaN when there is none
    age_p99_ms: float
    mean_batch: float
    busy_share: float  # of the device's time
    fairness: float  # Jain's index over what share of its frames each camera got through
    dropped_share: float
    served_fps: float


class _Event(NamedTuple):
    at: float
    number: int  # of events at the same time, the one that was planned first
    kind: _EventKind
    batch: Batch[SyntheticSurface] | None = None


class _Run:
    """One run's state: the mailbox, the contexts, and what is planned."""

    def __init__(self, cameras: int, device: Device, candidate: Candidate) -> None:
        # A context that takes a batch early has two of them for a moment, so a camera may have one frame more in work.
        contexts = device.contexts + (candidate.early_s > 0)
        self.mailbox: Mailbox[SyntheticSurface] = Mailbox(candidate.policy, on_frame=lambda: None, contexts=contexts)
        self.lanes = [Lane(str(number)) for number in range(cameras)]
        for lane in self.lanes:
            self.mailbox.add(lane)
        self.executions: list[Execution] = []
        self.events: list[_Event] = []
        self._device = device
        self._early_s = candidate.early_s
        self._idle = device.contexts
        self._free_at = [0.0] * device.lines
        self._planned = 0
        self._asks_at = math.inf

    def offer(self, arrival: Arrival) -> None:
        lane = self.lanes[arrival.camera]
        self.mailbox.offer(lane, _frame(lane, arrival.at_s), arrival.at_s)

    def happen(self, event: _Event) -> None:
        if event.kind == "open":
            self._idle += 1
        if event.kind == "ended" and event.batch is not None:
            for lane in event.batch.lanes:
                lane.under_way -= 1
                lane.ledger.published()

    def serve(self, now: float) -> None:
        """Give idle contexts what the policy lets them have."""
        while self._idle:
            batch, wait_s = self.mailbox.take(now)
            if batch is not None:
                self._start(batch, now)
                continue
            if wait_s is not None and now + wait_s != self._asks_at:
                self._asks_at = now + wait_s
                self._plan(self._asks_at, "timer")
            return

    def _start(self, batch: Batch[SyntheticSurface], now: float) -> None:
        line = min(range(len(self._free_at)), key=self._free_at.__getitem__)
        starts_at = max(now + self._device.launch_ms / 1e3, self._free_at[line])
        ends_at = starts_at + self._device.execution_s(len(batch))
        self._free_at[line] = ends_at
        self._idle -= 1
        for lane in batch.lanes:
            lane.under_way += 1
        self._plan(max(now, ends_at - self._early_s), "open")
        self._plan(ends_at, "ended", batch)
        self.executions.append(
            Execution(
                cameras=tuple(int(lane.camera_id) for lane in batch.lanes),
                arrived_at=tuple(frame.times.arrived_at for frame in batch.frames),
                starts_at=starts_at,
                ends_at=ends_at,
            )
        )

    def _plan(self, at: float, kind: _EventKind, batch: Batch[SyntheticSurface] | None = None) -> None:
        self._planned += 1
        heapq.heappush(self.events, _Event(at, self._planned, kind, batch))


def execute(arrivals: Sequence[Arrival], device: Device, candidate: Candidate) -> list[Execution]:
    """Everything that the device executes, in the order in which batches were formed."""
    state = _Run(1 + max(arrival.camera for arrival in arrivals), device, candidate)
    coming = 0
    while coming < len(arrivals) or state.events:
        next_arrival = arrivals[coming].at_s if coming < len(arrivals) else math.inf
        now = min(next_arrival, state.events[0].at if state.events else math.inf)
        while coming < len(arrivals) and arrivals[coming].at_s <= now:
            state.offer(arrivals[coming])
            coming += 1
        while state.events and state.events[0].at <= now:
            state.happen(heapq.heappop(state.events))
        state.serve(now)
    return state.executions


def simulate(arrivals: Sequence[Arrival], device: Device, candidate: Candidate) -> Outcome:
    """Run arrivals (at least two, in order) through a policy, and count what became of them."""
    ended = arrivals[-1].at_s
    began = arrivals[0].at_s + WARM_UP * (ended - arrivals[0].at_s)
    offered = Counter(arrival.camera for arrival in arrivals if arrival.at_s >= began)
    executions = execute(arrivals, device, candidate)
    within = [each for each in executions if began <= each.starts_at <= ended]
    served = [
        (camera, each.ends_at - arrived_at)
        for each in executions
        for camera, arrived_at in zip(each.cameras, each.arrived_at, strict=True)
        if arrived_at >= began
    ]
    by_camera = Counter(camera for camera, _ in served)
    p50, p99 = np.percentile([1e3 * age for _, age in served], (50, 99)) if served else (math.nan, math.nan)
    busy_s = sum(max(0.0, min(each.ends_at, ended) - max(each.starts_at, began)) for each in executions)
    return Outcome(
        age_p50_ms=float(p50),
        age_p99_ms=float(p99),
        mean_batch=sum(len(each.cameras) for each in within) / max(1, len(within)),
        busy_share=busy_s / (device.lines * (ended - began)),
        fairness=spread(by_camera[camera] / count for camera, count in offered.items()).jain,
        dropped_share=1 - len(served) / offered.total(),
        served_fps=len(served) / (ended - began),
    )


def _frame(lane: Lane, at_s: float) -> Frame[SyntheticSurface]:
    times = FrameTimes(arrived_at=at_s, decoded_at=at_s, decode_s=0.0, captured_utc=at_s, clock="arrival")
    surface = SyntheticSurface(1, 1, at_s)
    return Frame(camera_id=lane.camera_id, seq=lane.ledger.decoded(), pts_s=at_s, times=times, surface=surface)
