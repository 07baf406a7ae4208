"""When a batch is formed and of which frames. Pure: no clock, no waiting, no locks.

Greedy and fair: as soon as a context is free, everything that is ready goes, up to the batch limit. Who comes first is
start-time fair queueing (Goyal, Vin and Cheng, 1996): each camera has a start tag in virtual time, the smallest goes
first, and being served moves it on by one over its priority. Under overload shares follow priorities; a camera that was
quiet is owed `CREDIT` of its past and no more. With one slot a camera, even a busy one is without a frame at times.

Two rules keep overload from showing in ages and shares. A frame that has waited longer than a batch takes lets younger
ones go first: its camera keeps its turn, and takes it with its next frame. And when much is dropped (`strict`), a batch
takes nobody along whose turn comes after the next turn of the camera that leads it, and no frame that has waited too
long: with room for everybody in each batch, all would get the same.

Where contexts have cores of their own, one that took everything would keep it from another that is free a moment later.
So each takes its part of what is left (guided self-scheduling: Polychronopoulos and Kuck, 1987), and they end at about
the same time. Where contexts share a device, or large batches gain much, taking everything is better;
`scripts/simulate_batching.py` shows both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

# In virtual time: two turns of a camera of priority 1, which moves virtual time on by one when it is served too early.
# Without it, a camera of priority 10 gets a tenth less than its share beside one of priority 1.
CREDIT = 2.0

CloseReason: TypeAlias = Literal["full", "context_free", "delay", "drain"]


@dataclass(slots=True, kw_only=True)
class Waiting:
    """A frame that waits in a camera's slot."""

    start_tag: float = 0.0  # its camera's place in virtual time
    arrived_at: float = 0.0  # of its packet, monotonic seconds
    offered_at: float = 0.0  # since when the slot has been taken, monotonic seconds
    ready_at: float = 0.0  # since when this very frame waits, monotonic seconds
    next_turn: float = 0.0  # the start tag that its camera will have once it was served


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with the waiting frames, by their indices. Neither taken nor stale: it stays."""

    take: tuple[int, ...] = ()
    stale: tuple[int, ...] = ()
    reason: CloseReason | None = None  # None: no batch now
    wait_s: float | None = None  # ask again after this long, or earlier if a frame comes; None: when a frame comes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """The rule and its limits, in frames and seconds."""

    max_size: int = 16
    max_delay_s: float = 0.0
    max_age_s: float = 0.5
    shared_by: int = 1  # contexts that share what is ready: those that execute at the same time, not in turn

    def decide(
        self,
        waiting: Sequence[Waiting],
        *,
        now: float,
        draining: bool = False,
        young_s: float = math.inf,
        strict: bool = False,
    ) -> Decision:
        """Decide for one free context. Frames older than `max_age_s` are stale, whether or not a batch is formed.

        Frames that have waited for more than `young_s` come after all others. `strict`: shares and ages count more than
        full batches and busy contexts.
        """
        stale = tuple([i for i, frame in enumerate(waiting) if now - frame.arrived_at > self.max_age_s])
        fresh = [i for i in range(len(waiting)) if i not in stale] if stale else range(len(waiting))
        if not fresh:
            return Decision(stale=stale)
        size = min(self.max_size, -(-len(fresh) // self.shared_by))  # rounded up
        reason: CloseReason
        if size == self.max_size:
            reason = "full"
        elif draining:
            reason = "drain"
        elif self.max_delay_s <= 0:
            reason = "context_free"
        else:
            # The delay counts from the frame that waited longest, so a busy camera cannot starve a quiet one.
            left_s = min(waiting[i].offered_at for i in fresh) + self.max_delay_s - now
            if left_s > 0:
                return Decision(stale=stale, wait_s=left_s)
            reason = "delay"
        since = now - young_s
        turns = sorted([(waiting[i].ready_at < since, waiting[i].start_tag, waiting[i].arrived_at, i) for i in fresh])
        taken = turns[:size]
        if strict:
            old, _, _, leader = taken[0]
            if old:  # more frames come than can be inferred, so a young one is about to
                return Decision(stale=stale, wait_s=young_s)
            until = waiting[leader].next_turn
            taken = [turn for turn in taken if not turn[0] and turn[1] <= until]
            reason = reason if len(taken) == size else "context_free"
        return Decision(take=tuple([turn[-1] for turn in taken]), stale=stale, reason=reason)


def next_tag(virtual_now: float, finish_tag: float) -> float:
    """The start tag of a frame that comes to an empty slot."""
    return max(virtual_now - CREDIT, finish_tag)


def finish_tag(start_tag: float, priority: int) -> float:
    """Where serving a frame of a camera of this priority (1..10) moves the camera in virtual time."""
    return start_tag + 1.0 / priority
