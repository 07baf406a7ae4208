"""A profile as a Chrome trace, which Perfetto and chrome://tracing show.

Source: the Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.measure.profile.memory import MemorySample
from app.measure.profile.spans import Recorder


def chrome_trace(recorders: Mapping[str, Recorder], memory: tuple[MemorySample, ...] = ()) -> dict[str, Any]:
    """The spans of each measurement as a process of its own, its threads by name; memory as a counter. Times in µs."""
    events: list[dict[str, Any]] = []
    starts = [span.began_s for recorder in recorders.values() for span in recorder.spans]
    zero_s = min(starts, default=0.0)
    for process, (name, recorder) in enumerate(recorders.items(), start=1):
        events.append(_named("process_name", name, process, 0))
        events += (_named("thread_name", thread, process, tid) for tid, thread in recorder.threads.items())
        for span in recorder.spans:
            args = {"cpu_ms": 1e3 * span.cpu_s, "own_ms": 1e3 * span.own_s}
            if span.device_s is not None:
                args["device_ms"] = 1e3 * span.device_s
            events.append(
                {
                    "name": span.stage,
                    "cat": name,
                    "ph": "X",
                    "ts": 1e6 * (span.began_s - zero_s),
                    "dur": 1e6 * span.wall_s,
                    "pid": process,
                    "tid": span.thread,
                    "args": args,
                }
            )
    for sample in memory:
        if sample.at_s >= zero_s:
            counted = {"ph": "C", "name": "memory", "ts": 1e6 * (sample.at_s - zero_s), "pid": 1, "tid": 0}
            events.append({**counted, "args": {"rss_mib": sample.rss_bytes / 2**20}})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(what: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
