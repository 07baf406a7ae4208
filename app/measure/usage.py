"""Who used the cores between two moments."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from app.cores import available_cores
from app.measure.figures import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was used since the meter was made, and the memory in use now."""

    seconds: float
    usage: Usage
    rss_bytes: int


class UsageMeter:
    """Starts when it is made. Both that and `read` look into /proc: not on an event loop."""

    def __init__(self, simulator_pid: int | None = None) -> None:
        self._process = psutil.Process()
        self._simulator = None if simulator_pid is None else psutil.Process(simulator_pid)
        # On some of a machine's cores only, what the others do is not ours to tell.
        self._whole_machine = psutil.cpu_count() == available_cores()
        self.rss_bytes = self._rss_bytes()
        self._before = self._spent()
        self._at = time.monotonic()

    def read(self) -> Reading:
        seconds = time.monotonic() - self._at
        process, simulator, machine = (
            after - before for after, before in zip(self._spent(), self._before, strict=True)
        )
        others = max(0.0, machine - process - simulator) / seconds if self._whole_machine else None
        usage = Usage(process=process / seconds, simulator=simulator / seconds, others=others)
        return Reading(seconds=seconds, usage=usage, rss_bytes=self._rss_bytes())

    def _rss_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def _spent(self) -> tuple[float, float, float]:
        machine = psutil.cpu_times()
        idle_s = machine.idle + getattr(machine, "iowait", 0.0) + getattr(machine, "guest", 0.0)
        return _cpu_s(self._process), _cpu_s(self._simulator), sum(machine) - idle_s


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)
