"""One slot a camera: the newest frame waits, an older one gives way."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic

from app.batching.policy import BatchPolicy, CloseReason, Decision, Waiting, finish_tag, next_tag
from app.cameras.lane import Lane
from app.cameras.ledger import DropReason
from app.errors import DeviceLost
from app.types import Frame, S


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[S]):
    """Frames that are inferred together, each with its camera's lane. Whoever holds a batch owns its surfaces."""

    frames: tuple[Frame[S], ...]
    lanes: tuple[Lane, ...]
    formed_at: float
    reason: CloseReason

    def __len__(self) -> int:
        return len(self.frames)

    def singles(self) -> Iterator[Batch[S]]:
        """Each frame as a batch of its own."""
        for frame, lane in zip(self.frames, self.lanes, strict=True):
            yield replace(self, frames=(frame,), lanes=(lane,))


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot(Waiting, Generic[S]):
    lane: Lane
    frame: Frame[S] | None = None
    finish_tag: float = 0.0
    newest_seq: int = 0  # that was offered


class Mailbox(Generic[S]):
    """All cameras' slots. `offer` may come from any thread; the rest belongs to the event loop.

    Depth 1, not 2: in overload depth 2 doubles the age of every result for the same throughput.
    `on_frame` is called, outside the lock and in the offering thread, for the first frame after a `take` in vain.
    """

    def __init__(self, policy: BatchPolicy, *, on_frame: Callable[[], None], contexts: int = 1) -> None:
        self.young_s = math.inf  # a frame that waited longer lets younger ones go first
        self.strict = False  # shares count more than full batches
        self._policy = policy
        self._contexts = contexts
        self._on_frame = on_frame
        self._lock = threading.Lock()
        self._slots: dict[Lane, _Slot[S]] = {}
        self._full: dict[Lane, _Slot[S]] = {}  # those with a frame in them
        self._virtual_now = 0.0
        self._wanted = False
        self._closed = False
        self._lost: DeviceLost | None = None

    def add(self, lane: Lane) -> None:
        with self._lock:
            self._slots[lane] = _Slot(lane=lane, start_tag=self._virtual_now, finish_tag=self._virtual_now)

    def remove(self, lane: Lane) -> None:
        """Take the camera out; its waiting frame is dropped as `shutdown`. Idempotent."""
        with self._lock:
            slot = self._slots.pop(lane, None)
            self._full.pop(lane, None)
        if slot is not None and slot.frame is not None:
            self._drop(slot.frame, lane, "shutdown")

    def offer(self, lane: Lane, frame: Frame[S], now: float) -> None:
        """Put a camera's newest frame in its slot and take over its surface. Any thread; never blocks for long."""
        wake = False
        with self._lock:
            slot = None if self._closed else self._slots.get(lane)
            # A reader that was told to stop may come after its successor: results go out with rising numbers.
            if slot is None or frame.seq < slot.newest_seq:
                older: Frame[S] | None = frame
            else:
                slot.newest_seq = frame.seq
                older = slot.frame
                if older is None:
                    # A newer frame takes over the turn and the wait of the one it replaces: else a camera faster than
                    # the batch delay would wait for ever.
                    slot.start_tag, slot.offered_at = next_tag(self._virtual_now, slot.finish_tag), now
                    slot.next_turn = finish_tag(slot.start_tag, lane.settings.priority)
                    self._full[lane] = slot
                slot.frame, slot.arrived_at, slot.ready_at = frame, frame.times.arrived_at, now
                wake, self._wanted = self._wanted, False
        if older is not None:
            self._drop(older, lane, "replaced" if slot is not None else "shutdown")
        if wake:
            self._on_frame()

    def device_lost(self, error: DeviceLost) -> None:
        """No camera can deliver any more: the next `take` raises the error. Any thread."""
        with self._lock:
            self._lost = error
        self._on_frame()

    def take(self, now: float, *, draining: bool = False) -> tuple[Batch[S] | None, float | None]:
        """A batch for a free context, or None and how many seconds to wait (None: until `on_frame`).

        Raises `DeviceLost` when a camera has found that the device is gone.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            # A camera with a frame in each context waits: behind a slow one its results would pile up without bound.
            slots = [slot for lane, slot in self._full.items() if lane.under_way < self._contexts]
            if not slots:
                self._wanted = True
                return None, None
            decision = self._policy.decide(slots, now=now, draining=draining, young_s=self.young_s, strict=self.strict)
            batch = self._take(slots, decision, now)
            stale = [self._empty(slots[i]) for i in decision.stale]
            self._wanted = batch is None
        for frame, lane in stale:
            self._drop(frame, lane, "stale")
        return batch, decision.wait_s

    def close(self) -> None:
        """Drop all that waits, and from now on all that comes, as `shutdown`."""
        with self._lock:
            self._closed = True
            left = [self._empty(slot) for slot in list(self._full.values())]
        for frame, lane in left:
            self._drop(frame, lane, "shutdown")

    def _take(self, slots: list[_Slot[S]], decision: Decision, now: float) -> Batch[S] | None:
        if decision.reason is None:
            return None
        chosen = [slots[i] for i in decision.take]
        for slot in chosen:
            self._virtual_now = max(self._virtual_now, slot.start_tag)
            slot.finish_tag = slot.next_turn
        frames = tuple(self._empty(slot)[0] for slot in chosen)
        return Batch(frames=frames, lanes=tuple(s.lane for s in chosen), formed_at=now, reason=decision.reason)

    def _empty(self, slot: _Slot[S]) -> tuple[Frame[S], Lane]:
        frame, slot.frame = slot.frame, None
        assert frame is not None
        del self._full[slot.lane]
        return frame, slot.lane

    @staticmethod
    def _drop(frame: Frame[S], lane: Lane, reason: DropReason) -> None:
        lane.ledger.dropped(reason)
        frame.surface.release()
