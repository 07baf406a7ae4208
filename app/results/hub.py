"""Where results come together: put in order, counted, kept, and handed to every subscriber."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic

import anyio
import numpy as np

from app.batching.mailbox import Batch
from app.cameras.lane import Lane
from app.cameras.meters import Histogram
from app.errors import TooManyRequests
from app.logs import RepeatFilter
from app.nvtx import stage
from app.results.delivery import Delivery
from app.results.history import History
from app.results.order import InOrder
from app.results.snapshots import Snapshots
from app.results.subscription import Interest, Outlet, Subscription
from app.results.topic import Topic
from app.results.wire import Message, Result, camera_message
from app.types import Detections, Frame, S

logger = logging.getLogger("vidette.hub")
logger.addFilter(RepeatFilter())
STAGES = ("decode", "queue", "preprocess", "infer", "postprocess", "publish")
STAGE_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
MAX_SUBSCRIBERS = 4096
FAREWELL_S = 2.0
GOING_AWAY = 1001
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStats:
    """A reading of the hub."""

    subscribers: int
    messages_sent: int
    messages_dropped: Mapping[str, int]  # by reason; of clients that stand still, counted each second
    closed: Mapping[int, int]  # connections that we ended, by code
    delivery_share: float  # of the event loop's time that delivery may take now


class ResultHub(Generic[S]):
    """Implements the batcher's `ResultSink`. Never waits for anybody. Event loop only.

    A result is serialised once for each format and filter that somebody subscribed with, not once a subscriber, and to
    publish it costs nothing more for a subscriber more: `delivery` hands it out afterwards.
    """

    def __init__(
        self,
        *,
        model: str,
        classes: Sequence[str],
        history: History,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = history
        self.snapshots: Snapshots[S] = Snapshots(classes)
        self.stages = {stage: Histogram(STAGE_BUCKETS_S) for stage in STAGES}
        self.closing = asyncio.Event()
        self._left = asyncio.Event()
        self._model = model
        self._classes = tuple(classes)
        self._clock = clock
        self._orders: dict[Lane, InOrder[tuple[Detections, Batch[S]]]] = {}
        self.delivery = Delivery(clock=clock)
        self._failed = 0  # messages that could not be written
        self._topics: dict[Interest, Topic[Subscription]] = {}
        self._subscriptions: dict[Subscription, None] = {}

    @property
    def stats(self) -> HubStats:
        return HubStats(
            subscribers=len(self._subscriptions),
            messages_sent=self.delivery.sent,
            messages_dropped={"slow_consumer": self.delivery.dropped, "failed": self._failed},
            closed=dict(self.delivery.closed),
            delivery_share=self.delivery.share,
        )

    # The batcher's side

    def started(self, lane: Lane, seq: int) -> None:
        order = self._orders.setdefault(lane, InOrder())
        order.started(seq)
        lane.under_way = len(order)

    def finished(self, lane: Lane, frame: Frame[S], found: Detections, batch: Batch[S]) -> None:
        if lane.closed:
            frame.surface.release()
        else:
            self.snapshots.offer(frame, found)
        self._release(lane, frame.seq, (found, batch))

    def failed(self, lane: Lane, seq: int) -> None:
        self._release(lane, seq, None)

    def _release(self, lane: Lane, seq: int, result: tuple[Detections, Batch[S]] | None) -> None:
        order = self._orders[lane]
        ended = order.ended(seq, result)
        lane.under_way = len(order)
        for found, batch in ended:
            if lane.closed:
                lane.ledger.dropped("shutdown")
            else:
                with stage("publish"):
                    self._publish(lane, found, batch)
        if lane.closed and not order:
            del self._orders[lane]

    def _publish(self, lane: Lane, found: Detections, batch: Batch[S]) -> None:
        """Count, keep and hand out one result. Its error is its own: the others of its batch come out all the same."""
        now = self._clock()
        try:
            result = self._result(lane, found, batch, now)
            labels = [self._classes[class_id] for class_id in result.detections.class_ids.tolist()]
        except Exception as exc:
            logger.error("a result of camera %s cannot be published", lane.camera_id, exc_info=exc)
            lane.ledger.dropped("publish_failed")
            return
        lane.ledger.published()
        try:
            self.history.add(result)
            lane.inferred_rate.mark(now)
            lane.found.update(labels)
            for topic in self._topics.values():
                self._publish_in(topic, result)
            self._measure(lane, found, batch, now)
        except Exception as exc:
            logger.error("a result of camera %s cannot be shown everywhere", lane.camera_id, exc_info=exc)

    def _result(self, lane: Lane, found: Detections, batch: Batch[S], now: float) -> Result:
        return Result(
            _of_classes(found, lane.settings.class_ids),
            classes=self._classes,
            model=self._model,
            batch_size=len(batch),
            formed_at=batch.formed_at,
            published_at=now,
        )

    def _publish_in(self, topic: Topic[Subscription], result: Result) -> None:
        try:
            if topic.publish(result):
                self.delivery.mark(topic)
        except Exception as exc:  # a message that cannot be written is one message less
            self._failed += len(topic.members)
            logger.error("a result of camera %s cannot be sent", result.camera_id, exc_info=exc)

    def _measure(self, lane: Lane, found: Detections, batch: Batch[S], published_at: float) -> None:
        times, stages = found.times, found.stages
        lane.latency.observe(max(0.0, published_at - times.arrived_at))
        self.stages["decode"].observe(times.decode_s)
        self.stages["queue"].observe(max(0.0, batch.formed_at - times.decoded_at))
        self.stages["preprocess"].observe(stages.preprocess_s)
        self.stages["infer"].observe(stages.infer_s)
        self.stages["postprocess"].observe(stages.postprocess_s)
        self.stages["publish"].observe(self._clock() - published_at)

    # The subscribers' side

    @contextmanager
    def subscribed(
        self,
        interest: Interest,
        since: Mapping[str, int] | None = None,
        *,
        outlet: Outlet | None = None,
        greeting: Message | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Iterator[Subscription]:
        """A subscription for the length of a `with`; `since` (camera: seq) starts it with what memory has after.

        What comes is written to `outlet`, the greeting first, until it is closed: with 1013 when it takes nothing for
        `patience_s`, with 1001 when the hub closes. Without an outlet the caller takes it.
        """
        if len(self._subscriptions) >= MAX_SUBSCRIBERS:
            raise TooManyRequests(f"{MAX_SUBSCRIBERS} subscribers are connected already")
        topic = self._topics.setdefault(interest, Topic(interest))
        subscription = Subscription(topic, outlet, patience_s=patience_s)
        if greeting is not None:
            subscription.greet(greeting)
        for camera_id, seq in (since or {}).items():
            if interest.cameras is None or camera_id in interest.cameras:
                self._resume(subscription, camera_id, seq)
        topic.members[subscription] = None
        self._subscriptions[subscription] = None
        self.delivery.add(subscription)
        try:
            yield subscription
        finally:
            self.delivery.discard(subscription)
            del self._subscriptions[subscription]
            del topic.members[subscription]
            if not topic.members:
                del self._topics[interest]
            self._left.set()

    def _resume(self, subscription: Subscription, camera_id: str, since_seq: int) -> None:
        latest = self.history.latest(camera_id)
        if latest is None:
            return
        # A number from the future comes from before a restart of the service: numbering began anew.
        after = None if since_seq > latest.seq else since_seq
        kept = self.history.newest(camera_id, limit=self.history.size, since_seq=after)
        if kept and after is not None and self.history.lost_before(camera_id) > after:
            subscription.missed(camera_id, after + 1, kept[0].seq - 1)
        for result in kept:
            subscription.resume(result)

    def camera_changed(self, message: dict[str, Any]) -> None:
        """Tell every subscriber of a camera's new state."""
        for topic in self._topics.values():
            self._tell_in(topic, message)

    def _tell_in(self, topic: Topic[Subscription], message: dict[str, Any]) -> None:
        try:
            if topic.tell(message):
                self.delivery.mark(topic)
        except Exception as exc:
            self._failed += len(topic.members)
            logger.error("a change of camera %s cannot be sent", message["camera_id"], exc_info=exc)

    # The registry's side

    def forget(self, lane: Lane) -> None:
        """A camera was removed: nothing of it stays, and what is still under way is not published."""
        lane.closed = True
        self.history.forget(lane.camera_id)
        self.snapshots.forget(lane.camera_id)
        if not self._orders.get(lane):
            self._orders.pop(lane, None)
        for topic in self._topics.values():
            topic.forget(lane.camera_id)
        for subscription in self._subscriptions:
            subscription.forget(lane.camera_id)
        self.camera_changed(camera_message(lane.camera_id, "removed", None))

    async def aclose(self) -> None:
        """Tell every subscriber that the service stops, wait shortly for them to leave, release all pictures."""
        self.closing.set()
        for subscription in list(self._subscriptions):
            self.delivery.close(subscription, GOING_AWAY, "the service is stopping")
        with anyio.move_on_after(FAREWELL_S):
            while self._subscriptions:
                await self._left.wait()
                self._left.clear()
        self.delivery.stop()
        self.snapshots.close()


def _of_classes(found: Detections, class_ids: frozenset[int] | None) -> Detections:
    if class_ids is None or not len(found):
        return found
    keep = np.isin(found.class_ids, list(class_ids))
    return replace(found, boxes=found.boxes[keep], scores=found.scores[keep], class_ids=found.class_ids[keep])
