"""Who is written to when: in slices, in rounds with rests between them, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from app.results.delivery import Delivery
from app.results.subscription import Subscription
from app.results.topic import Interest, Topic
from app.results.wire import Message
from tests.support.fakes import FakeClock, make_result
from tests.support.wait import wait_until

WRITE_S = 0.0011


class Pipe:
    """A connection whose writes take time on a fake clock. Implements `Outlet`."""

    def __init__(self, clock: FakeClock) -> None:
        self.blocked = False
        self.broken = False
        self.messages: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.writable: Callable[[], None] = lambda: None
        self._clock = clock

    def write(self, messages: Sequence[Message]) -> bool:
        if self.broken:
            raise OSError("broken")
        self._clock.advance(WRITE_S)
        self.messages += [json.loads(message.data) for message in messages]
        return not self.blocked

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    def on_writable(self, call: Callable[[], None]) -> None:
        self.writable = call

    @property
    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.messages if message["type"] == "detections"]


class Room:
    """A delivery with so many subscribers of one topic."""

    def __init__(self, count: int, **interest: Any) -> None:
        self.clock = FakeClock()
        self.delivery = Delivery(clock=self.clock, cpu_clock=self.clock, share=0.5)
        self.topic: Topic[Subscription] = Topic(Interest(**interest))
        self.pipes = [Pipe(self.clock) for _ in range(count)]
        self.subscriptions = [Subscription(self.topic, pipe) for pipe in self.pipes]
        for subscription in self.subscriptions:
            self.topic.members[subscription] = None
            self.delivery.add(subscription)

    def publish(self, seq: int) -> None:
        self.topic.publish(make_result("a", seq))
        self.delivery.mark(self.topic)

    def served(self, seq: int) -> int:
        return sum(seq in pipe.seqs for pipe in self.pipes)


async def test_publishing_writes_to_nobody_by_itself() -> None:
    room = Room(3)
    room.publish(1)
    assert room.served(1) == 0
    await wait_until(lambda: room.served(1) == 3)


async def test_a_slice_is_bounded_and_others_have_their_turn_in_between() -> None:
    room = Room(10)
    room.publish(1)
    seen = []
    while room.served(1) < 10:
        await asyncio.sleep(0)  # as any callback of the pipeline would
        seen.append(room.served(1))
    steps = [b - a for a, b in zip([0, *seen], seen, strict=False)]
    assert max(steps) == 1  # a write of 1.1 ms ends the slice
    assert len(seen) >= 10


async def test_after_a_round_the_loop_rests_and_latest_gets_the_newest_then() -> None:
    room = Room(10)
    room.publish(1)
    await wait_until(lambda: room.served(1) == 10)
    for seq in (2, 3, 4):
        room.publish(seq)
    began = asyncio.get_running_loop().time()
    await wait_until(lambda: room.served(4) == 10)
    assert asyncio.get_running_loop().time() - began > 9 * WRITE_S  # as long as the round was
    assert all(pipe.seqs == [1, 4] for pipe in room.pipes)
    gaps = [message for message in room.pipes[0].messages if message["type"] == "gap"]
    assert [(gap["from_seq"], gap["to_seq"]) for gap in gaps] == [(2, 3)]
    assert room.delivery.dropped == 20


async def test_after_a_round_all_gets_everything_in_one_write() -> None:
    room = Room(10, mode="all")
    room.publish(1)
    await wait_until(lambda: room.served(1) == 10)
    before = room.clock.now
    for seq in (2, 3, 4):
        room.publish(seq)
    await wait_until(lambda: room.served(4) == 10)
    assert all(pipe.seqs == [1, 2, 3, 4] for pipe in room.pipes)
    assert room.clock.now - before < 10.5 * WRITE_S
    assert (room.delivery.sent, room.delivery.dropped) == (40, 0)


async def test_a_blocked_client_is_passed_over_until_it_can_be_written_to() -> None:
    room = Room(3)
    still = room.pipes[1]
    still.blocked = True
    for seq in range(1, 4):
        room.publish(seq)
        await wait_until(lambda seq=seq: room.served(seq) == 2)  # type: ignore[misc]
    assert still.messages == []
    still.blocked = False
    still.writable()
    await wait_until(lambda: still.seqs == [3])
    assert still.messages[0]["type"] == "gap"
    room.delivery.stop()


async def test_a_fault_of_one_connection_is_no_other_s() -> None:
    room = Room(3)
    room.pipes[0].broken = True
    room.publish(1)
    await wait_until(lambda: room.served(1) == 2)
    assert room.pipes[0].closed == (1011, "the service failed to send")
    room.publish(2)
    await wait_until(lambda: room.served(2) == 2)
    assert room.delivery.closed[1011] == 1


async def test_what_everybody_has_read_is_not_kept() -> None:
    room = Room(3, mode="all")
    for seq in range(1, 6):
        room.publish(seq)
        await wait_until(lambda seq=seq: room.served(seq) == 3)  # type: ignore[misc]
    await wait_until(lambda: len(room.topic) == 0)


async def test_what_waits_for_clients_that_stand_still_is_bounded_however_many_they_are() -> None:
    for mode in ("latest", "all"):
        room = Room(50, mode=mode)
        for pipe in room.pipes:
            pipe.blocked = True
        for seq in range(1, 2001):
            room.publish(seq)
            assert len(room.topic) <= 256 + 64
        await wait_until(lambda room=room: len(room.delivery._blocked) == 50)  # type: ignore[misc]
        room.topic.compact()
        lost = {subscription.dropped for subscription in room.subscriptions}
        assert lost == ({1999} if mode == "latest" else {2000 - 256})
        room.delivery.stop()


def test_delivery_gives_way_while_frames_are_shed_and_comes_back_more_slowly() -> None:
    delivery = Delivery(share=0.5)
    falling, rising = [], []
    for _ in range(5):
        delivery.adapt(0.2)
        falling.append(delivery.share)
    for _ in range(30):
        delivery.adapt(0.0)
        rising.append(delivery.share)
    assert falling == [0.25, 0.125, 0.1, 0.1, 0.1]
    assert rising == sorted(rising)
    assert rising[1] < falling[1] < 0.5 == rising[-1]


def test_a_frame_that_is_shed_now_and_then_is_no_reason_to_give_way() -> None:
    delivery = Delivery(share=0.5)
    for second in range(60):
        delivery.adapt(1 / 30 if second % 4 == 0 else 0.0)
        assert delivery.share == 0.5


async def test_with_less_of_a_share_the_rest_is_longer() -> None:
    room = Room(10)
    for _ in range(5):
        room.delivery.adapt(1.0)
    room.publish(1)
    await wait_until(lambda: room.served(1) == 10)
    room.publish(2)
    began = asyncio.get_running_loop().time()
    await wait_until(lambda: room.served(2) == 10)
    assert asyncio.get_running_loop().time() - began > 8 * 10 * WRITE_S  # a tenth: nine rounds' length
