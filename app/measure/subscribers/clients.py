"""Many WebSocket clients in one process, as cheap as they can be: raw sockets, frames counted and mostly not read.

    python -m app.measure.subscribers.clients JOB

One client in sixteen reads its messages' `seq` and notes when they came; the others only count. Stuck clients shake
hands and then read nothing, until they are woken. Commands: connect, look, wake, leave. It ends when its standard input
does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import socket
import sys
import time
from collections import Counter
from typing import Any

from app.measure.subscribers.child import say
from app.measure.subscribers.frames import FrameReader
from app.server import raise_descriptor_limit

_SAMPLED = 16
_NICENESS = 10
_STUCK_BUFFER_BYTES = 4096
_AT_ONCE = 64
_HANDSHAKE_S = 30.0
_WAKE_S = 5.0
_SEQ = re.compile(rb'"seq":(\d+)')
_buffer = bytearray(256 * 1024)


class Client:
    """One connection. `seqs` are what a sampled client saw, with the moment; None of one that only counts."""

    def __init__(self, address: tuple[str, int], path: str, *, stuck: bool, sampled: bool) -> None:
        self.stuck = stuck
        self.shaken = False
        self.open = True
        self.messages = 0
        self.frames = FrameReader(keep=sampled)
        self.newest = 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if stuck:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STUCK_BUFFER_BYTES)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(address)
        key = base64.b64encode(os.urandom(16)).decode()
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self.head = b""


class Crowd:
    """All clients, on one epoll."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.messages = self.gaps = self.disorder = self.broken = 0
        self.codes: Counter[int] = Counter()
        self.samples: list[tuple[int, float]] = []

    def connect(self, *, host: str, port: int, path: str, live: int, stuck: int) -> None:
        """Connect them all, and wait until every handshake is done."""
        deadline = time.monotonic() + _HANDSHAKE_S
        waiting, total = 0, live + stuck
        for number in range(total):
            is_stuck = number * stuck // total != (number + 1) * stuck // total  # spread evenly among the live ones
            client = Client((host, port), path, stuck=is_stuck, sampled=not is_stuck and number % _SAMPLED == 0)
            self.clients[client.socket.fileno()] = client
            self.poll.register(client.socket, select.EPOLLOUT)
            waiting += 1
            if waiting >= _AT_ONCE:
                waiting = self._shake(deadline)
        while self._shake(deadline):
            pass

    def serve(self, timeout_s: float) -> bool:
        """Take what has come; whether a command is there to read."""
        commanded = False
        for number, events in self.poll.poll(timeout_s):
            client = self.clients.get(number)
            if client is not None:
                self._serve(client, events)
            commanded = commanded or number == sys.stdin.fileno()
        return commanded

    def wake(self) -> None:
        """Have the stuck ones read to their ends, for a while."""
        woken = []
        for client in self.clients.values():
            if client.stuck:
                client.stuck = False
                self.poll.modify(client.socket, select.EPOLLIN)
                woken.append(client)
        ends_at = time.monotonic() + _WAKE_S
        while time.monotonic() < ends_at and any(client.open for client in woken):
            self.serve(0.1)

    def leave(self) -> None:
        for client in self.clients.values():
            client.socket.close()
        self.clients.clear()

    def look(self) -> dict[str, Any]:
        samples, self.samples = self.samples, []
        return {
            "at": time.monotonic(),
            "connected": len(self.clients),
            "messages": self.messages,
            "fewest": min((client.messages for client in self.clients.values() if not client.stuck), default=0),
            "sampled": sum(client.frames.keep for client in self.clients.values()),
            "gaps": self.gaps,
            "disorder": self.disorder,
            "broken": self.broken,
            "codes": {str(code): count for code, count in self.codes.items()},
            "cpu_s": time.process_time(),
            "samples": samples,
        }

    def _shake(self, deadline: float) -> int:
        """Serve once; how many handshakes are not done."""
        self.serve(0.05)
        waiting = sum(not client.shaken for client in self.clients.values())
        if waiting and time.monotonic() > deadline:
            raise SystemExit(f"{waiting} WebSocket handshakes were not answered within {_HANDSHAKE_S:g} s")
        return waiting

    def _serve(self, client: Client, events: int) -> None:
        if client.shaken and client.stuck and not events & (select.EPOLLHUP | select.EPOLLERR):
            return
        if not client.shaken and events & select.EPOLLOUT:
            client.socket.send(client.request)
            self.poll.modify(client.socket, select.EPOLLIN)
            return
        try:
            count = client.socket.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._lost(client)
        elif client.shaken:
            self._read(client, count)
        else:
            self._greeted(client, bytes(_buffer[:count]))

    def _greeted(self, client: Client, data: bytes) -> None:
        client.head += data
        head, found, rest = client.head.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"the WebSocket handshake was answered with {head[:80]!r}")
        client.shaken = True
        if client.stuck:
            self.poll.modify(client.socket, 0)  # errors and hang-ups are told all the same
        elif rest:
            _buffer[: len(rest)] = rest
            self._read(client, len(rest))

    def _read(self, client: Client, count: int) -> None:
        found = client.frames.feed(_buffer, count)
        self.messages += found
        client.messages += found
        for opcode, payload in client.frames.taken():
            if opcode == 8:
                self.codes[int.from_bytes(payload[:2], "big")] += 1
                self._lost(client)
            elif b'"type":"gap"' in payload:
                self.gaps += 1
            elif seq := _SEQ.search(payload):
                number = int(seq[1])
                self.disorder += number <= client.newest
                client.newest = number
                self.samples.append((number, time.monotonic()))

    def _lost(self, client: Client) -> None:
        self.broken += 1
        client.open = False
        del self.clients[client.socket.fileno()]
        client.socket.close()


def main() -> None:
    raise_descriptor_limit()
    os.nice(_NICENESS)  # on a machine with few cores, the service's clients would be its rivals
    crowd, unread = Crowd(), b""
    crowd.poll.register(sys.stdin, select.EPOLLIN)
    while True:
        if not crowd.serve(1.0):
            continue
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            _obey(crowd, json.loads(line))


def _obey(crowd: Crowd, request: dict[str, Any]) -> None:
    command = request.pop("command")
    if command == "connect":
        crowd.connect(**request)
    elif command == "wake":
        crowd.wake()
    elif command == "leave":
        crowd.leave()
    say(crowd.look())


if __name__ == "__main__":
    main()
