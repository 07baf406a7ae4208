"""NVTX ranges: what a profiler sees, and what they cost when none listens."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.nvtx import STAGES, open_ranges, stage


class Profiler:
    """The `nvtx` package with a profiler listening: it keeps each thread's pushes and pops."""

    def __init__(self, *, listening: bool = True) -> None:
        self.listening = listening
        self.seen: list[str] = []

    def get_domain(self, name: str) -> Profiler:
        assert name == "vidette"
        return self

    def get_event_attributes(self, *, message: str) -> str | None:
        return message if self.listening else None

    def push_range(self, attributes: str) -> None:
        self.seen.append(f"{threading.current_thread().name}: {attributes}")

    def pop_range(self) -> None:
        self.seen.append(f"{threading.current_thread().name}: end")


def missing() -> Any:
    raise ImportError("No module named 'nvtx'")


def test_a_profiler_sees_nested_stages_and_their_ends() -> None:
    profiler = Profiler()
    ranges = open_ranges(lambda: profiler)

    def work() -> None:
        with ranges["preprocess"], ranges["infer"], ranges["infer"]:
            pass

    thread = threading.Thread(target=work, name="context:0")
    thread.start()
    thread.join()
    starts = [f"context:0: {name}" for name in ("preprocess", "infer", "infer")]
    assert profiler.seen == [*starts, *["context:0: end"] * 3]


def test_a_stage_that_fails_ends_its_range_and_the_error_goes_on() -> None:
    profiler = Profiler()
    with pytest.raises(ValueError, match="bad frame"), open_ranges(lambda: profiler)["decode"]:
        raise ValueError("bad frame")
    assert [each.partition(": ")[2] for each in profiler.seen] == ["decode", "end"]


def test_without_a_profiler_or_the_package_nothing_is_called() -> None:
    profiler = Profiler(listening=False)
    for load in (lambda: profiler, missing):
        ranges = open_ranges(load)
        assert tuple(ranges) == STAGES
        with ranges["infer"], ranges["infer"]:
            pass
    assert profiler.seen == []


def test_every_stage_of_the_metrics_that_a_thread_works_in_has_a_range() -> None:
    assert set(STAGES) == {"decode", "preprocess", "infer", "postprocess", "publish"}
    for name in STAGES:
        with stage(name):
            pass
