"""Batches in flight: contexts, failures, order, and the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.batching.batcher import Batcher
from app.batching.policy import BatchPolicy
from app.cameras.lane import Lane
from app.errors import DeviceLost, EngineError
from app.results.history import History
from app.results.hub import ResultHub
from tests.support.fakes import Call, FakeClock, ManualDetector, SyntheticFrame, make_lane, next_frame
from tests.support.wait import wait_until


@dataclass
class Bench:
    """A batcher with a detector under the test's control and a real hub behind it."""

    batcher: Batcher[SyntheticSurface]
    detector: ManualDetector
    hub: ResultHub[SyntheticSurface]
    clock: FakeClock
    task: asyncio.Task[None]

    def camera(self, camera_id: str, *, min_score: float = 0.25) -> Lane:
        lane = make_lane(camera_id, min_score=min_score)
        self.batcher.mailbox.add(lane)
        return lane

    def offer(self, lane: Lane) -> SyntheticFrame:
        frame = next_frame(lane, at=self.clock())
        self.batcher.mailbox.offer(lane, frame, self.clock())
        return frame

    async def call(self, number: int) -> Call:
        await wait_until(lambda: len(self.detector.calls) > number, what=f"batch {number} is under way")
        return self.detector.calls[number]

    async def idle(self) -> None:
        await wait_until(lambda: self.batcher.stats.contexts_busy == 0, what="no batch is under way")

    def published(self, camera_id: str) -> list[int]:
        return [result.seq for result in self.hub.history.newest(camera_id, limit=100)]


@asynccontextmanager
async def bench(*, contexts: int = 1, give_up_s: float = 0.0, **policy: float) -> AsyncIterator[Bench]:
    detector, clock = ManualDetector(contexts=contexts), FakeClock()
    hub: ResultHub[SyntheticSurface] = ResultHub(
        model="synthetic", classes=("person", "car"), history=History(100), clock=clock
    )
    batcher: Batcher[SyntheticSurface] = Batcher(
        policy=BatchPolicy(**{"max_age_s": 10, **policy}),  # type: ignore[arg-type]
        detector=detector,
        sink=hub,
        loop=asyncio.get_running_loop(),
        clock=clock,
        give_up_s=give_up_s,
        look_s=0.01,
        end_s=0.1 if give_up_s else 20.0,
    )
    task = asyncio.create_task(batcher.run())
    try:
        yield Bench(batcher, detector, hub, clock, task)
    finally:
        task.cancel()
        while not task.done():
            for call in detector.calls:
                if not call.ending.done():
                    call.finish()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        hub.snapshots.close()


async def test_a_frame_goes_at_once_and_its_camera_s_floor_goes_with_it() -> None:
    async with bench() as b:
        lane = b.camera("a", min_score=0.6)
        b.offer(lane)
        call = await b.call(0)
        assert call.min_scores == (0.6,)
        call.finish()
        await b.idle()
        assert b.published("a") == [1]


async def test_a_batch_grows_while_no_context_is_free() -> None:
    async with bench() as b:
        lanes = [b.camera(name) for name in "abcd"]
        b.offer(lanes[0])
        first = await b.call(0)
        for lane in lanes:
            b.offer(lane)
        first.finish()
        second = await b.call(1)
        assert sorted(second.cameras) == ["a", "b", "c", "d"]
        assert b.batcher.stats.batch_sizes == {1: 1, 4: 1}
        assert b.batcher.stats.close_reasons == {"context_free": 2}


async def test_frame_by_frame_mode_infers_frame_by_frame() -> None:
    async with bench(max_size=1) as b:
        for lane in [b.camera(name) for name in "abc"]:
            b.offer(lane)
        for number in range(3):
            (await b.call(number)).finish()
        await b.idle()
        assert b.batcher.stats.batch_sizes == {1: 3}
        assert b.batcher.stats.close_reasons == {"full": 3}


async def test_every_context_works_at_once() -> None:
    async with bench(contexts=3, max_size=1) as b:
        lanes = [b.camera(name) for name in "abc"]
        b.offer(lanes[0])
        (await b.call(0)).finish()
        await b.idle()
        # All contexts wait now. The three frames ring once; each context wakes the next while frames are left.
        for lane in lanes:
            b.offer(lane)
        await b.call(3)
        assert b.batcher.stats.contexts_busy == 3
        assert b.batcher.stats.contexts == 3


