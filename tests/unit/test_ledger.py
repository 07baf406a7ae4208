"""The drop ledger: decoded = published + dropped + in flight, at every moment, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.camera import Camera
from app.cameras.lane import Lane
from app.cameras.ledger import DROP_REASONS, FrameCounts, Ledger
from app.cameras.settings import CameraRegistration
from app.errors import EngineError
from app.results.history import History
from app.results.hub import ResultHub
from app.service import Service
from tests.support.app import running_service
from tests.support.fakes import SyntheticFrame, make_detections, make_lane, next_frame
from tests.support.wait import wait_until


def balanced(counts: FrameCounts) -> bool:
    return counts.decoded == counts.published + sum(counts.dropped.values()) + counts.in_flight


def test_frames_are_numbered_from_one() -> None:
    ledger = Ledger()
    assert [ledger.decoded() for _ in range(3)] == [1, 2, 3]


def test_every_reason_of_the_contract_is_counted_from_zero() -> None:
    reasons = ("rate_limit", "still", "degraded", "replaced", "stale", "infer_failed", "publish_failed", "shutdown")
    assert reasons == DROP_REASONS
    assert Ledger().counts().dropped == dict.fromkeys(DROP_REASONS, 0)


def test_a_reading_does_not_change_afterwards() -> None:
    ledger = Ledger()
    ledger.decoded()
    before = ledger.counts()
    ledger.dropped("stale")
    assert before.dropped["stale"] == 0
    assert (before.in_flight, ledger.counts().in_flight) == (1, 0)


def test_a_frame_that_is_ended_twice_shows_as_an_imbalance() -> None:
    ledger = Ledger()
    ledger.decoded()
    ledger.published()
    ledger.dropped("stale")
    assert ledger.counts().in_flight == -1


CONTEXTS = 2


class Pipeline(RuleBasedStateMachine):
    """Mailbox, hub and ledgers together, in any order of events: no frame and no surface may be lost or ended twice."""

    @initialize(max_size=st.integers(1, 3))
    def build(self, max_size: int) -> None:
        self.now = 0.0
        policy = BatchPolicy(max_size=max_size, max_age_s=1.0)
        self.mailbox: Mailbox[SyntheticSurface] = Mailbox(policy, on_frame=lambda: None, contexts=CONTEXTS)
        self.hub: ResultHub[SyntheticSurface] = ResultHub(
            model="synthetic", classes=("person", "car"), history=History(4), clock=lambda: self.now
        )
        self.present: list[Lane] = []
        self.lanes: list[Lane] = []
        self.frames: list[SyntheticFrame] = []
        self.busy: list[Batch[SyntheticSurface]] = []
        self.closed = False
        self.published: dict[Lane, list[int]] = {}

    @rule()
    @precondition(lambda self: len(self.present) < 3)
    def add_camera(self) -> None:
        lane = make_lane(f"camera-{len(self.lanes)}")
        self.lanes.append(lane)
        self.present.append(lane)
        self.mailbox.add(lane)

    @rule(data=st.data())
    @precondition(lambda self: self.lanes)
    def a_frame_comes(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.lanes))  # of a removed camera too: its reader had it in hand
        frame = next_frame(lane, at=self.now)
        self.frames.append(frame)
        self.mailbox.offer(lane, frame, self.now)

    @rule(data=st.data())
    @precondition(lambda self: self.lanes)
    def a_frame_is_thinned_out(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.lanes))
        frame = next_frame(lane, at=self.now)
        self.frames.append(frame)
        frame.surface.release()
        lane.ledger.dropped("rate_limit")

    @rule(seconds=st.sampled_from([0.01, 0.4, 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    @precondition(lambda self: len(self.busy) < CONTEXTS)
    def a_context_takes_a_batch(self) -> None:
        batch, _ = self.mailbox.take(self.now)
        if batch is not None:
            for frame, lane in zip(batch.frames, batch.lanes, strict=True):
                self.hub.started(lane, frame.seq)
            self.busy.append(batch)

    @rule(data=st.data(), end=st.sampled_from(["found", "failed", "unpublishable"]))
    @precondition(lambda self: self.busy)
    def a_batch_ends_in_any_order(self, data: st.DataObject, end: str) -> None:
        batch = self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1)))
        for frame, lane in zip(batch.frames, batch.lanes, strict=True):
            if end == "failed":
                frame.surface.release()
                lane.ledger.dropped("infer_failed")
                self.hub.failed(lane, frame.seq)
            else:
                class_id = 0 if end == "found" else 99  # which the model has not
                self.hub.finished(lane, frame, make_detections(frame, class_ids=(class_id,)), batch)

    @rule(data=st.data())
    @precondition(lambda self: self.present)
    def remove_camera(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.present))
        self.present.remove(lane)
        self.mailbox.remove(lane)
        self.hub.forget(lane)

    @rule()
    def close_the_mailbox(self) -> None:
        self.mailbox.close()
        self.closed = True

    @invariant()
    def every_ledger_is_balanced_and_its_frames_in_flight_are_bounded(self) -> None:
        for lane in getattr(self, "lanes", []):
            counts = lane.counts()
            assert balanced(counts), counts
            assert 0 <= counts.in_flight <= 1 + CONTEXTS, counts

    @invariant()
    def no_surface_is_released_twice(self) -> None:
        assert all(frame.surface.released <= 1 for frame in getattr(self, "frames", []))

    @invariant()
    def results_are_kept_in_order_and_only_of_cameras_that_are_there(self) -> None:
        for lane in getattr(self, "lanes", []):
            kept = [result.seq for result in self.hub.history.newest(lane.camera_id, limit=10)]
            assert kept == sorted(kept)
            assert not kept or lane in self.present

    def teardown(self) -> None:
        if not hasattr(self, "mailbox"):
            return
        for batch in self.busy:
            for frame, lane in zip(batch.frames, batch.lanes, strict=True):
                self.hub.finished(lane, frame, make_detections(frame), batch)
        self.mailbox.close()
        self.hub.snapshots.close()
        assert all(balanced(lane.counts()) and lane.counts().in_flight == 0 for lane in self.lanes)
        assert all(frame.surface.released == 1 for frame in self.frames)


class TestPipeline(Pipeline.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=60, stateful_step_count=40)


async def watch(lanes: Callable[[], list[Lane]], done: asyncio.Event, most: int) -> int:
    """Read every ledger as often as the loop allows; how many readings there were."""
    readings = 0
    while not done.is_set():
        for lane in lanes():
            counts = lane.counts()
            assert balanced(counts), counts
            assert 0 <= counts.in_flight <= most, counts
            readings += 1
        await asyncio.sleep(0.001)
    return readings


async def test_the_ledger_holds_under_overload_failures_flapping_and_removal(data_dir: Path) -> None:
    contexts = 2
    detector = SyntheticDetector(contexts=contexts, max_batch=2, base_s=0.004, frame_s=0.002)
    seen: set[Camera[SyntheticSurface]] = set()
    async with running_service(data_dir, SyntheticBackend(detector)) as service:
        registry = service.parts.registry
        scripts = {
            **{f"busy-{n}": "fps=200" for n in range(4)},
            "limited": "fps=200",
            "flapping": "fps=200&after=10&fail=end_of_stream",
            "hanging": "fps=200&after=40&hang=1",
            "removed": "fps=200",
        }
        for name, script in scripts.items():
            fields = {"max_fps": 20} if name == "limited" else {}
            url = f"rtsp://camera.test/{name}?{script}"
            seen.add(await registry.add(CameraRegistration.model_validate({"id": name, "url": url, **fields})))
        done = asyncio.Event()
        # One for the slot, one for each context; live, one more may be in the hands of a reader, counted but not
        # offered, and of the reader before it, which a busy machine has not let go on yet.
        watching = asyncio.create_task(watch(lambda: [c.lane for c in seen], done, 1 + contexts + 2))
        await misbehave(service, detector)
        done.set()
        assert await watching > 100
        counts = {camera.settings.id: camera.lane.counts() for camera in seen}
    final = {camera.settings.id: camera.lane.counts() for camera in seen}
    assert all(balanced(each) and each.in_flight == 0 for each in final.values()), final
    assert counts["limited"].dropped["rate_limit"] > 0
    assert sum(each.dropped["replaced"] for each in counts.values()) > 0
    assert sum(each.dropped["infer_failed"] for each in counts.values()) > 0
    assert all(counts[name].published > 0 for name in scripts)


async def misbehave(service: Service, detector: SyntheticDetector) -> None:
    """Failed batches, a removal and a reconnect while everything runs."""
    registry = service.parts.registry
    lanes = {camera.settings.id: camera.lane for camera in registry.cameras()}
    await wait_until(lambda: all(lane.counts().published >= 1 for lane in lanes.values()), what="all have results")
    for number in range(3):
        detector.fail_next = EngineError("the test broke this batch")
        failed = service.parts.batcher.stats.failed_batches
        await wait_until(lambda failed=failed: service.parts.batcher.stats.failed_batches > failed)  # type: ignore[misc]
        if number == 1:
            await registry.remove("removed")
            await registry.patch("busy-1", {"url": "rtsp://camera.test/elsewhere?fps=200"})
    before = lanes["busy-1"].counts().published
    await wait_until(lambda: lanes["busy-1"].counts().published > before + 5)
