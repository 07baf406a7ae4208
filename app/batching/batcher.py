"""Moves batches from the mailbox through the detector to the hub, one worker for each execution context."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol

import anyio
import anyio.lowlevel

from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy, CloseReason
from app.cameras.lane import Lane
from app.errors import DeviceLost, EngineError
from app.inference.detector import Detector
from app.types import Detections, Frame, S

logger = logging.getLogger("vidette.batcher")


class ResultSink(Protocol[S]):
    """Where results go: in `seq` order per camera, whatever order contexts finish in. Event loop only."""

    def started(self, lane: Lane, seq: int) -> None:
        """A frame went into a batch; its result, or its failure, will be told."""
        ...

    def finished(self, lane: Lane, frame: Frame[S], found: Detections, batch: Batch[S]) -> None:
        """A frame was inferred, in this batch. Takes over the frame's surface."""
        ...

    def failed(self, lane: Lane, seq: int) -> None:
        """A frame will have no result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStats:
    """A reading of the batcher, counted since the start."""

    contexts: int
    contexts_busy: int
    batch_sizes: dict[int, int]  # size: batches
    close_reasons: dict[CloseReason, int]
    failed_batches: int


class Batcher(Generic[S]):
    """A worker: `run` until cancelled. A context is taken first, then frames, so a batch grows while none is free."""

    def __init__(
        self,
        *,
        policy: BatchPolicy,
        detector: Detector[S],
        sink: ResultSink[S],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self.mailbox: Mailbox[S] = Mailbox(policy, on_frame=self._frame_came, contexts=detector.info.contexts)
        self._detector = detector
        self._sink = sink
        self._loop = loop
        self._clock = clock
        self._idle: deque[asyncio.Future[None]] = deque()
        self._sizes: Counter[int] = Counter()
        self._reasons: Counter[CloseReason] = Counter()
        self._busy = 0
        self._failed = 0

    @property
    def stats(self) -> BatcherStats:
        return BatcherStats(
            contexts=self._detector.info.contexts,
            contexts_busy=self._busy,
            batch_sizes=dict(self._sizes),
            close_reasons=dict(self._reasons),
            failed_batches=self._failed,
        )

    async def run(self) -> None:
        """Serve until cancelled; batches in flight finish first. Raises `DeviceLost` when the detector does."""
        try:
            async with anyio.create_task_group() as contexts:
                for number in range(self._detector.info.contexts):
                    contexts.start_soon(self._serve, name=f"context:{number}")
        finally:
            self.mailbox.close()

    async def _serve(self) -> None:
        while True:
            # Without it a cancelled context that always finds frames would go on for ever: nothing below waits.
            await anyio.lowlevel.checkpoint_if_cancelled()
            batch = await self._next_batch()
            self._busy += 1
            try:
                # Surfaces must outlive the device's use of them, so a batch in flight is never cancelled.
                with anyio.CancelScope(shield=True):
                    await self._infer(batch)
            finally:
                self._busy -= 1

    async def _next_batch(self) -> Batch[S]:
        while True:
            batch, wait_s = self.mailbox.take(self._clock())
            if batch is not None:
                if self._idle and self.mailbox.has_frames():
                    self._wake_one()
                return batch
            await self._wait(wait_s)

    async def _wait(self, wait_s: float | None) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(future)
        try:
            with anyio.move_on_after(wait_s):
                await future
        finally:
            if future in self._idle:
                self._idle.remove(future)

    def _frame_came(self) -> None:
        # A closed loop means the service is gone; the frame stays in its slot and is dropped by `close`.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake_one)

    def _wake_one(self) -> None:
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def _infer(self, batch: Batch[S]) -> None:
        self._sizes[len(batch)] += 1
        self._reasons[batch.reason] += 1
        for frame, lane in zip(batch.frames, batch.lanes, strict=True):
            self._sink.started(lane, frame.seq)
        found: list[Detections] | None = None
        try:
            min_scores = [lane.settings.min_score for lane in batch.lanes]
            found = await self._detector.detect(batch.frames, min_scores=min_scores)
        except DeviceLost:
            raise
        except EngineError as exc:
            logger.error("a batch of %d failed: %s", len(batch), exc)
        except Exception:
            logger.exception("a batch of %d failed for a reason nobody foresaw", len(batch))
        finally:
            if found is None:
                self._give_up(batch)
        if found is not None:
            for frame, lane, result in zip(batch.frames, batch.lanes, found, strict=True):
                self._sink.finished(lane, frame, result, batch)

    def _give_up(self, batch: Batch[S]) -> None:
        self._failed += 1
        for frame, lane in zip(batch.frames, batch.lanes, strict=True):
            frame.surface.release()
            lane.ledger.dropped("infer_failed")
            self._sink.failed(lane, frame.seq)