async def test_results_leave_in_order_when_contexts_finish_out_of_order() -> None:
    async with bench(contexts=2) as b:
        lane = b.camera("a")
        b.offer(lane)
        first = await b.call(0)
        b.offer(lane)
        second = await b.call(1)
        second.finish()
        await wait_until(lambda: b.batcher.stats.contexts_busy == 1)
        assert b.published("a") == []
        first.finish()
        await b.idle()
        assert b.published("a") == [1, 2]


async def test_a_stuck_context_bounds_what_its_cameras_have_in_flight_and_holds_up_nobody_else() -> None:
    async with bench(contexts=2) as b:
        unlucky, lucky = b.camera("unlucky"), b.camera("lucky")
        b.offer(unlucky)
        stuck = await b.call(0)
        for number in range(1, 12):
            b.offer(unlucky)
            b.offer(lucky)
            (await b.call(number)).finish()
            await wait_until(lambda: b.batcher.stats.contexts_busy == 1)
            assert unlucky.counts().in_flight <= 1 + 2
        assert b.published("lucky") == list(range(1, 12))
        stuck.finish()
        (await b.call(12)).finish()  # the frame that waited all the time goes now
        await b.idle()
        assert b.published("unlucky") == [1, 2, 12]
        assert unlucky.counts().in_flight == 0


async def test_a_failed_batch_costs_its_frames_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        lanes = [b.camera("a"), b.camera("b")]
        frames = [b.offer(lane) for lane in lanes]
        (await b.call(0)).fail(EngineError("the device hiccupped"))
        for number in (1, 2):  # each by itself
            (await b.call(number)).fail(EngineError("again"))
        await b.idle()
        assert all(frame.surface.released == 1 for frame in frames)
        assert all(lane.counts().dropped["infer_failed"] == 1 for lane in lanes)
        assert b.batcher.stats.failed_batches == 3
        assert "a batch of 2 failed: the device hiccupped" in caplog.text
        b.offer(lanes[0])
        (await b.call(3)).finish()
        await b.idle()
        assert b.published("a") == [2]


async def test_a_frame_that_no_batch_survives_costs_its_camera_alone() -> None:
    async with bench(contexts=2) as b:
        lanes = {name: b.camera(name) for name in "abc"}
        for lane in lanes.values():
            b.offer(lane)
        (await b.call(0)).fail(EngineError("the picture of b cannot be read"))
        for number in (1, 2, 3):
            call = await b.call(number)
            if call.cameras == ["b"]:
                call.fail(EngineError("the picture of b cannot be read"))
            else:
                call.finish()
        await b.idle()
        assert (b.published("a"), b.published("b"), b.published("c")) == ([1], [], [1])
        assert lanes["b"].counts().dropped["infer_failed"] == 1
        assert all(lane.counts().in_flight == 0 for lane in lanes.values())


async def test_a_device_that_is_lost_while_frames_are_tried_again_loses_no_count() -> None:
    async with bench() as b:
        lanes = [b.camera(name) for name in "abc"]
        for lane in lanes:
            b.offer(lane)
        (await b.call(0)).fail(EngineError("the device hiccupped"))
        (await b.call(1)).finish()
        (await b.call(2)).fail(DeviceLost("the device is gone"))
        with pytest.raises(DeviceLost):
            await b.task
        assert all(lane.counts().in_flight == 0 for lane in lanes)
        assert sum(lane.counts().published for lane in lanes) == 1


async def test_a_batch_that_hangs_ends_the_batcher_though_it_never_ends_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench(give_up_s=0.05) as b:
        lane = b.camera("a")
        b.offer(lane)
        call = await b.call(0)
        with pytest.raises(DeviceLost, match="the engine hangs"):
            await asyncio.wait_for(b.task, 20)
        assert b.batcher.stats.contexts_busy == 1  # which the process leaves behind
        assert "1 batches did not end within 0.1 s" in caplog.text
        call.finish()
        await b.idle()
        assert lane.counts().in_flight == 0


async def test_batches_that_end_are_not_taken_for_one_that_hangs() -> None:
    async with bench(give_up_s=0.2) as b:
        lane = b.camera("a")
        for number in range(4):
            b.offer(lane)
            call = await b.call(number)
            await asyncio.sleep(0.08)
            call.finish()
            await b.idle()
        assert not b.task.done()


async def test_an_unforeseen_error_of_a_detector_costs_one_batch_and_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as b:
        lane = b.camera("a")
        b.offer(lane)
        (await b.call(0)).fail(ZeroDivisionError("oops"))
        await b.idle()
        record = next(record for record in caplog.records if record.levelno == logging.ERROR)
        assert record.exc_info is not None
        b.offer(lane)
        (await b.call(1)).finish()
        await b.idle()
        assert b.published("a") == [2]


