"""What the service costs beside decoding and inference, measured on synthetic cameras."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.cameras.source import SourceRequest
from app.measure.overhead import InstantRunner, MeteredSource, OverheadPlan, measure_overhead
from app.measure.threads import CONTEXTS, LOOP, READERS
from app.settings import load_settings
from app.types import Frame
from tests.support.fakes import make_source_frame


def frame_of(number: int) -> Frame[SyntheticSurface]:
    source = make_source_frame(number)
    return Frame(camera_id="a", seq=number, pts_s=source.pts_s, times=source.times, surface=source.surface)


def test_overhead_is_what_the_process_spent_less_the_source_and_the_detector(tmp_path: Path) -> None:
    settings = load_settings(overrides={"data_dir": tmp_path, "backend": {"device": "synthetic"}}, environ={})
    plan = OverheadPlan(cameras=2, offered_fps=200.0, subscribers=1, seconds=0.3)
    ticks: list[float] = []

    run = measure_overhead(plan, settings, contexts=2, on_tick=ticks.append)

    assert run.decoded > 10
    assert 0 < run.published <= run.decoded + 2  # a frame may be on its way when the measurement begins
    assert run.batches > 0
    assert run.source_s > 0
    assert run.detector_s > 0
    assert run.own_s == pytest.approx(run.process_s - run.source_s - run.detector_s)
    assert run.own_s == pytest.approx(sum(run.threads_s.values()), abs=1e-3)
    assert all(run.threads_s[name] > 0 for name in (READERS, LOOP, CONTEXTS))
    assert run.us_per_decoded == pytest.approx(1e6 * run.own_s / run.decoded)
    assert ticks


def test_metered_source_gives_out_the_frames_of_its_camera() -> None:
    source = MeteredSource(SourceRequest(camera_id="a", url="rtsp://synthetic/a?fps=1000"))
    frames = source.frames()
    first, second = next(frames), next(frames)
    assert first.pts_s == 0.0
    assert second.pts_s == pytest.approx(0.001)
    assert source.cpu_s > 0
    source.interrupt()
    assert list(frames) == []


def test_instant_runner_finds_one_object_in_every_frame() -> None:
    runner = InstantRunner()
    frames = [frame_of(1), frame_of(2)]
    found = runner.run(frames, [0.25, 0.25])
    assert [(each.camera_id, each.seq, len(each)) for each in found] == [("a", 1, 1), ("a", 2, 1)]
    assert runner.cpu_s > 0
