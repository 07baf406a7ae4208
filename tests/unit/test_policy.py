"""When a batch is formed, and of which frames; and who is served under overload."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Mailbox
from app.batching.policy import CREDIT, BatchPolicy, Waiting, finish_tag, next_tag
from app.cameras.lane import Lane
from tests.support.fakes import SyntheticFrame, make_lane, next_frame


def waiting(start_tag: float = 0.0, *, at: float = 0.0, offered_at: float | None = None) -> Waiting:
    return Waiting(start_tag=start_tag, arrived_at=at, offered_at=at if offered_at is None else offered_at)


def test_nothing_waiting_means_wait_for_a_frame() -> None:
    decision = BatchPolicy().decide([], now=1.0)
    assert (decision.take, decision.stale, decision.reason, decision.wait_s) == ((), (), None, None)


def test_a_free_context_takes_at_once_all_that_is_ready() -> None:
    decision = BatchPolicy(max_size=16).decide([waiting(), waiting(), waiting()], now=0.1)
    assert sorted(decision.take) == [0, 1, 2]
    assert decision.reason == "context_free"


def test_a_full_batch_takes_the_smallest_start_tags() -> None:
    frames = [waiting(3), waiting(1), waiting(2), waiting(0)]
    decision = BatchPolicy(max_size=2).decide(frames, now=0.1)
    assert decision.take == (3, 1)
    assert decision.reason == "full"


def test_equal_tags_go_by_age() -> None:
    frames = [waiting(1, at=0.3), waiting(1, at=0.1), waiting(1, at=0.2)]
    assert BatchPolicy(max_size=2).decide(frames, now=0.4).take == (1, 2)


def test_a_frame_is_stale_once_it_is_older_than_the_limit_and_not_before() -> None:
    policy = BatchPolicy(max_age_s=0.5)
    assert policy.decide([waiting(at=0.0)], now=0.5).take == (0,)
    late = policy.decide([waiting(at=0.0)], now=0.5001)
    assert (late.take, late.stale, late.reason) == ((), (0,), None)


def test_stale_frames_neither_fill_a_batch_nor_hold_one_up() -> None:
    frames = [waiting(at=0.0), waiting(at=1.0), waiting(at=0.1)]
    decision = BatchPolicy(max_size=2, max_age_s=0.5).decide(frames, now=1.0)
    assert (decision.take, decision.stale, decision.reason) == ((1,), (0, 2), "context_free")


def test_a_delay_waits_for_more_counted_from_the_frame_that_waited_longest() -> None:
    policy = BatchPolicy(max_size=4, max_delay_s=0.02)
    frames = [waiting(at=1.0), waiting(at=1.0, offered_at=1.015)]
    early = policy.decide(frames, now=1.015)
    assert early.reason is None
    assert early.wait_s == pytest.approx(0.005)
    due = policy.decide(frames, now=1.0201)
    assert (sorted(due.take), due.reason) == ([0, 1], "delay")


def test_a_full_batch_does_not_wait_out_the_delay() -> None:
    decision = BatchPolicy(max_size=2, max_delay_s=1.0).decide([waiting(), waiting()], now=0.0)
    assert decision.reason == "full"


def test_draining_takes_what_is_there_without_the_delay() -> None:
    decision = BatchPolicy(max_size=4, max_delay_s=1.0).decide([waiting()], now=0.0, draining=True)
    assert (decision.take, decision.reason) == ((0,), "drain")


@pytest.mark.parametrize(("ready", "taken"), [(1, 1), (2, 1), (3, 2), (8, 4), (9, 4)])
def test_contexts_that_share_take_their_part_rounded_up_and_no_more_than_a_batch(ready: int, taken: int) -> None:
    decision = BatchPolicy(max_size=4, shared_by=2).decide([waiting()] * ready, now=0.0)
    assert len(decision.take) == taken
    assert decision.reason == ("full" if taken == 4 else "context_free")


def test_sharing_leaves_who_goes_first_as_it_is() -> None:
    frames = [waiting(3), waiting(1), waiting(2), waiting(0)]
    assert BatchPolicy(shared_by=2).decide(frames, now=0.1).take == (3, 1)


def test_only_what_is_fresh_is_shared() -> None:
    frames = [waiting(at=0.0), waiting(at=0.0), waiting(at=1.0), waiting(at=1.0)]
    decision = BatchPolicy(max_age_s=0.5, shared_by=2).decide(frames, now=1.0)
    assert (decision.take, decision.stale) == ((2,), (0, 1))


def test_tags_a_busy_camera_goes_on_and_a_quiet_one_is_owed_a_little_of_its_past() -> None:
    assert next_tag(virtual_now=5.0, finish_tag=7.0) == 7.0
    assert next_tag(virtual_now=5.0, finish_tag=2.0) == 5.0 - CREDIT
    assert next_tag(virtual_now=5.0, finish_tag=4.5) == 4.5
    assert finish_tag(2.0, priority=4) == 2.25


@given(
    frames=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1), st.floats(0, 1)), max_size=40),
    max_size=st.integers(1, 16),
    max_delay_s=st.sampled_from([0.0, 0.01, 0.2]),
    draining=st.booleans(),
)
def test_every_frame_is_taken_or_stale_or_stays_and_only_overload_leaves_fresh_ones(
    frames: list[tuple[float, float, float]], max_size: int, max_delay_s: float, draining: bool
) -> None:
    policy = BatchPolicy(max_size=max_size, max_delay_s=max_delay_s, max_age_s=0.5)
    slots = [waiting(tag, at=at, offered_at=at + wait) for tag, at, wait in frames]
    decision = policy.decide(slots, now=1.0, draining=draining)
    assert not set(decision.take) & set(decision.stale)
    assert set(decision.stale) == {i for i, slot in enumerate(slots) if 1.0 - slot.arrived_at > 0.5}
    fresh = len(slots) - len(decision.stale)
    if decision.reason is None:
        assert decision.take == ()
        assert not fresh or (decision.wait_s is not None and 0 < decision.wait_s <= max_delay_s + 1)
    else:
        assert len(decision.take) == min(max_size, fresh)
        left = set(range(len(slots))) - set(decision.take) - set(decision.stale)
        assert all(slots[i].start_tag >= max(slots[j].start_tag for j in decision.take) for i in left)


# Fairness: the policy and the mailbox's virtual time together, with a simulated engine that is too slow.


def serve_under_overload(
    lanes: list[Lane], *, rounds: int, batch: int, quiet: frozenset[str] = frozenset(), strict: bool = False
) -> Counter[str]:
    """Every camera has a new frame in every round, the engine takes one batch; how often each was served."""
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(max_size=batch, max_age_s=10), on_frame=lambda: None)
    mailbox.strict = strict
    for lane in lanes:
        mailbox.add(lane)
    served: Counter[str] = Counter()
    for number in range(rounds):
        for lane in lanes:
            if lane.camera_id not in quiet or number >= rounds // 2:
                mailbox.offer(lane, next_frame(lane, at=float(number)), float(number))
        taken, _ = mailbox.take(float(number))
        assert taken is not None
        served.update(frame.camera_id for frame in taken.frames)
    return served


@pytest.mark.parametrize("batch", [1, 3])
def test_shares_follow_priorities_under_overload(batch: int) -> None:
    priorities = {"low": 1, "middle": 5, "high": 10, "other": 5}
    lanes = [make_lane(name, priority=priority) for name, priority in priorities.items()]
    rounds = 2100
    served = serve_under_overload(lanes, rounds=rounds, batch=batch)
    if batch == 1:
        for name, priority in priorities.items():
            assert served[name] == pytest.approx(rounds * priority / 21, rel=0.02), name
    else:
        # A camera cannot have more than a frame a round: what the favourites cannot use goes to the others.
        assert served["high"] == pytest.approx(rounds, rel=0.01)
        assert served["low"] > rounds * 3 / 21 * 0.95


def test_equal_priorities_get_equal_shares() -> None:
    lanes = [make_lane(f"camera-{n}") for n in range(10)]
    served = serve_under_overload(lanes, rounds=1000, batch=3)
    assert max(served.values()) - min(served.values()) <= 1


def test_a_camera_that_was_quiet_is_owed_no_more_than_its_credit() -> None:
    lanes = [make_lane("quiet"), make_lane("busy")]
    served = serve_under_overload(lanes, rounds=1000, batch=1, quiet=frozenset({"quiet"}))
    # Two cameras of priority 5: each turn is a fifth, and the other one waits for so many.
    assert served["quiet"] == pytest.approx(250 + CREDIT * 5 / 2, abs=2)


def test_a_strict_batch_takes_nobody_along_before_the_leader_s_next_turn() -> None:
    frames = [waiting(0.4), waiting(1.0), waiting(0.3), waiting(0.5)]
    frames[2].next_turn = 0.4
    decision = BatchPolicy(max_size=16).decide(frames, now=0.1, strict=True)
    assert (decision.take, decision.reason) == ((2, 0), "context_free")
    assert BatchPolicy(max_size=16).decide(frames, now=0.1).take == (2, 0, 3, 1)


def test_with_room_for_all_in_each_batch_strict_shares_follow_priorities() -> None:
    priorities = {"low": 1, "middle": 5, "high": 10}
    lanes = [make_lane(name, priority=priority) for name, priority in priorities.items()]
    assert set(serve_under_overload(lanes, rounds=500, batch=4).values()) == {500}
    served = serve_under_overload(lanes, rounds=500, batch=4, strict=True)
    assert served == {"high": 500, "middle": pytest.approx(250, abs=3), "low": pytest.approx(50, abs=3)}


def test_a_frame_that_waited_longer_than_a_batch_takes_lets_younger_ones_go_first() -> None:
    frames = [waiting(1.0), waiting(2.0), waiting(3.0)]
    for frame, ready_at in zip(frames, (0.0, 0.08, 0.09), strict=True):
        frame.ready_at = ready_at
    policy = BatchPolicy(max_size=2)
    assert policy.decide(frames, now=0.1, young_s=0.05).take == (1, 2)
    assert policy.decide(frames, now=0.1, young_s=0.2).take == (0, 1)
    assert BatchPolicy(max_size=3).decide(frames, now=0.1, young_s=0.05).take == (1, 2, 0)  # nobody else wants the room


def test_a_camera_that_let_others_go_first_takes_its_turn_with_its_next_frame() -> None:
    slow, fast = make_lane("slow"), make_lane("fast")
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(max_size=1, max_age_s=10), on_frame=lambda: None)
    mailbox.young_s = 0.05
    mailbox.add(slow)
    mailbox.add(fast)

    def served(now: float) -> str:
        taken, _ = mailbox.take(now)
        assert taken is not None
        return taken.frames[0].camera_id

    for lane in (fast, slow):
        mailbox.offer(lane, next_frame(lane, at=0.0), 0.0)
    assert served(0.0) == "fast"
    mailbox.offer(fast, next_frame(fast, at=0.1), 0.1)
    assert served(0.1) == "fast"  # the other one's frame is too old
    mailbox.offer(fast, next_frame(fast, at=0.2), 0.2)
    mailbox.offer(slow, next_frame(slow, at=0.2), 0.2)
    assert served(0.2) == "slow"


def test_no_camera_starves_beside_ten_of_the_highest_priority() -> None:
    lanes = [make_lane("low", priority=1), *(make_lane(f"high-{n}", priority=10) for n in range(10))]
    served = serve_under_overload(lanes, rounds=2020, batch=1)
    assert served["low"] == pytest.approx(20, abs=1)


def test_a_change_of_priority_counts_from_the_next_frame() -> None:
    lanes = [make_lane("a"), make_lane("b")]
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(max_size=1, max_age_s=10), on_frame=lambda: None)
    for lane in lanes:
        mailbox.add(lane)
    served: list[str] = []

    def serve(rounds: int) -> Counter[str]:
        served.clear()
        for number in range(rounds):
            for lane in lanes:
                mailbox.offer(lane, next_frame(lane, at=float(number)), 0.0)
            taken, _ = mailbox.take(float(number))
            assert taken is not None
            served.extend(frame.camera_id for frame in taken.frames)
        return Counter(served)

    assert abs(serve(100)["a"] - 50) <= 1
    lanes[0].settings = make_lane(priority=10).settings
    assert serve(300)["a"] == pytest.approx(200, abs=2)


def test_a_dead_camera_delays_nobody() -> None:
    dead, alive = make_lane("dead", priority=10), make_lane("alive")
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(), on_frame=lambda: None)
    mailbox.add(dead)
    mailbox.add(alive)
    for number in range(20):
        frame: SyntheticFrame = next_frame(alive, at=float(number))
        mailbox.offer(alive, frame, float(number))
        taken, _ = mailbox.take(float(number))
        assert taken is not None
        assert taken.frames == (frame,)
