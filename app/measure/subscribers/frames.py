"""Reads a server's WebSocket frames (RFC 6455, 5.2) with as little work as it can."""

from __future__ import annotations

from collections.abc import Iterator

CLOSE = 8


class FrameReader:
    """Counts one connection's data frames; has the payloads of close frames, and of all if it is to `keep` them."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self._unread = b""  # a head or a wanted frame that has not come whole
        self._skip = 0  # bytes of an unwanted frame that are still to come
        self._taken: list[tuple[int, bytes]] = []

    def feed(self, buffer: bytearray, count: int) -> int:
        """Read `count` bytes of the buffer; how many data frames began in them."""
        if self._skip >= count:
            self._skip -= count
            return 0
        data = self._unread + bytes(memoryview(buffer)[self._skip : count])
        self._skip = 0
        at = frames = 0
        while len(data) - at >= 2:
            opcode, length, start = data[at] & 0x0F, data[at + 1] & 0x7F, at + 2
            if length >= 126:
                start += 2 if length == 126 else 8
                if len(data) < start:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            wanted = self.keep or opcode == CLOSE
            if wanted and len(data) < start + length:
                break
            if wanted:
                self._taken.append((opcode, data[start : start + length]))
            frames += opcode in (1, 2)
            at = start + length
        self._skip = max(0, at - len(data))
        self._unread = data[at:]
        return frames

    def taken(self) -> Iterator[tuple[int, bytes]]:
        """The payloads that were wanted, by opcode, since the last call."""
        taken, self._taken = self._taken, []
        return iter(taken)
