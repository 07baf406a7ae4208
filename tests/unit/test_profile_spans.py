"""What a profile records of stages: their own time, in any thread, only while it is wanted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from app.measure.profile.memory import MemorySample
from app.measure.profile.spans import Recorder
from app.measure.profile.trace import chrome_trace
from app.nvtx import stage


class Ticks:
    """Clocks of a thread that never waits: each time that one is asked, it is a second later."""

    def __init__(self) -> None:
        self._times = map(float, count())

    def __call__(self) -> float:
        return next(self._times)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    yield Recorder(clock=Ticks(), thread_clock=Ticks())


def test_own_time_leaves_out_the_stages_inside(recorder: Recorder) -> None:
    with recorder.span("read"):
        with recorder.span("decode"):
            pass
        with recorder.span("decode"):
            pass
    first, second, read = recorder.spans
    assert (first.stage, second.stage, read.stage) == ("decode", "decode", "read")
    assert first.own_s == first.wall_s == 1.0
    assert read.wall_s == 5.0
    assert (read.own_s, read.cpu_s) == (3.0, 3.0)
    assert read.process_s is None


def test_process_time_is_taken_when_it_is_wanted() -> None:
    recorder = Recorder(process_clock=Ticks())
    with recorder.span("infer"), recorder.span("copy"):
        pass
    assert [span.process_s for span in recorder.spans] == [1.0, 2.0]


def test_the_device_dates_the_innermost_stage(recorder: Recorder) -> None:
    with recorder.span("wait"), recorder.span("infer"):
        recorder.device_took(0.25)
    assert [span.device_s for span in recorder.spans] == [0.25, None]


def test_nothing_is_recorded_while_paused(recorder: Recorder) -> None:
    with recorder.paused(), recorder.span("decode"):
        pass
    with recorder.span("read"):
        pass
    assert [span.stage for span in recorder.spans] == ["read"]


def test_spans_beyond_the_limit_are_counted_and_not_kept() -> None:
    recorder = Recorder(limit=1)
    for _ in range(3):
        with recorder.span("read"):
            pass
    assert len(recorder.spans) == 1
    assert recorder.lost == 2


def test_a_stage_that_fails_is_recorded_and_the_error_goes_on(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="bad frame"), recorder.span("decode"):
        raise ValueError("bad frame")
    assert [span.stage for span in recorder.spans] == ["decode"]


def test_the_pipelines_own_marks_are_recorded_while_watched(recorder: Recorder) -> None:
    with recorder.watching({"infer": "wait"}), stage("preprocess"), stage("infer"):
        pass
    with stage("infer"):
        pass
    assert [span.stage for span in recorder.spans] == ["wait", "preprocess"]


def test_threads_are_told_apart_by_name(recorder: Recorder) -> None:
    def work() -> None:
        with recorder.span("decode"):
            pass

    thread = threading.Thread(target=work, name="camera:gate-1")
    thread.start()
    thread.join()
    with recorder.span("publish"):
        pass
    decode, publish = recorder.spans
    assert decode.thread != publish.thread
    assert recorder.threads[decode.thread] == "camera:gate-1"


def test_a_trace_has_what_perfetto_reads(recorder: Recorder) -> None:
    with recorder.span("read"), recorder.span("decode"):
        pass
    samples = (MemorySample(at_s=2.0, step="components", rss_bytes=2**20, device=None),)
    trace = json.loads(json.dumps(chrome_trace({"components": recorder, "service": Recorder()}, samples)))
    events = trace["traceEvents"]
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    assert (spans["read"]["ts"], spans["read"]["dur"]) == (0.0, 3e6)
    assert (spans["decode"]["ts"], spans["decode"]["dur"]) == (1e6, 1e6)
    names = {(event["name"], event["args"]["name"]) for event in events if event["ph"] == "M"}
    assert names == {
        ("process_name", "components"),
        ("process_name", "service"),
        ("thread_name", threading.current_thread().name),
    }
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert named == {(spans["read"]["pid"], spans["read"]["tid"])}
    (memory,) = [event for event in events if event["ph"] == "C"]
    assert memory["args"] == {"rss_mib": 1.0}
    assert memory["ts"] == 2e6
