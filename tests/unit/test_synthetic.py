"""The synthetic backend keeps the protocols that every backend keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import CLASSES, SCORE, SyntheticDetector
from app.backends.synthetic.source import Script, SyntheticSource, SyntheticSurface, box_at
from app.cameras.source import SourceRequest
from app.errors import DeviceLost, EngineError, SourceError, SourceErrorCode
from app.types import SourceFrame, Surface
from tests.support.fakes import make_frame
from tests.support.wait import wait_in_thread


def source(query: str = "") -> SyntheticSource:
    return SyntheticSource(SourceRequest(camera_id="a", url=f"rtsp://camera.test/1{query}"))


def test_a_script_is_read_from_the_url() -> None:
    script = Script.of("rtsp://h/1?fps=5&width=320&height=200&fail=auth_failed&after=7&hang=1")
    assert (script.fps, script.width, script.height) == (5.0, 320, 200)
    assert (script.fail, script.after, script.hang) == (SourceErrorCode.AUTH_FAILED, 7, True)
    assert Script.of("rtsp://h/1") == Script()


def test_frames_carry_a_clock_a_size_and_a_picture() -> None:
    one = source("?fps=200&width=320&height=200")
    frames = list(islice(one.frames(), 3))
    assert [frame.pts_s for frame in frames] == [0.0, 0.005, 0.01]
    assert all(frame.times.arrived_at <= frame.times.decoded_at <= time.monotonic() for frame in frames)
    surface = frames[0].surface
    assert isinstance(surface, Surface)
    assert (surface.width, surface.height) == (320, 200)
    image = surface.to_bgr()
    assert image.shape == (200, 320, 3)
    assert image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 2  # the object and what is behind it
    assert one.info is not None
    assert (one.info.codec, one.info.declared_fps) == ("synthetic", 200.0)
    one.close()
    assert one.info is None


def test_it_fails_when_the_script_says_so() -> None:
    frames: Iterator[SourceFrame[SyntheticSurface]] = source("?fps=500&fail=no_video&after=3").frames()
    assert len(list(islice(frames, 3))) == 3
    with pytest.raises(SourceError) as caught:
        next(frames)
    assert caught.value.code is SourceErrorCode.NO_VIDEO
    with pytest.raises(SourceError):
        next(source("?fail=dns_failed").frames())


@pytest.mark.parametrize("query", ["?fps=0.01", "?fps=500&after=2&hang=1"])
def test_it_returns_quietly_when_it_is_interrupted(query: str) -> None:
    one, seen = source(query), list[object]()
    thread = threading.Thread(target=lambda: seen.extend(one.frames()))
    thread.start()
    wait_in_thread(lambda: one.info is not None)
    one.pace(5)
    one.interrupt()
    one.interrupt()
    thread.join(5)
    assert not thread.is_alive()


async def test_a_detector_finds_the_one_object_of_each_frame() -> None:
    frames = [make_frame("a", 1), make_frame("b", 2)]
    found = await SyntheticDetector().detect(frames, min_scores=[0.25, SCORE + 0.01])
    assert [(f.camera_id, f.seq, len(f)) for f in found] == [("a", 1, 1), ("b", 2, 0)]
    assert found[0].boxes.dtype == found[0].scores.dtype == np.float32
    assert found[0].boxes.shape == (1, 4)
    assert found[1].boxes.shape == (0, 4)
    np.testing.assert_allclose(found[0].boxes[0], box_at(frames[0].surface.at_s, 640, 360), atol=1e-3)


@pytest.mark.parametrize("at_s", [0.0, 3.9, 7.999, 8.0, 1e6])
def test_the_object_stays_in_the_picture(at_s: float) -> None:
    x1, y1, x2, y2 = box_at(at_s, 1280, 720)
    assert 0 <= x1 < x2 <= 1280
    assert 0 <= y1 < y2 <= 720


@pytest.mark.parametrize("error", [EngineError("x"), DeviceLost("y"), ValueError("z")])
async def test_a_detector_fails_once_when_told_to(error: Exception) -> None:
    detector = SyntheticDetector()
    detector.fail_next = error
    with pytest.raises(type(error)):
        await detector.detect([make_frame()], min_scores=[0.2])
    assert len(await detector.detect([make_frame()], min_scores=[0.2])) == 1
    await detector.aclose()
    await detector.aclose()


def test_the_backend_hands_out_the_detector_it_was_given() -> None:
    detector = SyntheticDetector(contexts=3)
    backend = SyntheticBackend(detector)
    assert backend.open_detector() is detector
    assert backend.open_detector().info.classes == CLASSES
    assert backend.probe().available
    assert isinstance(backend.open_source(SourceRequest(camera_id="a", url="rtsp://h")), SyntheticSource)
