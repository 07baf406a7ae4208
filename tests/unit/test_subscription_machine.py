"""Subscribers as a state machine: whatever the order of events, each result is delivered once or told as missed."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.results.subscription import Subscription
from app.results.topic import Interest, Topic
from tests.support.fakes import make_result

SIZE, CHUNK = 4, 2
CAMERAS = ("a", "b", "c")


class Subscribers(RuleBasedStateMachine):
    """Two subscribers of one topic, one of which may stand still for long."""

    @initialize(latest=st.booleans())
    def build(self, latest: bool) -> None:
        self.loop = asyncio.new_event_loop()  # for the topic's event
        interest = Interest(mode="latest" if latest else "all")
        self.topic: Topic[Subscription] = Topic(interest, size=SIZE, chunk=CHUNK)
        self.subscriptions = [Subscription(self.topic) for _ in range(2)]
        for subscription in self.subscriptions:
            self.topic.members[subscription] = None
        self.newest: dict[str, int] = defaultdict(int)
        self.published: dict[str, set[int]] = defaultdict(set)
        self.covered: list[dict[str, int]] = [defaultdict(int), defaultdict(int)]
        self.told: list[dict[str, set[int]]] = [defaultdict(set), defaultdict(set)]

    @rule(camera=st.sampled_from(CAMERAS), skipped=st.integers(0, 2))
    def a_result_is_published(self, camera: str, skipped: int) -> None:
        self.newest[camera] += 1 + skipped  # frames that were dropped have numbers too
        self.published[camera].add(self.newest[camera])
        assert self.topic.publish(make_result(camera, self.newest[camera]))

    @rule(camera=st.sampled_from(CAMERAS))
    def a_camera_changes(self, camera: str) -> None:
        self.topic.tell({"type": "camera", "camera_id": camera, "state": "running"})

    @rule(which=st.integers(0, 1), most=st.sampled_from([1, 500, 64_000]))
    def a_subscriber_takes(self, which: int, most: int) -> None:
        for message in self.subscriptions[which].take(most):
            self.look(which, msgspec.json.decode(message.data))

    @rule()
    def what_everybody_has_is_dropped(self) -> None:
        self.topic.trim()

    @rule()
    def the_log_is_compacted(self) -> None:
        self.topic.compact()

    @rule(camera=st.sampled_from(CAMERAS))
    def a_camera_is_removed(self, camera: str) -> None:
        self.topic.forget(camera)
        for subscription in self.subscriptions:
            subscription.forget(camera)
        for told in self.told:  # nobody has to be told of it any more
            told[camera] |= self.published[camera]

    def look(self, which: int, message: dict[str, object]) -> None:
        """Each message of a camera begins behind what the ones before it told."""
        if message["type"] == "camera":
            return
        camera = str(message["camera_id"])
        first, last = (
            (message["from_seq"], message["to_seq"]) if message["type"] == "gap" else (message["seq"], message["seq"])
        )
        assert isinstance(first, int)
        assert isinstance(last, int)
        assert self.covered[which][camera] < first <= last <= self.newest[camera], message
        self.covered[which][camera] = last
        self.told[which][camera] |= self.published[camera] & set(range(first, last + 1))

    @invariant()
    def the_log_is_bounded(self) -> None:
        if hasattr(self, "topic"):
            # Newest results of each camera, changes, and what has come since the last look.
            assert len(self.topic) <= len(CAMERAS) + SIZE + 2 * CHUNK + 1

    def teardown(self) -> None:
        if not hasattr(self, "topic"):
            return
        for which, subscription in enumerate(self.subscriptions):
            while messages := subscription.take():
                for message in messages:
                    self.look(which, msgspec.json.decode(message.data))
            assert not subscription.behind
            for camera, published in self.published.items():
                assert self.told[which][camera] == published, f"{camera}: neither delivered nor told as missed"
        self.loop.close()


class TestSubscribers(Subscribers.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=80, stateful_step_count=50)
