"""One contestant's turn: fresh cameras, fresh processes, a warm-up, and a stretch of time that is measured."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from app.cores import available_cores
from app.errors import AppError
from app.measure.cameras import start_cameras
from app.measure.peers.contestants import Contestant
from app.measure.peers.job import Answer, Job, Seen
from app.measure.peers.speed import core_speed
from app.measure.peers.timeline import Timeline
from app.simulator.clip import Clip
from app.simulator.process import SimulatorProcess

START_S = 120.0  # until every camera gave a result: heavy packages are slow to load on few cores
STOP_S = 60.0
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What every contestant of a comparison runs on."""

    job: Job  # without cameras
    clip: Clip  # the job's, as the simulator sends it
    phases_s: tuple[float, ...]  # a camera each
    warm_up_s: float
    seconds: float
    ours: Mapping[str, Any]  # the options of `vidette` besides the precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one contestant did. `results` also has what came before and after the measured time."""

    began_at: float  # monotonic
    ended_at: float
    results: Sequence[Seen]
    timelines: Mapping[str, Timeline]  # by camera
    cpu_s: float  # of its processes
    memory_bytes: int  # of its processes at the end, memory that they share counted once
    simulator_cores: float
    other_cores: float | None  # in use by other programs; None when we may not use the whole machine
    frames_skipped: int  # that the cameras did not send, since nobody took what they had sent before
    late_ms: float  # the worst delay of a frame in the simulator
    speed: float  # of the cores, before and after; see `speed`
    details: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


def take_turn(
    contestant: Contestant,
    course: Course,
    *,
    environments: Path,
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> Turn:
    """Run one contestant. Blocking. Raises `AppError` with its last words when it fails."""
    speed_before = core_speed()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidette-peers-")))
        simulator = stack.enter_context(SimulatorProcess())
        urls = start_cameras(simulator, Path(course.job.clip), course.phases_s)
        options = {**course.ours, "phases_s": course.phases_s} if contestant.ours else {}
        whole = replace(course.job, cameras=urls, answer=str(folder / "answer.json"), options=options)
        jobs = contestant.jobs(whole)
        python = contestant.python(environments)
        processes = [stack.enter_context(_Process(contestant, job, python)) for job in jobs]
        _until_running(processes)
        _sleep(course.warm_up_s, processes)
        before = _Usage.read(processes, simulator.pid)
        _sleep(course.seconds, processes, on_tick)
        after = _Usage.read(processes, simulator.pid)
        memory_bytes = sum(process.memory_bytes() for process in processes)
        stats = simulator.stats()
        answers = [process.finish() for process in processes]
    took_s = after.at - before.at
    return Turn(
        began_at=before.at,
        ended_at=after.at,
        results=sorted((one for answer in answers for one in answer.results), key=lambda one: one.at),
        timelines={camera: Timeline(course.clip, stats[camera]["started_at"]) for camera in urls},
        cpu_s=after.cpu_s - before.cpu_s,
        memory_bytes=memory_bytes,
        simulator_cores=(after.simulator_cpu_s - before.simulator_cpu_s) / took_s,
        other_cores=_other_cores(before, after),
        frames_skipped=sum(each["frames_skipped"] for each in stats.values()),
        late_ms=max(each["late_max_ms"] for each in stats.values()),
        speed=(speed_before + core_speed()) / 2,
        details=answers[0].details,
    )


class _Process:
    """One of a contestant's processes; killed when the context ends before it does."""

    def __init__(self, contestant: Contestant, job: Job, python: str) -> None:
        self._contestant = contestant
        self._job = job
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context
        module = f"{__package__}.{contestant.module}"
        self._child = subprocess.Popen(
            [python, "-m", module, job.to_json()],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        self._root = psutil.Process(self._child.pid)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        self._errors.close()

    @property
    def is_running(self) -> bool:
        """Whether every camera gave a result. Raises `AppError` when the process has ended."""
        if self._child.poll() is not None:
            raise AppError(f"{self._contestant.name} ended before it was told to: {self._last_words()}")
        return self._job.running.exists()

    def cpu_s(self) -> float:
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._tree()))

    def memory_bytes(self) -> int:
        return sum(_proportional_bytes(each) for each in self._tree())

    def finish(self) -> Answer:
        """Tell it to stop and read its answer. Raises `AppError` when it has none."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            code = self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise AppError(f"{self._contestant.name} did not stop within {STOP_S:g} s") from None
        if code != 0:
            raise AppError(f"{self._contestant.name} ended with code {code}: {self._last_words()}")
        return Answer.read(Path(self._job.answer))

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    """A reading of who used the cores so far."""

    at: float
    cpu_s: float
    simulator_cpu_s: float
    busy_s: float  # of the whole machine

    @classmethod
    def read(cls, processes: Sequence[_Process], simulator_pid: int) -> _Usage:
        machine, simulator = psutil.cpu_times(), psutil.Process(simulator_pid).cpu_times()
        return cls(
            at=time.monotonic(),
            cpu_s=sum(process.cpu_s() for process in processes),
            simulator_cpu_s=simulator.user + simulator.system,
            busy_s=sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0),
        )


def _other_cores(before: _Usage, after: _Usage) -> float | None:
    if psutil.cpu_count() != available_cores():
        return None
    ours = after.cpu_s - before.cpu_s + after.simulator_cpu_s - before.simulator_cpu_s
    return max(0.0, after.busy_s - before.busy_s - ours) / (after.at - before.at)


def _proportional_bytes(process: psutil.Process) -> int:
    """Memory that several processes map is shared out among them, where the system tells (Linux)."""
    found = process.memory_full_info()
    return int(getattr(found, "pss", found.rss))


def _until_running(processes: Sequence[_Process]) -> None:
    ends_at = time.monotonic() + START_S
    while sum(process.is_running for process in processes) < len(processes):
        if time.monotonic() > ends_at:
            raise AppError(f"a camera showed no result within {START_S:g} s")
        time.sleep(_POLL_S)


def _sleep(
    seconds: float, processes: Sequence[_Process], on_tick: Callable[[float], None] = lambda done_s: None
) -> None:
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        time.sleep(min(0.25, left_s))
        on_tick(seconds - left_s)
        for process in processes:
            process.is_running  # noqa: B018 - raises when it has ended
