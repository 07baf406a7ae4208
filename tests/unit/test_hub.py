"""Where results come together: counted, ordered, kept, and handed out without waiting for anybody."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Batch
from app.cameras.lane import Lane, LaneSettings
from app.errors import NotReady, TooManyRequests
from app.results.history import History
from app.results.hub import MAX_SUBSCRIBERS, ResultHub
from app.results.subscription import Interest, Subscription
from app.results.wire import ResultFilter
from tests.support.fakes import FakeClock, SyntheticFrame, make_detections, make_lane, next_frame


def make_hub(*, history: int = 8) -> ResultHub[SyntheticSurface]:
    clock = FakeClock(10.0)
    return ResultHub(model="synthetic", classes=("person", "car"), history=History(history), clock=clock)


def start(
    hub: ResultHub[SyntheticSurface], lane: Lane, *, at: float = 9.9
) -> tuple[SyntheticFrame, Batch[SyntheticSurface]]:
    frame = next_frame(lane, at=at)
    hub.started(lane, frame.seq)
    return frame, Batch(frames=(frame,), lanes=(lane,), formed_at=at + 0.01, reason="context_free")


def publish(
    hub: ResultHub[SyntheticSurface], lane: Lane, scores: tuple[float, ...] = (0.9,), class_ids: tuple[int, ...] = (0,)
) -> SyntheticFrame:
    frame, batch = start(hub, lane)
    hub.finished(lane, frame, make_detections(frame, scores, class_ids), batch)
    return frame


async def take(subscription: Subscription, count: int) -> list[Any]:
    return [json.loads(await asyncio.wait_for(subscription.next(), 20)) for _ in range(count)]


async def test_a_published_result_is_counted_measured_and_kept() -> None:
    hub, lane = make_hub(), make_lane()
    publish(hub, lane, (0.9, 0.8, 0.7), (0, 1, 0))
    assert lane.counts().published == 1
    assert lane.found == {"person": 2, "car": 1}
    assert [result.seq for result in hub.history.newest(lane.camera_id, limit=5)] == [1]
    assert lane.latency.cumulative()[1] == pytest.approx(0.1)
    sums = {stage: histogram.cumulative()[1] for stage, histogram in hub.stages.items()}
    assert sums == {
        "decode": pytest.approx(0.002),
        "queue": pytest.approx(0.008),
        "preprocess": pytest.approx(0.001),
        "infer": pytest.approx(0.01),
        "postprocess": pytest.approx(0.0005),
        "publish": 0.0,
    }
    assert all(histogram.cumulative()[0][-1] == ("+Inf", 1.0) for histogram in hub.stages.values())


async def test_every_subscriber_gets_the_same_bytes_object() -> None:
    hub, lane = make_hub(), make_lane()
    one = Interest(cameras=frozenset({lane.camera_id}))
    with (
        hub.subscribed(Interest()) as first,
        hub.subscribed(Interest(mode="all")) as second,
        hub.subscribed(one) as third,
    ):
        publish(hub, lane)
        datas = [await each.next() for each in (first, second, third)]
    assert datas[0] is datas[1] is datas[2]
    assert hub.stats.subscribers == 0


async def test_subscribers_with_the_same_filter_share_one_serialisation() -> None:
    hub, lane = make_hub(), make_lane()
    strict = [Interest(wanted=ResultFilter(min_score=0.5)) for _ in range(50)]
    with hub.subscribed(strict[0]) as first, hub.subscribed(strict[1]) as second:
        publish(hub, lane, (0.9, 0.3), (0, 0))
        one, other = await first.next(), await second.next()
    assert one is other
    assert len(json.loads(one)["detections"]) == 1


async def test_a_camera_s_classes_thin_out_its_results() -> None:
    hub = make_hub()
    lane = Lane("gate-1", LaneSettings(class_ids=frozenset({1})))
    publish(hub, lane, (0.9, 0.8), (0, 1))
    latest = hub.history.latest("gate-1")
    assert latest is not None
    assert [one["label"] for one in latest.message["detections"]] == ["car"]
    assert lane.found == {"car": 1}
    publish(hub, lane, (), ())
    assert lane.counts().published == 2


async def test_a_slow_subscriber_loses_old_results_and_it_is_counted() -> None:
    hub, lane = make_hub(), make_lane()
    with hub.subscribed(Interest()) as slow, hub.subscribed(Interest(mode="all")) as other:
        for _ in range(5):
            publish(hub, lane)
        assert [m["type"] for m in await take(slow, 2)] == ["gap", "detections"]
        assert [m["seq"] for m in await take(other, 5)] == [1, 2, 3, 4, 5]
    assert hub.stats.messages_dropped == {"slow_consumer": 4, "failed": 0}


async def test_resuming_gives_what_memory_has_after_the_number() -> None:
    hub, lane = make_hub(), make_lane("a")
    for _ in range(5):
        publish(hub, lane)
    with hub.subscribed(Interest(mode="latest"), {"a": 2}) as subscription:
        publish(hub, lane)
        assert [m["seq"] for m in await take(subscription, 4)] == [3, 4, 5, 6]


async def test_resuming_tells_what_memory_has_lost() -> None:
    hub, lane = make_hub(history=3), make_lane("a")
    for _ in range(10):
        publish(hub, lane)
    with hub.subscribed(Interest(), {"a": 4}) as subscription:
        gap, *results = await take(subscription, 4)
    assert (gap["type"], gap["from_seq"], gap["to_seq"]) == ("gap", 5, 7)
    assert [m["seq"] for m in results] == [8, 9, 10]


async def test_resuming_at_the_newest_gives_nothing_and_no_gap() -> None:
    hub, lane = make_hub(history=3), make_lane("a")
    for _ in range(10):
        publish(hub, lane)
    with hub.subscribed(Interest(), {"a": 10}) as subscription:
        publish(hub, lane)
        assert [m.get("seq") for m in await take(subscription, 1)] == [11]


async def test_resuming_from_before_a_restart_of_the_service_gives_everything() -> None:
    hub, lane = make_hub(), make_lane("a")
    publish(hub, lane)
    publish(hub, lane)
    with hub.subscribed(Interest(), {"a": 5000}) as subscription:
        assert [m["seq"] for m in await take(subscription, 2)] == [1, 2]


async def test_resuming_a_camera_without_results_is_no_error() -> None:
    hub, lane = make_hub(), make_lane("a")
    with hub.subscribed(Interest(), {"nobody": 3}) as subscription:
        publish(hub, lane)
        assert [m["camera_id"] for m in await take(subscription, 1)] == ["a"]


async def test_resuming_respects_the_cameras_that_were_asked_for() -> None:
    hub, lane, other = make_hub(), make_lane("a"), make_lane("b")
    publish(hub, other)
    with hub.subscribed(Interest(cameras=frozenset({"a"})), {"b": 0, "a": 0}) as subscription:
        publish(hub, lane)
        assert [m["camera_id"] for m in await take(subscription, 1)] == ["a"]


async def test_a_late_result_of_a_removed_camera_is_dropped_and_its_picture_released() -> None:
    hub, lane = make_hub(), make_lane("a")
    frame, batch = start(hub, lane)
    hub.forget(lane)
    hub.finished(lane, frame, make_detections(frame), batch)
    assert frame.surface.released == 1
    assert lane.counts().dropped["shutdown"] == 1
    assert lane.counts().in_flight == 0
    assert hub.history.latest("a") is None


async def test_nothing_of_a_removed_camera_is_kept() -> None:
    hub, lane = make_hub(), make_lane("a")
    frame, batch = start(hub, lane)
    publish_later = make_detections(frame)
    hub.forget(lane)
    hub.finished(lane, frame, publish_later, batch)
    kept = weakref.ref(lane)
    del lane, frame, batch, publish_later
    gc.collect()
    assert kept() is None


async def test_the_heir_of_a_removed_camera_starts_from_nothing() -> None:
    hub, first, second = make_hub(), make_lane("a"), make_lane("a")
    late, late_batch = start(hub, first)
    publish(hub, first)
    hub.forget(first)
    publish(hub, second)
    hub.finished(first, late, make_detections(late), late_batch)
    assert [result.seq for result in hub.history.newest("a", limit=9)] == [1]
    assert (first.counts().published, second.counts().published) == (0, 1)
    assert first.counts().in_flight == 0


async def test_everybody_is_told_that_a_camera_was_removed() -> None:
    hub, lane = make_hub(), make_lane("a")
    with hub.subscribed(Interest()) as subscription:
        publish(hub, lane)
        hub.forget(lane)
        (message,) = await take(subscription, 1)
    assert (message["type"], message["camera_id"], message["state"], message["error"]) == (
        "camera",
        "a",
        "removed",
        None,
    )


async def test_forgetting_a_camera_releases_its_picture() -> None:
    hub, lane = make_hub(), make_lane("a")
    frame = publish(hub, lane)
    hub.forget(lane)
    assert frame.surface.released == 1
    with pytest.raises(NotReady):
        await hub.snapshots.jpeg("a")


async def test_there_is_a_bound_to_subscribers() -> None:
    hub = make_hub()
    held = [hub.subscribed(Interest()) for _ in range(MAX_SUBSCRIBERS)]
    for each in held:
        each.__enter__()
    with pytest.raises(TooManyRequests, match="4096 subscribers"), hub.subscribed(Interest()):
        pass
    for each in held:
        each.__exit__(None, None, None)
    with hub.subscribed(Interest()):
        assert hub.stats.subscribers == 1


async def test_closing_waits_for_subscribers_to_leave_and_releases_pictures() -> None:
    hub, lane = make_hub(), make_lane("a")
    frame = publish(hub, lane)

    async def client() -> None:
        with hub.subscribed(Interest()):
            await hub.closing.wait()
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client()) for _ in range(3)]
    await asyncio.sleep(0)
    assert hub.stats.subscribers == 3
    await hub.aclose()
    assert hub.stats.subscribers == 0
    assert frame.surface.released == 1
    await asyncio.gather(*clients)
    late = publish(hub, lane)
    assert late.surface.released == 1
