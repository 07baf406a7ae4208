"""A detector as a pool of threads, one for each execution context: what every device's detector has in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from app.errors import EngineError
from app.types import Detections, EngineInfo, Frame, S

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0


class Runner(Protocol[S]):
    """One execution context with all that a batch needs. `run` and `close` belong to one thread."""

    def run(self, frames: Sequence[Frame[S]], min_scores: Sequence[float]) -> list[Detections]:
        """Detect in a batch of frames. Blocking. Raises `EngineError` for this batch, `DeviceLost` for all."""
        ...

    def close(self) -> None:
        """Free the context. Called once, after the last `run`."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Job(Generic[S]):
    """A batch for whichever worker is free; the answer goes to the future's own loop."""

    frames: Sequence[Frame[S]]
    min_scores: Sequence[float]
    future: asyncio.Future[list[Detections]]
    ended: bool = False  # no thread reads the frames any more
    left: asyncio.Future[None] | None = None  # set by whoever gave up the answer and waits for that end

    def settle(self, result: list[Detections], error: Exception | None) -> None:
        """Take what a worker has to say of the batch. Event loop only."""
        self.ended = True
        if self.left is not None:
            self.left.set_result(None)
        elif self.future.cancelled():
            pass  # just now: whoever waited has not come around to ask for the end
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stop:
    """Ends the worker that takes it."""

    future: asyncio.Future[None]


class PooledDetector(Generic[S]):
    """A model on a device. Implements `Detector[S]`; event loop only."""

    def __init__(
        self,
        info: EngineInfo,
        runners: Sequence[Runner[S]],
        *,
        name: str,
        in_thread: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start one thread per runner, called `name:number`; `info.contexts` is their number. Any thread.

        Each thread lives inside `in_thread()`, which may bind it to a device. `on_closed` frees what the runners
        share, in the last thread that ends.
        """
        self._info = info
        self._free = asyncio.Semaphore(len(runners))  # bounds the queue: a batch waits here for a context
        self._jobs: queue.SimpleQueue[_Job[S] | _Stop] = queue.SimpleQueue()
        self._stops: list[asyncio.Future[None]] | None = None  # None while open
        self._in_thread = in_thread
        self._on_closed = on_closed
        self._open = len(runners)  # threads that still have their context
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=([runner],), name=f"{name}:{number}", daemon=True)
            for number, runner in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        state = "open" if self._stops is None else "closed"
        what = f"{self._info.model}, {self._info.backend}, {self._info.precision}"
        return f"PooledDetector({what}, {len(self._threads)} contexts, {state})"

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def detect(self, frames: Sequence[Frame[S]], *, min_scores: Sequence[float]) -> list[Detections]:
        """See `Detector.detect`. Ends, cancelled or not, only when no thread reads the surfaces any more."""
        if not 1 <= len(frames) <= self._info.max_batch or len(frames) != len(min_scores):
            raise ValueError(f"a batch has 1 to {self._info.max_batch} frames and a score for each, not {len(frames)}")
        async with self._free:
            if self._stops is not None:
                raise EngineError("the detector is closed")
            job: _Job[S] = _Job(frames=frames, min_scores=min_scores, future=asyncio.get_running_loop().create_future())
            self._jobs.put(job)
            try:
                return await job.future
            except asyncio.CancelledError:
                await _left(job)
                raise

    async def aclose(self) -> None:
        """Let the batches in flight finish, then end the threads. Idempotent; bounded by 5 s."""
        if self._stops is None:
            loop = asyncio.get_running_loop()
            self._stops = [loop.create_future() for _ in self._threads]
            for future in self._stops:
                self._jobs.put(_Stop(future=future))
        _, stuck = await asyncio.wait(self._stops, timeout=_CLOSE_TIMEOUT_S)
        if stuck:
            log.error("detector: %d of %d threads did not end and were abandoned", len(stuck), len(self._threads))

    def _work(self, held: list[Runner[S]]) -> None:
        """A thread's life: one batch after the other, until it is told to stop. `held` is its reference to its runner.

        That goes before the stop is told: what OpenVINO does to free a context waits for the GIL, and aborts the
        process when the interpreter is on its way out by then.
        """
        stop: _Stop | None = None
        try:
            with self._in_thread():
                stop = self._serve(held[0])
                try:
                    held[0].close()
                finally:
                    held.clear()
                    self._closed_one()
        except Exception as exc:  # whoever waits for this thread must have an answer all the same
            log.exception("detector: a context could not be bound or freed")
            if stop is None:
                stop = self._refuse(exc)
                held.clear()
                with contextlib.suppress(Exception):  # without its device the thread frees what it can
                    self._closed_one()
        _in_loop_of(stop.future, stop.future.set_result, None)

    def _serve(self, runner: Runner[S]) -> _Stop:
        while isinstance(job := self._jobs.get(), _Job):
            _detect(runner, job)
        return job

    def _refuse(self, exc: Exception) -> _Stop:
        """Fail every batch that comes to a thread which has no device."""
        error = exc if isinstance(exc, EngineError) else EngineError(f"a context has no device: {exc}")
        while isinstance(job := self._jobs.get(), _Job):
            _answer(job, [], error)
        return job

    def _closed_one(self) -> None:
        with self._lock:
            self._open -= 1
            last = not self._open
        if last:
            self._on_closed()


async def _left(job: _Job[S]) -> None:
    """Wait until no thread reads the frames of a batch whose answer nobody wants any more."""
    if job.ended:
        if not job.future.cancelled():
            job.future.exception()  # seen: nobody else will ask
        return
    job.left = asyncio.get_running_loop().create_future()
    await asyncio.wait({job.left}, timeout=_CLOSE_TIMEOUT_S)


def _detect(runner: Runner[S], job: _Job[S]) -> None:
    try:
        result = runner.run(job.frames, job.min_scores)
    except EngineError as exc:
        _answer(job, [], exc)
    except Exception as exc:  # whatever one batch did, the next must still be served
        log.exception("detector: a batch of %d frames failed", len(job.frames))
        error = EngineError(f"a batch of {len(job.frames)} frames could not be inferred: {exc}")
        error.__cause__ = exc
        _answer(job, [], error)
    else:
        _answer(job, result, None)


def _answer(job: _Job[S], result: list[Detections], error: Exception | None) -> None:
    _in_loop_of(job.future, job.settle, result, error)


def _in_loop_of(future: asyncio.Future[Any], settle: Callable[..., None], *values: object) -> None:
    """Settle a future from a worker thread. When its loop is gone, nobody waits any more."""
    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(settle, *values)
