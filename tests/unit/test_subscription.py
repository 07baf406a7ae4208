"""What waits for one subscriber, what it misses, and that it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from app.results.subscription import Subscription
from app.results.topic import Interest, Topic
from app.results.wire import ResultFilter, camera_message
from tests.support.fakes import make_result


def subscribe(interest: Interest | None = None, *, size: int = 256) -> Subscription:
    """One that reads a topic of its own, whose log is cut as soon as it is longer than `size`."""
    topic: Topic[Subscription] = Topic(interest or Interest(), size=size, chunk=1)
    subscription = Subscription(topic)
    topic.members[subscription] = None
    return subscription


async def take(subscription: Subscription, count: int) -> list[Any]:
    return [json.loads(await asyncio.wait_for(subscription.next(), 5)) for _ in range(count)]


async def nothing_waits(subscription: Subscription) -> bool:
    waiting = asyncio.ensure_future(subscription.next())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    empty = not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return empty


async def test_latest_keeps_the_newest_of_each_camera_and_tells_the_gap_first() -> None:
    subscription = subscribe(Interest(mode="latest"))
    for camera_id, seq in (("a", 1), ("b", 7), ("a", 2), ("a", 3)):
        subscription.topic.publish(make_result(camera_id, seq))
    first, gap, second = await take(subscription, 3)
    assert (gap["type"], gap["camera_id"], gap["from_seq"], gap["to_seq"]) == ("gap", "a", 1, 2)
    assert [(m["camera_id"], m["seq"]) for m in (first, second)] == [("b", 7), ("a", 3)]
    assert subscription.dropped == 2
    assert await nothing_waits(subscription)


async def test_all_keeps_every_result_up_to_its_bound_and_loses_the_oldest() -> None:
    subscription = subscribe(Interest(mode="all"), size=3)
    for seq in range(1, 6):
        subscription.topic.publish(make_result("a", seq))
    gap, *results = await take(subscription, 4)
    assert (gap["from_seq"], gap["to_seq"], gap["reason"]) == (1, 2, "slow_consumer")
    assert [m["seq"] for m in results] == [3, 4, 5]


async def test_a_client_that_keeps_up_sees_no_gap() -> None:
    subscription = subscribe(Interest(mode="latest"))
    for seq in range(1, 20):
        assert subscription.topic.publish(make_result("a", seq))
        assert (await take(subscription, 1))[0]["seq"] == seq
    assert subscription.dropped == 0


async def test_the_gap_belongs_to_the_camera_that_was_pushed_out() -> None:
    subscription = subscribe(Interest(mode="all"), size=1)
    subscription.topic.publish(make_result("quiet", 4))
    subscription.topic.publish(make_result("busy", 9))
    gap, result = await take(subscription, 2)
    assert (gap["camera_id"], gap["from_seq"], gap["to_seq"]) == ("quiet", 4, 4)
    assert result["camera_id"] == "busy"


async def test_other_cameras_are_passed_over() -> None:
    subscription = subscribe(Interest(cameras=frozenset({"a"})))
    assert not subscription.topic.publish(make_result("b", 1))
    assert not subscription.topic.tell(camera_message("b", "running", None))
    assert await nothing_waits(subscription)
    subscription.topic.publish(make_result("a", 1))
    assert (await take(subscription, 1))[0]["camera_id"] == "a"


async def test_a_filtered_result_neither_waits_nor_pushes_out() -> None:
    subscription = subscribe(Interest(wanted=ResultFilter(min_score=0.8, empty=False)))
    assert subscription.topic.publish(make_result("a", 1, [0.9]))
    assert not subscription.topic.publish(make_result("a", 2, [0.5]))
    assert [m["seq"] for m in await take(subscription, 1)] == [1]


async def test_camera_changes_come_where_they_happened_between_results() -> None:
    subscription = subscribe(Interest())
    subscription.topic.publish(make_result("a", 1))
    subscription.topic.tell(camera_message("a", "retrying", None))
    subscription.topic.publish(make_result("a", 2))
    subscription.topic.publish(make_result("b", 1))
    told = [(m["type"], m["camera_id"]) for m in await take(subscription, 4)]
    assert told == [("gap", "a"), ("camera", "a"), ("detections", "a"), ("detections", "b")]


async def test_nothing_of_a_removed_camera_comes_after_its_end() -> None:
    subscription = subscribe(Interest())
    subscription.resume(make_result("a", 1))
    subscription.topic.publish(make_result("a", 2))
    subscription.topic.publish(make_result("a", 3))
    subscription.topic.publish(make_result("b", 1))
    subscription.topic.forget("a")
    subscription.forget("a")
    subscription.topic.tell(camera_message("a", "removed", None))
    messages = await take(subscription, 2)
    assert [(m["type"], m["camera_id"]) for m in messages] == [("detections", "b"), ("camera", "a")]
    assert await nothing_waits(subscription)


async def test_changes_that_nobody_takes_are_bounded() -> None:
    subscription = subscribe(Interest(), size=4)
    for number in range(100):
        subscription.topic.tell(camera_message(f"camera-{number}", "running", None))
    assert [m["camera_id"] for m in await take(subscription, 4)] == [f"camera-{n}" for n in range(96, 100)]
    assert await nothing_waits(subscription)


async def test_resumed_results_come_first_in_order_whatever_the_mode() -> None:
    subscription = subscribe(Interest(mode="latest"))
    for seq in (1, 2, 3):
        subscription.resume(make_result("a", seq))
    subscription.topic.publish(make_result("a", 4))
    assert [m["seq"] for m in await take(subscription, 4)] == [1, 2, 3, 4]


async def test_resumed_results_are_filtered_too() -> None:
    subscription = subscribe(Interest(wanted=ResultFilter(min_score=0.8, empty=False)))
    subscription.resume(make_result("a", 1, [0.5]))
    subscription.resume(make_result("a", 2, [0.9]))
    assert [m["seq"] for m in await take(subscription, 1)] == [2]
    assert await nothing_waits(subscription)


async def test_a_missed_range_wakes_a_waiting_client() -> None:
    subscription = subscribe(Interest())
    waiting = asyncio.ensure_future(subscription.next())
    await asyncio.sleep(0)
    subscription.missed("a", 5, 9)
    gap = json.loads(await asyncio.wait_for(waiting, 5))
    assert (gap["from_seq"], gap["to_seq"]) == (5, 9)


async def test_msgpack_subscribers_get_bytes_of_their_own_format() -> None:
    subscription = subscribe(Interest(form="msgpack"))
    result = make_result("a", 1)
    subscription.topic.publish(result)
    assert await subscription.next() is result.encoded("msgpack")
