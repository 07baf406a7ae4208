"""Ports for programs that have to be told theirs."""

from __future__ import annotations

import random
import socket

# Below what Linux gives out by itself (net.ipv4.ip_local_port_range), so that nobody else is given it meanwhile.
_RANGE = range(12_000, 32_000)


def free_port() -> int:
    """A port of loopback on which nobody listens. It stays free unless it is drawn a second time."""
    while True:
        with socket.socket() as tried:
            port = random.SystemRandom().choice(_RANGE)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
