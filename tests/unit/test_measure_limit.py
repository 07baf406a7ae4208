"""The closed loop that the benchmark compares the service with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.cameras.source import SourceRequest
from app.errors import AppError, SourceError, SourceErrorCode
from app.measure.limit import LimitPlan, measure_limit
from app.types import Detections, Frame
from tests.support.fakes import ScriptedSource, make_source_frame

END = SourceError(SourceErrorCode.END_OF_STREAM, "clip.mp4 was played to its end")
PLAN = LimitPlan(clip=Path("clip.mp4"), phases_s=(0.0, 0.01), batch=3)


class Clips:
    """Opens scripted sources: ten frames, then the end, or what a test wants; knows every surface it gave out."""

    def __init__(self, ending: Exception = END) -> None:
        self.surfaces: list[SyntheticSurface] = []
        self.requests: list[SourceRequest] = []
        self._ending = ending
        self._lock = threading.Lock()

    def open(self, request: SourceRequest) -> ScriptedSource:
        frames = [make_source_frame(number) for number in range(10)]
        with self._lock:
            self.requests.append(request)
            self.surfaces += [frame.surface for frame in frames]
        return ScriptedSource([*frames, self._ending])


def run_batch(frames: Sequence[Frame[SyntheticSurface]], min_scores: Sequence[float]) -> list[Detections]:
    assert len(frames) == len(min_scores) <= PLAN.batch
    assert all(not frame.surface.released for frame in frames)
    threading.Event().wait(0.001)
    return []


def test_closed_loop_counts_what_it_decodes_and_infers() -> None:
    clips, ticks = Clips(), list[float]()
    run = measure_limit(PLAN, open_source=clips.open, runs=[run_batch, run_batch], seconds=0.3, on_tick=ticks.append)
    assert run.decoded_fps > 0
    assert 0 < run.inferred_fps < 2 * 1000 * PLAN.batch
    assert 0.29 <= run.seconds < 10.0  # a busy machine may keep it waiting
    assert run.usage.simulator == 0.0
    assert ticks == sorted(ticks)
    assert {request.url for request in clips.requests} == {"file:clip.mp4"}
    assert {request.camera_id for request in clips.requests} == {"limit-0", "limit-1"}


def test_closed_loop_releases_every_picture_that_it_was_given_once() -> None:
    clips = Clips()
    measure_limit(PLAN, open_source=clips.open, runs=[run_batch], seconds=0.1)
    assert all(surface.released <= 1 for surface in clips.surfaces)
    # Of the last clips that were opened, some pictures were never given out.
    assert sum(surface.released == 0 for surface in clips.surfaces) <= 2 * 10


def test_closed_loop_ends_with_the_error_of_a_camera() -> None:
    clips = Clips(SourceError(SourceErrorCode.DECODE_FAILED, "clip.mp4 is broken"))
    with pytest.raises(AppError, match=r"the limit could not be measured: clip\.mp4 is broken"):
        measure_limit(PLAN, open_source=clips.open, runs=[run_batch], seconds=5.0)


def test_closed_loop_ends_with_the_error_of_a_context() -> None:
    def fail(frames: Sequence[Frame[SyntheticSurface]], min_scores: Sequence[float]) -> list[Detections]:
        raise ValueError("no such tensor")

    with pytest.raises(AppError, match="no such tensor"):
        measure_limit(PLAN, open_source=Clips().open, runs=[fail], seconds=5.0)
