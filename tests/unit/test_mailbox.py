"""One slot a camera, and the ledger that stays balanced whatever happens to it."""

from __future__ import annotations

import threading

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Batch, Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.lane import Lane
from app.cameras.ledger import FrameCounts
from tests.support.fakes import make_frame, make_lane, next_frame


class Bell:
    """Counts how often the mailbox called for a context."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def make_mailbox(bell: Bell | None = None, **policy: float) -> Mailbox[SyntheticSurface]:
    return Mailbox(BatchPolicy(**{"max_age_s": 10, **policy}), on_frame=bell or Bell())  # type: ignore[arg-type]


def test_a_newer_frame_replaces_the_one_that_waits() -> None:
    mailbox, lane = make_mailbox(), make_lane()
    mailbox.add(lane)
    first, second = next_frame(lane), next_frame(lane)
    mailbox.offer(lane, first, 0.0)
    mailbox.offer(lane, second, 0.0)
    batch, _ = mailbox.take(0.0)
    assert batch is not None
    assert batch.frames == (second,)
    assert (first.surface.released, second.surface.released) == (1, 0)
    assert lane.counts().dropped["replaced"] == 1


@pytest.mark.parametrize("taken", [False, True])
def test_a_frame_that_comes_after_a_newer_one_is_dropped(taken: bool) -> None:
    mailbox, lane = make_mailbox(), make_lane()
    mailbox.add(lane)
    late, newer = next_frame(lane), next_frame(lane)
    mailbox.offer(lane, newer, 0.0)
    first = mailbox.take(0.0)[0] if taken else None
    mailbox.offer(lane, late, 0.0)
    batch = first or mailbox.take(0.0)[0]
    assert batch is not None
    assert batch.frames == (newer,)
    assert mailbox.take(0.0)[0] is None
    assert (late.surface.released, newer.surface.released) == (1, 0)
    assert lane.counts().dropped["replaced"] == 1


def test_a_replaced_frame_keeps_its_cameras_turn() -> None:
    mailbox, often, once = make_mailbox(max_size=1), make_lane("often"), make_lane("once")
    for lane in (often, once):
        mailbox.add(lane)
    mailbox.offer(often, next_frame(often, at=0.0), 0.0)
    mailbox.offer(once, next_frame(once, at=0.1), 0.1)
    mailbox.offer(often, next_frame(often, at=0.2), 0.2)
    served = [mailbox.take(0.3)[0], mailbox.take(0.3)[0]]
    assert {batch.frames[0].camera_id for batch in served if batch} == {"often", "once"}


def test_a_camera_faster_than_the_delay_is_served_when_the_delay_is_over() -> None:
    mailbox, lane = make_mailbox(max_delay_s=0.05), make_lane()
    mailbox.add(lane)
    mailbox.offer(lane, next_frame(lane, at=0.0), 0.0)
    mailbox.offer(lane, next_frame(lane, at=0.04), 0.04)  # newer, but the camera has waited since the first
    batch, wait_s = mailbox.take(0.041)
    assert batch is None
    assert wait_s == pytest.approx(0.009)
    batch, _ = mailbox.take(0.051)
    assert batch is not None
    assert (batch.reason, batch.frames[0].seq) == ("delay", 2)
    mailbox.offer(lane, next_frame(lane, at=0.08), 0.08)
    assert mailbox.take(0.08)[1] == pytest.approx(0.05)  # the next wait begins anew


def test_a_stale_frame_is_dropped_and_released() -> None:
    mailbox, lane = make_mailbox(max_age_s=0.5), make_lane()
    mailbox.add(lane)
    frame = next_frame(lane, at=0.0)
    mailbox.offer(lane, frame, 0.0)
    assert mailbox.take(0.6) == (None, None)
    assert frame.surface.released == 1
    assert lane.counts().dropped["stale"] == 1
    assert mailbox.take(0.0) == (None, None)


def test_a_camera_without_a_slot_drops_its_frames() -> None:
    mailbox, lane = make_mailbox(), make_lane()
    frame = next_frame(lane)
    mailbox.offer(lane, frame, 0.0)
    assert frame.surface.released == 1
    assert lane.counts().dropped["shutdown"] == 1


def test_removing_a_camera_drops_what_waits_and_is_idempotent() -> None:
    mailbox, lane = make_mailbox(), make_lane()
    mailbox.add(lane)
    frame = next_frame(lane)
    mailbox.offer(lane, frame, 0.0)
    mailbox.remove(lane)
    mailbox.remove(lane)
    assert frame.surface.released == 1
    assert lane.counts() == FrameCounts(
        decoded=1, published=0, dropped={**lane.counts().dropped, "shutdown": 1}, in_flight=0
    )


def test_two_lives_of_one_camera_do_not_mix() -> None:
    mailbox, first, second = make_mailbox(), make_lane("gate"), make_lane("gate")
    mailbox.add(first)
    mailbox.remove(first)
    mailbox.add(second)
    mailbox.offer(first, next_frame(first), 0.0)  # its reader had one more in hand
    assert mailbox.take(0.0) == (None, None)
    mailbox.offer(second, next_frame(second), 0.0)
    batch, _ = mailbox.take(0.0)
    assert batch is not None
    assert batch.lanes == (second,)


def test_a_closed_mailbox_drops_all_that_waits_and_all_that_comes() -> None:
    mailbox, lane = make_mailbox(), make_lane()
    mailbox.add(lane)
    waiting, late = next_frame(lane), next_frame(lane)
    mailbox.offer(lane, waiting, 0.0)
    mailbox.close()
    mailbox.offer(lane, late, 0.0)
    mailbox.close()
    assert (waiting.surface.released, late.surface.released) == (1, 1)
    assert lane.counts().dropped["shutdown"] == 2
    assert mailbox.take(0.0)[0] is None


def test_a_frame_rings_only_when_a_context_asked_in_vain() -> None:
    bell = Bell()
    mailbox, lane, other = make_mailbox(bell), make_lane("a"), make_lane("b")
    mailbox.add(lane)
    mailbox.add(other)
    mailbox.offer(lane, next_frame(lane), 0.0)
    assert bell.rung == 0  # nobody asked yet
    assert mailbox.take(0.0)[0] is not None
    mailbox.offer(lane, next_frame(lane), 0.0)
    assert bell.rung == 0  # whoever got a batch asks again when it is done
    assert mailbox.take(0.0)[0] is not None
    assert mailbox.take(0.0)[0] is None
    mailbox.offer(lane, next_frame(lane), 0.0)
    mailbox.offer(other, next_frame(other), 0.0)
    assert bell.rung == 1  # one ring is enough for both


def test_a_camera_has_no_more_frames_under_way_than_there_are_contexts() -> None:
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(max_age_s=10), on_frame=Bell(), contexts=2)
    lane, other = make_lane("busy"), make_lane("other")
    for each in (lane, other):
        mailbox.add(each)
    for _ in range(2):
        mailbox.offer(lane, next_frame(lane), 0.0)
        batch, _ = mailbox.take(0.0)
        assert batch is not None
        lane.under_way += 1
    mailbox.offer(lane, next_frame(lane), 0.0)
    assert mailbox.take(0.0)[0] is None  # its third one waits in its slot
    mailbox.offer(other, next_frame(other), 0.0)
    batch, _ = mailbox.take(0.0)
    assert batch is not None
    assert batch.lanes == (other,)
    lane.under_way -= 1
    batch, _ = mailbox.take(0.0)
    assert batch is not None
    assert [frame.seq for frame in batch.frames] == [3]


def test_offers_from_many_threads_lose_nothing() -> None:
    mailbox, lanes = make_mailbox(max_size=4), [make_lane(f"camera-{n}") for n in range(4)]
    for lane in lanes:
        mailbox.add(lane)
    taken: list[Batch[SyntheticSurface]] = []
    done = threading.Event()

    def read(lane: Lane) -> None:
        for _ in range(300):
            mailbox.offer(lane, next_frame(lane), 0.0)

    def serve() -> None:
        while True:
            last = done.is_set()
            batch, _ = mailbox.take(0.0)
            if batch is None and last:
                return
            if batch is not None:
                taken.append(batch)
                for lane in batch.lanes:
                    lane.ledger.published()

    readers = [threading.Thread(target=read, args=(lane,)) for lane in lanes]
    server = threading.Thread(target=serve)
    for thread in (server, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    server.join()
    for lane in lanes:
        counts = lane.counts()
        assert counts.decoded == 300
        assert counts.in_flight == 0
        assert counts.decoded == counts.published + sum(counts.dropped.values())
        assert counts.published == sum(lane in batch.lanes for batch in taken)
        seqs = [frame.seq for batch in taken for frame in batch.frames if frame.camera_id == lane.camera_id]
        assert seqs == sorted(seqs)


def test_a_batch_knows_its_size() -> None:
    batch: Batch[SyntheticSurface] = Batch(
        frames=(make_frame("a"), make_frame("b")), lanes=(make_lane("a"), make_lane("b")), formed_at=0.0, reason="full"
    )
    assert len(batch) == 2