async def test_a_lost_device_ends_the_batcher_with_its_ledgers_balanced() -> None:
    async with bench(contexts=2) as b:
        lane, other = b.camera("a"), b.camera("b")
        b.offer(lane)
        first = await b.call(0)
        b.offer(other)
        second = await b.call(1)
        b.offer(lane)
        first.fail(DeviceLost("the device is gone"))
        await wait_until(lambda: b.batcher.stats.contexts_busy == 1)
        second.finish()
        with pytest.raises(BaseException) as caught:
            await b.task
        error: BaseException = caught.value
        while hasattr(error, "exceptions"):
            error = error.exceptions[0]
        assert isinstance(error, DeviceLost)
        assert lane.counts().dropped["infer_failed"] == 1
        assert lane.counts().dropped["shutdown"] == 1
        assert lane.counts().in_flight == other.counts().in_flight == 0


async def test_a_device_that_a_camera_found_lost_ends_the_batcher_though_no_frame_comes() -> None:
    async with bench() as b:
        b.camera("a")
        await asyncio.sleep(0)
        b.batcher.mailbox.device_lost(DeviceLost("the GPU fell off the bus"))
        with pytest.raises(BaseException) as caught:
            await asyncio.wait_for(b.task, 20)
        error: BaseException = caught.value
        while hasattr(error, "exceptions"):
            error = error.exceptions[0]
        assert isinstance(error, DeviceLost)


async def test_batches_in_flight_finish_before_the_batcher_ends() -> None:
    async with bench() as b:
        lane = b.camera("a")
        frame = b.offer(lane)
        call = await b.call(0)
        waiting = b.offer(lane)
        b.task.cancel()
        await asyncio.sleep(0)
        assert not b.task.done()
        call.finish()
        with pytest.raises(asyncio.CancelledError):
            await b.task
        assert b.published("a") == [1]
        assert (frame.surface.released, waiting.surface.released) == (0, 1)  # the hub shows the first
        assert lane.counts().dropped["shutdown"] == 1
        b.offer(lane)
        assert lane.counts().in_flight == 0


async def test_a_delay_collects_what_comes_until_it_is_over() -> None:
    async with bench(max_delay_s=0.02, max_size=4) as b:
        lanes = [b.camera(name) for name in "ab"]
        b.offer(lanes[0])
        await asyncio.sleep(0)
        assert not b.detector.calls
        b.offer(lanes[1])
        b.clock.advance(0.03)
        call = await b.call(0)
        assert sorted(call.cameras) == ["a", "b"]
        assert b.batcher.stats.close_reasons == {"delay": 1}


async def test_a_frame_from_a_thread_wakes_a_waiting_context() -> None:
    async with bench() as b:
        lane = b.camera("a")
        await asyncio.to_thread(b.offer, lane)
        (await b.call(0)).finish()
        await b.idle()
        assert b.published("a") == [1]


async def test_a_frame_after_the_loop_is_gone_is_nobody_s_problem() -> None:
    def build() -> Batcher[SyntheticSurface]:
        loop = asyncio.new_event_loop()
        loop.close()
        return Batcher(policy=BatchPolicy(), detector=ManualDetector(), sink=None, loop=loop, clock=FakeClock())  # type: ignore[arg-type]

    batcher = await asyncio.to_thread(build)
    lane = make_lane()
    batcher.mailbox.add(lane)
    batcher.mailbox.take(0.0)
    batcher.mailbox.offer(lane, next_frame(lane), 0.0)
    batcher.mailbox.close()
    assert lane.counts().dropped["shutdown"] == 1


async def test_a_blocking_call_on_the_event_loop_is_caught(blocking_calls: list[str]) -> None:
    """The suite's own guard: a clock that sleeps stands for any blocking call inside a coroutine of `app`."""

    def sleeping_clock() -> float:
        time.sleep(0.001)
        return 0.0

    detector = ManualDetector()
    batcher: Batcher[SyntheticSurface] = Batcher(
        policy=BatchPolicy(),
        detector=detector,
        sink=ResultHub(model="m", classes=("person",), history=History(1)),
        loop=asyncio.get_running_loop(),
        clock=sleeping_clock,
    )
    with pytest.raises(BaseException, match=r"(?s)Blocking|exceptions|unhandled"):
        await batcher.run()
    assert len(blocking_calls) == 1
    assert blocking_calls[0].startswith("time.sleep in ")
    assert "batcher.py" in blocking_calls[0]
    blocking_calls.clear()


async def test_the_loop_of_every_test_is_in_debug_mode() -> None:
    assert asyncio.get_running_loop().get_debug()
