"""Hands messages to connections, in slices between which the event loop does everything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable

from app.results.subscription import Subscription
from app.results.topic import Topic

logger = logging.getLogger("vidette.results")

FAILED, TRY_AGAIN_LATER = 1011, 1013
# What connections are ended with, for whoever counts them: shown from the start.
CODES = (1001, 1008, 1009, FAILED, TRY_AGAIN_LATER, 4400, 4401, 4403)
# The loop is kept busy for so long at most before it is let do what else there is: a frame's way through the pipeline
# crosses the loop three times.
SLICE_S = 0.0005
# Of the loop's time. A round over all clients that took 10 ms of CPU time is followed by 10 ms in which none begins:
# results that come meanwhile go out together, or, to clients in the mode `latest`, the newest of them. While the
# pipeline sheds more than 2 % of its frames, on an average over some seconds, delivery gives way by half each second.
SHARE, LEAST_SHARE = 0.5, 0.1
_MUCH_SHED, _LITTLE_SHED, _WEIGHT, _GROWTH = 0.02, 0.01, 0.5, 1.5
_SHORTEST_REST_S = 0.001
_LOOK_S = 1.0


class Delivery:
    """Visits every subscriber that has something to take and a connection that takes it. Event loop only.

    Nothing waits for a client: one that is blocked is passed over until it can be written to again, and is closed with
    1013 when that takes longer than its patience.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        share: float = SHARE,
    ) -> None:
        self.share = share  # of the event loop's time that delivery may take now
        self.sent = 0
        self.dropped = 0
        self.closed: Counter[int] = Counter(dict.fromkeys(CODES, 0))  # connections that we ended, by code
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._most = share
        self._shed = 0.0  # of the pipeline's frames, on average
        self._outlets = 0
        self._visits: deque[Subscription] = deque()
        self._dirty: dict[Topic[Subscription], None] = {}
        self._round: dict[Topic[Subscription], None] | None = None  # None: there is no round now
        self._blocked: dict[Subscription, float] = {}  # since when
        self._spent_s = 0.0  # in this round; what others do between its slices is not ours
        self._rests_until = 0.0
        self._turn_handle: asyncio.Handle | None = None
        self._look_handle: asyncio.Handle | None = None

    def mark(self, topic: Topic[Subscription]) -> None:
        """There is something new in a topic. Costs the same however many read it."""
        if self._outlets:
            self._dirty[topic] = None
            self._wake()

    def add(self, subscription: Subscription) -> None:
        """Begin to serve a subscription that has an outlet."""
        if subscription.outlet is not None:
            self._outlets += 1
            subscription.outlet.on_writable(lambda: self._writable(subscription))
            self._writable(subscription)

    def discard(self, subscription: Subscription) -> None:
        """Serve it no more."""
        self._outlets -= subscription.outlet is not None
        subscription.closed = True
        self._blocked.pop(subscription, None)
        self._settle(subscription)

    def close(self, subscription: Subscription, code: int, reason: str) -> None:
        """End a subscription's connection, once."""
        if subscription.close(code, reason):
            self.closed[code] += 1
        self._blocked.pop(subscription, None)

    def adapt(self, shed_share: float) -> None:
        """Take note, once a second, of what share of its frames the pipeline had no time for."""
        self._shed += _WEIGHT * (shed_share - self._shed)
        if self._shed > _MUCH_SHED:
            self.share = max(LEAST_SHARE, self.share / 2)
        elif self._shed < _LITTLE_SHED:
            self.share = min(self._most, self.share * _GROWTH)

    def stop(self) -> None:
        """Cancel what is planned. Idempotent."""
        for handle in (self._turn_handle, self._look_handle):
            if handle is not None:
                handle.cancel()
        self._turn_handle = self._look_handle = None

    def _writable(self, subscription: Subscription) -> None:
        self._blocked.pop(subscription, None)
        if not subscription.closed and subscription.behind:
            self._visits.append(subscription)
            self._wake()

    def _wake(self) -> None:
        if self._turn_handle is None:
            loop, rest_s = asyncio.get_running_loop(), self._rests_until - self._clock()
            if rest_s < _SHORTEST_REST_S:
                self._turn_handle = loop.call_soon(self._turn)
            else:
                self._turn_handle = loop.call_later(rest_s, self._turn)

    def _turn(self) -> None:
        """One slice of a round; the next one comes after whatever else is ready."""
        self._turn_handle = None
        if self._round is None:
            self._begin_round()
        began_s, until = self._cpu_clock(), self._clock() + SLICE_S
        while self._visits:
            subscription = self._visits.popleft()
            try:
                self._visit(subscription)
            except Exception:  # a supervisor's catch: one client's fault is no other client's
                logger.exception("a WebSocket client is closed")
                self.close(subscription, FAILED, "the service failed to send")
            if self._clock() >= until:
                break
        self._spent_s += self._cpu_clock() - began_s
        if not self._visits:
            self._end_round()
        if self._visits or self._dirty:
            self._wake()

    def _begin_round(self) -> None:
        self._spent_s = 0.0
        self._round, self._dirty = self._dirty, {}
        for topic in self._round:
            self._visits.extend(topic.members)

    def _end_round(self) -> None:
        self._rests_until = self._clock() + self._spent_s * (1 / self.share - 1)
        for topic in self._round or ():
            topic.trim()
        self._round = None

    def _visit(self, subscription: Subscription) -> None:
        outlet = subscription.outlet
        if subscription.closed or outlet is None:
            return
        if outlet.blocked:
            self._note_blocked(subscription)
            return
        messages = subscription.take()
        self._settle(subscription)
        if messages:
            self.sent += len(messages)
            if not outlet.write(messages):
                self._note_blocked(subscription)
            elif subscription.behind:
                self._visits.append(subscription)

    def _settle(self, subscription: Subscription) -> None:
        if subscription.dropped != subscription.counted:
            self.dropped += subscription.dropped - subscription.counted
            subscription.counted = subscription.dropped

    def _note_blocked(self, subscription: Subscription) -> None:
        self._blocked.setdefault(subscription, self._clock())
        if self._look_handle is None:
            self._plan_look()

    def _plan_look(self) -> None:
        shortest_s = min(subscription.patience_s for subscription in self._blocked)
        self._look_handle = asyncio.get_running_loop().call_later(min(_LOOK_S, shortest_s / 4), self._look)

    def _look(self) -> None:
        """Give up clients that stood still for too long, and count what the others miss meanwhile."""
        self._look_handle = None
        now = self._clock()
        for topic in {subscription.topic: None for subscription in self._blocked}:
            topic.compact()
        for subscription in self._blocked:
            self._settle(subscription)
        given_up = [each for each, since in self._blocked.items() if now - since >= each.patience_s]
        for subscription in given_up:
            reason = f"nothing was taken for {subscription.patience_s:g} s"
            self.close(subscription, TRY_AGAIN_LATER, reason)
        if len(given_up) == 1:
            logger.warning("a WebSocket client took nothing for %g s and is closed", given_up[0].patience_s)
        elif given_up:
            patience_s = min(each.patience_s for each in given_up)
            logger.warning("%d WebSocket clients took nothing for %g s and are closed", len(given_up), patience_s)
        if self._blocked:
            self._plan_look()
