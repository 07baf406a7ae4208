"""The pool of contexts: its threads answer whoever waits, whatever becomes of their device."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.errors import DeviceLost
from app.inference.pool import PooledDetector
from app.types import Detections, EngineInfo, Frame
from tests.support.fakes import make_frame

INFO = EngineInfo(
    model="scripted",
    sha256="",
    family="yolox",
    input_width=8,
    input_height=8,
    classes=("person",),
    precision="fp32",
    backend="scripted",
    device="none",
    max_batch=16,
    best_batch=1,
    contexts=1,
    capacity_fps=None,
)


class ScriptedRunner:
    """Finds nothing; fails to close when told so."""

    def __init__(self, close_error: Exception | None = None) -> None:
        self.closed = False
        self._close_error = close_error

    def run(self, frames: Sequence[Frame[SyntheticSurface]], min_scores: Sequence[float]) -> list[Detections]:
        return []

    def close(self) -> None:
        self.closed = True
        if self._close_error is not None:
            raise self._close_error


async def test_every_context_is_closed_and_then_what_they_share() -> None:
    runners = [ScriptedRunner(), ScriptedRunner(), ScriptedRunner()]
    order: list[bool] = []
    detector = PooledDetector[SyntheticSurface](
        INFO, runners, name="cpu-pool", on_closed=lambda: order.append(all(runner.closed for runner in runners))
    )
    await detector.aclose()
    assert order == [True]


async def test_a_context_is_let_go_in_its_thread_before_anybody_is_told_that_it_has_ended() -> None:
    kept: list[bool] = []
    runners = [ScriptedRunner()]
    runner = weakref.ref(runners[0])

    @contextmanager
    def bound() -> Iterator[None]:
        yield
        kept.append(runner() is not None)

    detector = PooledDetector[SyntheticSurface](INFO, runners, name="cpu-pool", in_thread=bound)
    runners.clear()
    await detector.aclose()
    assert kept == [False]


async def test_a_context_that_cannot_be_freed_does_not_keep_what_all_share() -> None:
    freed = threading.Event()
    runners = [ScriptedRunner(RuntimeError("cannot be freed")), ScriptedRunner()]
    detector = PooledDetector[SyntheticSurface](INFO, runners, name="cpu-pool", on_closed=freed.set)
    await asyncio.wait_for(detector.aclose(), 20)
    assert freed.is_set()


async def test_a_thread_that_finds_no_device_fails_its_batches_and_still_ends() -> None:
    freed = threading.Event()

    def no_device() -> AbstractContextManager[None]:
        raise DeviceLost("the device is gone")

    detector = PooledDetector[SyntheticSurface](
        INFO, [ScriptedRunner()], name="cpu-pool", in_thread=no_device, on_closed=freed.set
    )
    for _ in range(2):
        with pytest.raises(DeviceLost, match="the device is gone"):
            await asyncio.wait_for(detector.detect([make_frame()], min_scores=[0.5]), 20)
    await asyncio.wait_for(detector.aclose(), 20)
    assert freed.is_set()
