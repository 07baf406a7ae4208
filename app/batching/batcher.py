"""Moves batches from the mailbox through the detector to the hub, as many at once as there are execution contexts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol

import anyio

from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy, CloseReason
from app.cameras.lane import Lane
from app.errors import DeviceLost, EngineError
from app.inference.detector import Detector
from app.logs import RepeatFilter
from app.types import Detections, Frame, S

logger = logging.getLogger("vidette.batcher")
logger.addFilter(RepeatFilter())  # an engine that is broken fails many times a second
LOOK_S = 1.0
END_S = 4.0
# A result that waited so many batch times and took one is less than two of them old, with something for batches that
# take longer than most.
YOUNG_BATCHES = 0.65
_WEIGHT = 0.1  # of the newest batch in the average


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
    """A worker: `run` until cancelled. A context is taken first, then frames, so a batch grows while none is free.

    Two things may start a batch, and both end in `_fill`: a frame that comes while a context is free, and a context
    that becomes free while frames wait. A batch is a task of its own; nothing else of the batcher ever waits.
    """

    def __init__(
        self,
        *,
        policy: BatchPolicy,
        detector: Detector[S],
        sink: ResultSink[S],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        give_up_s: float = 0.0,
        look_s: float = LOOK_S,
        end_s: float = END_S,
    ) -> None:
        """A batch that has not ended after `give_up_s` (0: never) ends `run`, which then waits for `end_s` at most."""
        self._contexts = detector.info.contexts
        self.mailbox: Mailbox[S] = Mailbox(policy, on_frame=self._frame_came, contexts=self._contexts)
        self._detector = detector
        self._sink = sink
        self._loop = loop
        self._clock = clock
        self._batches: set[asyncio.Task[None]] = set()  # under way
        self._open = False
        self._again: asyncio.TimerHandle | None = None
        self._error: asyncio.Future[None] | None = None  # what ends `run`
        self._give_up_s = give_up_s
        self._look_s = look_s
        self._end_s = end_s
        self._looks: Counter[asyncio.Task[None]] = Counter()  # that each batch has been under way for
        self._sizes: Counter[int] = Counter()
        self._reasons: Counter[CloseReason] = Counter()
        self._failed = 0
        self._busy_s = 0.0  # of all contexts together, batches that have ended
        self._began: dict[asyncio.Task[None], float] = {}
        self._batch_s: float | None = None  # what a batch takes, averaged over the last ones

    @property
    def busy_s(self) -> float:
        """Seconds that contexts have spent on batches so far, all contexts together, those under way included."""
        now = self._clock()
        return self._busy_s + sum(now - began for began in self._began.values())

    @property
    def batch_s(self) -> float | None:
        """What a batch takes, averaged over the last ones; None before the first."""
        return self._batch_s

    @property
    def stats(self) -> BatcherStats:
        return BatcherStats(
            contexts=self._contexts,
            contexts_busy=len(self._batches),
            batch_sizes=dict(self._sizes),
            close_reasons=dict(self._reasons),
            failed_batches=self._failed,
        )

    async def run(self) -> None:
        """Serve until cancelled; batches in flight finish first. Raises `DeviceLost`, also for a batch that hangs."""
        self._error = self._loop.create_future()
        self._open = True
        try:
            self._fill()
            while not (await asyncio.wait([self._error], timeout=self._look_s))[0]:
                self._look()
            await self._error
        finally:
            self._open = False
            self._cancel_wait()
            # Surfaces must outlive the device's use of them, so a batch in flight is never cancelled.
            with anyio.CancelScope(shield=True):
                if self._batches:
                    await asyncio.wait(self._batches, timeout=self._end_s)
            if self._batches:
                logger.error("%d batches did not end within %g s and are abandoned", len(self._batches), self._end_s)
            self.mailbox.close()

    def _look(self) -> None:
        """Notice a batch that hangs. Counted in looks, so that a process that was stopped and goes on is not hung."""
        self._looks = Counter({task: self._looks[task] + 1 for task in self._batches})
        longest_s = max(self._looks.values(), default=0) * self._look_s
        if self._give_up_s and longest_s >= self._give_up_s:
            self._fail(DeviceLost(f"a batch has not ended for {longest_s:g} s: the engine hangs"))

    def _frame_came(self) -> None:
        # A closed loop means the service is gone; the frame stays in its slot and is dropped by `close`.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._fill)

    def _fill(self) -> None:
        """Give every free context a batch, as long as there is one."""
        self._cancel_wait()
        try:
            while self._open and len(self._batches) < self._contexts:
                batch, wait_s = self.mailbox.take(self._clock())
                if batch is None:
                    if wait_s is not None:
                        self._again = self._loop.call_later(wait_s, self._fill)
                    return
                self._start(batch)
        except Exception as exc:  # a callback's error would end in a log line, and the service would stand still
            self._fail(exc)

    def _cancel_wait(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _start(self, batch: Batch[S]) -> None:
        self._sizes[len(batch)] += 1
        self._reasons[batch.reason] += 1
        for frame, lane in zip(batch.frames, batch.lanes, strict=True):
            self._sink.started(lane, frame.seq)
        task = self._loop.create_task(self._infer(batch), name="batch")
        self._batches.add(task)
        self._began[task] = self._clock()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._took(self._clock() - self._began.pop(task))
        if task.cancelled():  # the loop itself is being torn down
            return
        error = task.exception()
        if error is None:
            self._fill()
        else:
            self._fail(error)

    def _took(self, batch_s: float) -> None:
        self._busy_s += batch_s
        self._batch_s = batch_s if self._batch_s is None else self._batch_s + _WEIGHT * (batch_s - self._batch_s)
        self.mailbox.young_s = YOUNG_BATCHES * self._batch_s

    def _fail(self, error: BaseException) -> None:
        self._open = False
        if self._error is not None and not self._error.done():
            self._error.set_exception(error)

    async def _infer(self, batch: Batch[S]) -> None:
        """Infer a batch. One that fails is tried again frame by frame: a frame at fault must not cost the others."""
        left = deque([batch])
        try:
            while left:
                found = await self._detect(left[0])
                tried = left.popleft()
                if found is not None:
                    for frame, lane, result in zip(tried.frames, tried.lanes, found, strict=True):
                        self._sink.finished(lane, frame, result, tried)
                elif len(tried) > 1:
                    left.extend(tried.singles())
                else:
                    self._give_up(tried)
        finally:
            for each in left:
                self._give_up(each)

    async def _detect(self, batch: Batch[S]) -> list[Detections] | None:
        """None: it failed, and the log says why. Raises `DeviceLost`."""
        try:
            min_scores = [lane.settings.min_score for lane in batch.lanes]
            results = await self._detector.detect(batch.frames, min_scores=min_scores)
            if len(results) == len(batch):
                return results
            logger.error("a batch failed: the detector gave %d results for %d frames", len(results), len(batch))
        except DeviceLost:
            raise
        except EngineError as exc:
            logger.error("a batch of %d failed: %s", len(batch), exc)
        except Exception:
            logger.exception("a batch of %d failed for a reason nobody foresaw", len(batch))
        self._failed += 1
        return None

    def _give_up(self, batch: Batch[S]) -> None:
        for frame, lane in zip(batch.frames, batch.lanes, strict=True):
            lane.ledger.dropped("infer_failed")
            self._sink.failed(lane, frame.seq)
            frame.surface.release()
