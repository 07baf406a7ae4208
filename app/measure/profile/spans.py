"""What was done when, by which thread, and what it cost: the raw material of a profile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias

from app import nvtx

Clock: TypeAlias = Callable[[], float]
MAX_SPANS = 400_000  # some 50 MB; what comes later is counted as lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One passage through one stage. Own times are less those of the stages inside it."""

    stage: str
    thread: int  # the system's number
    began_s: float  # perf_counter
    wall_s: float
    own_s: float
    cpu_s: float  # own CPU time of the thread
    process_s: float | None  # own CPU time of the whole process: means something where nothing else runs in it
    device_s: float | None  # by the device's own events


@dataclass(slots=True, kw_only=True)
class _Open:
    """A stage that a thread is inside of."""

    began_s: float
    cpu_s: float
    process_s: float
    device_s: float | None = None
    nested: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # wall, thread and process CPU of those inside


class _Thread(threading.local):
    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.number = threading.get_native_id()


class Recorder:
    """Collects spans, from any thread. `process_clock`: the process' CPU time, which costs more to ask for."""

    def __init__(
        self,
        *,
        clock: Clock = time.perf_counter,
        thread_clock: Clock = time.thread_time,
        process_clock: Clock | None = None,
        limit: int = MAX_SPANS,
    ) -> None:
        self.spans: list[Span] = []
        self.threads: dict[int, str] = {}  # names, by number
        self.lost = 0
        self.recording = True
        self._clock = clock
        self._thread_clock = thread_clock
        self._process_clock = process_clock
        self._limit = limit
        self._thread = _Thread()

    def span(self, stage: str) -> nvtx.Range:
        """A stage: `with recorder.span("read"):`. Stages nest."""
        return _Stage(self, stage)

    @contextmanager
    def watching(self, names: Mapping[str, str] | None = None) -> Iterator[None]:
        """Record the stages that the pipeline itself marks (see `app.nvtx`), under other names where given."""

        def watch(stage: nvtx.Stage, inner: nvtx.Range) -> nvtx.Range:
            return _Stage(self, (names or {}).get(stage, stage), inner)

        with nvtx.watched(watch):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing meanwhile: what is made ready, and what only warms up."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    def device_took(self, seconds: float) -> None:
        """What the device itself says of the innermost stage that this thread is inside of."""
        self._thread.open[-1].device_s = seconds

    def enter(self) -> None:
        process_s = 0.0 if self._process_clock is None else self._process_clock()
        # The wall clock last here and first below, so that asking the others is not in it.
        self._thread.open.append(_Open(process_s=process_s, cpu_s=self._thread_clock(), began_s=self._clock()))

    def leave(self, stage: str) -> None:
        ended_s, cpu_s = self._clock(), self._thread_clock()
        process_s = 0.0 if self._process_clock is None else self._process_clock()
        open_ = self._thread.open.pop()
        spent = (ended_s - open_.began_s, cpu_s - open_.cpu_s, process_s - open_.process_s)
        wall_s, own_cpu_s, own_process_s = (all_ - inner for all_, inner in zip(spent, open_.nested, strict=True))
        if self._thread.open:
            outer = self._thread.open[-1].nested
            for number, each in enumerate(spent):
                outer[number] += each
        if not self.recording:
            return
        if len(self.spans) >= self._limit:
            self.lost += 1
            return
        number = self._thread.number
        if number not in self.threads:
            self.threads[number] = threading.current_thread().name
        self.spans.append(
            Span(
                stage=stage,
                thread=number,
                began_s=open_.began_s,
                wall_s=spent[0],
                own_s=wall_s,
                cpu_s=own_cpu_s,
                process_s=None if self._process_clock is None else own_process_s,
                device_s=open_.device_s,
            )
        )


class _Stage:
    """A stage's context; holds nothing of one use, so that any number of threads can be inside."""

    __slots__ = ("_inner", "_recorder", "_stage")

    def __init__(self, recorder: Recorder, stage: str, inner: nvtx.Range | None = None) -> None:
        self._recorder = recorder
        self._stage = stage
        self._inner = inner

    def __enter__(self) -> None:
        if self._inner is not None:
            self._inner.__enter__()
        self._recorder.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.leave(self._stage)
        if self._inner is not None:
            self._inner.__exit__(kind, error, trace)
