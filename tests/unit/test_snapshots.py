"""The newest picture of each camera: one surface held, never one that a thread still reads."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.errors import NotReady
from app.results.snapshots import Snapshots
from app.types import BgrImage
from tests.support.fakes import SyntheticFrame, make_detections, make_frame


@dataclass(slots=True)
class SlowSurface(SyntheticSurface):
    """Copies its pixels when the test says so, and notices when it is released meanwhile."""

    reading: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    released_while_read: bool = False

    def to_bgr(self) -> BgrImage:
        self.reading.set()
        assert self.go_on.wait(10)
        self.released_while_read = self.released > 0
        return np.zeros((self.height, self.width, 3), dtype=np.uint8)


def offer(snapshots: Snapshots[Any], frame: SyntheticFrame) -> SyntheticFrame:
    snapshots.offer(frame, make_detections(frame))
    return frame


def slow(seq: int = 1) -> tuple[SyntheticFrame, SlowSurface]:
    surface = SlowSurface(64, 48, 0.0)
    return replace(make_frame("a", seq), surface=surface), surface


def pixels(jpeg: bytes) -> BgrImage:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, dtype=np.uint8)


async def test_the_newest_frame_is_shown_and_the_older_released() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    first, second = offer(snapshots, make_frame("a", 1)), offer(snapshots, make_frame("a", 2))
    picture = await snapshots.jpeg("a")
    assert (first.surface.released, second.surface.released) == (1, 0)
    assert picture.seq == 2
    assert picture.captured_utc == second.times.captured_utc
    assert pixels(picture.jpeg).shape == (360, 640, 3)


async def test_an_older_frame_that_comes_late_does_not_turn_the_picture_back() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    newer, older = offer(snapshots, make_frame("a", 2)), offer(snapshots, make_frame("a", 1))
    assert (newer.surface.released, older.surface.released) == (0, 1)
    assert (await snapshots.jpeg("a")).seq == 2


async def test_boxes_are_drawn_only_when_wanted() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    offer(snapshots, make_frame("a", 1))
    with_boxes = pixels((await snapshots.jpeg("a", overlay=True)).jpeg)
    without = pixels((await snapshots.jpeg("a", overlay=False)).jpeg)
    changed = np.abs(with_boxes.astype(int) - without.astype(int)).max(axis=2) > 60
    assert changed.any()
    assert not changed[200:].any()  # the box lies above


async def test_a_camera_without_a_frame_is_not_ready() -> None:
    with pytest.raises(NotReady, match="has not shown a frame yet"):
        await Snapshots[Any](()).jpeg("a")


async def test_a_newer_frame_does_not_release_the_one_that_is_being_read() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    frame, surface = slow()
    offer(snapshots, frame)
    reading = asyncio.create_task(snapshots.jpeg("a"))
    await asyncio.to_thread(surface.reading.wait)
    newer = offer(snapshots, make_frame("a", 2))
    surface.go_on.set()
    assert (await reading).seq == 1
    assert not surface.released_while_read
    assert (surface.released, newer.surface.released) == (1, 0)
    assert (await snapshots.jpeg("a")).seq == 2


async def test_an_older_frame_does_not_push_out_the_one_that_is_being_read() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    frame, surface = slow(5)
    offer(snapshots, frame)
    reading = asyncio.create_task(snapshots.jpeg("a"))
    await asyncio.to_thread(surface.reading.wait)
    older = offer(snapshots, make_frame("a", 4))
    surface.go_on.set()
    await reading
    assert (surface.released, older.surface.released) == (0, 1)
    assert (await snapshots.jpeg("a")).seq == 5


@pytest.mark.parametrize("how", ["forget", "close"])
async def test_a_camera_that_goes_while_it_is_read_is_released_afterwards(how: str) -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    frame, surface = slow()
    offer(snapshots, frame)
    reading = asyncio.create_task(snapshots.jpeg("a"))
    waiting = asyncio.create_task(snapshots.jpeg("a"))
    await asyncio.to_thread(surface.reading.wait)
    if how == "forget":
        snapshots.forget("a")
    else:
        snapshots.close()
    surface.go_on.set()
    await reading
    assert not surface.released_while_read
    assert surface.released == 1
    with pytest.raises(NotReady):
        await waiting


async def test_the_heir_of_a_camera_that_went_while_it_was_read_keeps_its_picture() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    frame, surface = slow(7)
    offer(snapshots, frame)
    reading = asyncio.create_task(snapshots.jpeg("a"))
    await asyncio.to_thread(surface.reading.wait)
    snapshots.forget("a")
    heir = offer(snapshots, make_frame("a", 1))
    surface.go_on.set()
    await reading
    assert (surface.released, heir.surface.released) == (1, 0)
    assert (await snapshots.jpeg("a")).seq == 1


async def test_closing_releases_everything_and_takes_nothing_more() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person",))
    kept = [offer(snapshots, make_frame(name)) for name in "abc"]
    snapshots.close()
    late = offer(snapshots, make_frame("d"))
    assert [frame.surface.released for frame in (*kept, late)] == [1, 1, 1, 1]


async def test_labels_of_boxes_at_the_edges_stay_in_the_picture() -> None:
    snapshots: Snapshots[Any] = Snapshots(("person", "car"))
    frame = make_frame("a")
    found = make_detections(frame, [0.9, 0.5, 0.3], [0, 1, 0])
    boxes = np.array([[0, 0, 640, 360], [600, 330, 640, 360], [0, 0, 1, 1]], dtype=np.float32)
    snapshots.offer(frame, replace(found, boxes=boxes))
    assert pixels((await snapshots.jpeg("a")).jpeg).shape == (360, 640, 3)
