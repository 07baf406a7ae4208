"""How often a client may show a wrong token. Pure; the clock is the caller's."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from app.auth.tokens import FAILURES, GUESSES, Failure
from app.errors import TooManyFailures

MAX_FAILURES = 10
WINDOW_S = 60.0
MAX_CLIENTS = 4096


class FailureLimit:
    """Counts the wrong tokens of each client over a minute, and all failures for the metrics. Event loop only.

    `counts` are failures by reason since the start; `limited` is for those that the limit refused unseen.
    Bounded: with more than `MAX_CLIENTS` clients the one that failed longest ago is forgotten.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed_at: OrderedDict[str, deque[float]] = OrderedDict()
        self.counts: Counter[str] = Counter(dict.fromkeys((*FAILURES, "limited"), 0))

    def __len__(self) -> int:
        return len(self._failed_at)

    def wait_s(self, address: str) -> float:
        """Seconds until this client's next wrong token is looked at; 0 while it has failures left."""
        failed_at = self._failed_at.get(_client(address))
        if failed_at is None or len(failed_at) < MAX_FAILURES:
            return 0.0
        return max(0.0, failed_at[0] + WINDOW_S - self._clock())

    def failed(self, address: str, reason: Failure) -> None:
        """Note one failure. Raises `TooManyFailures` when this client has had its share of wrong tokens."""
        if reason not in GUESSES:
            self.counts[reason] += 1
            return
        wait_s = self.wait_s(address)
        if wait_s > 0:  # not noted, or a client that goes on would never be heard again
            self.counts["limited"] += 1
            raise TooManyFailures(wait_s)
        self.counts[reason] += 1
        client = _client(address)
        failed_at = self._failed_at.setdefault(client, deque(maxlen=MAX_FAILURES))
        failed_at.append(self._clock())
        self._failed_at.move_to_end(client)
        if len(self._failed_at) > MAX_CLIENTS:
            self._failed_at.popitem(last=False)


def _client(address: str) -> str:
    """Addresses that one client has at will count as one: the /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:  # how a socket that takes both shows IPv4
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
