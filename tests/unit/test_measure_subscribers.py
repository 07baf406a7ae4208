"""How the benchmark's clients read frames."""

from __future__ import annotations

import os
import random

import pytest

from app.measure.subscribers.frames import FrameReader
from app.results.wire import Message


def fed(reader: FrameReader, data: bytes) -> int:
    buffer = bytearray(data)
    return reader.feed(buffer, len(buffer))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("most", [1, 3, 100, 70_000, 500_000])
def test_frames_are_counted_however_they_are_cut(keep: bool, most: int) -> None:
    payloads = [b"x" * length for length in (0, 1, 125, 126, 1500, 65_535, 65_536)]
    sent = b"".join(Message(payload, "json").frame for payload in payloads) + b"\x89\x00" + b"\x88\x02\x03\xf5"
    chance, reader = random.Random(1), FrameReader(keep=keep)
    counted, at = 0, 0
    taken: list[tuple[int, bytes]] = []
    while at < len(sent):
        size = chance.randint(1, most)
        counted += fed(reader, sent[at : at + size])
        taken += reader.taken()
        at += size
    assert counted == len(payloads)
    assert taken[-1] == (8, (1013).to_bytes(2, "big"))
    assert [payload for opcode, payload in taken if opcode == 1] == (payloads if keep else [])


def test_what_is_not_kept_is_not_stored() -> None:
    reader = FrameReader(keep=False)
    frame = Message(os.urandom(1_000_000), "msgpack").frame
    assert fed(reader, frame[:1000]) == 1
    assert fed(reader, frame[1000:900_000]) == 0
    assert fed(reader, frame[900_000:] + Message(b"{}", "json").frame) == 1
    assert list(reader.taken()) == []
