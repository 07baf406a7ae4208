"""The same busy camera without and with many WebSocket clients, by turns, in one run of one service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from app.errors import AppError
from app.measure.figures import Percentiles, percentiles
from app.measure.subscribers.child import Child
from app.simulator.process import SimulatorProcess

CAMERA = "busy"
_STREAM = f"/api/v1/ws/detections?camera={CAMERA}&mode="
_STEPS = 4  # in which clients come, to see what each step costs in memory
_WARM_UP_S, _SETTLE_S, _LOOK_S, _POLL_S = 3.0, 2.0, 0.5, 0.05
_START_S = 120.0  # the first start measures the engine
_EVICTION_S = 60.0  # beyond the stand-still time
_SOCKSTAT = Path("/proc/net/sockstat")
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdPlan:
    """`settings` are overrides of the service's. Clients shake hands; `stuck` of them then read nothing."""

    settings: Mapping[str, Any]
    clients: int
    stuck: int
    mode: str
    seconds: float
    turns: int
    stand_still_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One stretch of time. Cores are CPU seconds a second."""

    seconds: float
    published_fps: float
    decoded_fps: float
    dropped: int
    service_cores: float
    loop_cores: float  # of them, the event loop's thread
    clients_cores: float
    simulator_cores: float
    sent_per_s: float  # messages handed to connections
    read_per_s: float  # messages that clients read
    results_per_s: float  # that a client got
    missed_per_s: float  # of live and of stuck clients; told as gaps
    delay_ms: Percentiles  # from a result's publication to a client that has read its message

    @property
    def cores(self) -> float:
        return self.service_cores + self.clients_cores + self.simulator_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What became of the stuck clients."""

    evicted: int  # closed with 1013 by the service's count
    first_s: float | None  # after the last one had connected
    last_s: float | None
    saw_1013: int  # of those that were woken, how many read the close frame with this code
    kernel_bytes: float | None  # of socket buffers, a stuck client, both ends; None: /proc does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdRun:
    """One camera's measurement."""

    fps: float
    without: tuple[Stretch, ...]
    with_clients: tuple[Stretch, ...]
    connect_s: float
    client_bytes: float  # resident memory of the service, a client more
    eviction: Eviction
    ledger_holds: bool
    disorder: int  # messages that came out of seq order to a client
    gaps: int  # gap notices that the clients that read them were told

    @property
    def ratios(self) -> tuple[float, ...]:
        """Published frames with clients against without, turn by turn."""
        return tuple(b.published_fps / a.published_fps for a, b in zip(self.without, self.with_clients, strict=True))


class Crowd:
    """The service, its clients and its camera, each in a process of its own. Blocking, one thread."""

    def __init__(self, plan: CrowdPlan, service: Child, clients: Child, simulator: SimulatorProcess, port: int) -> None:
        self._plan = plan
        self._service = service
        self._clients = clients
        self._simulator = simulator
        self._simulator_process = psutil.Process(simulator.pid)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)
        self._port = port
        self._ledger_holds = True

    def run(
        self, clip: Path, fps: float, on_step: Callable[[str, float], None], on_tick: Callable[[float], None]
    ) -> CrowdRun:
        """Measure one camera that shows this clip."""
        plan, self._ledger_holds = self._plan, True
        before = self._clients.ask("look")
        url = self._simulator.add_camera(f"{CAMERA}-{fps:g}", clip)
        self._http.post("/api/v1/cameras", json={"id": CAMERA, "url": url}).raise_for_status()
        self._wait(lambda: self._look()["published"] > 0, _START_S, "the camera has a result")
        time.sleep(min(_WARM_UP_S, plan.seconds))
        without, with_clients, memory, eviction = [], [], list[tuple[int, int]](), None
        connect_s = 0.0
        for turn in range(plan.turns):
            on_step(f"{fps:g} fps, no client", plan.seconds)
            without.append(self._stretch(on_tick))
            on_step(f"{fps:g} fps, {plan.clients} clients, {plan.stuck} of them stuck", plan.seconds)
            kernel, closed = _kernel_bytes(), int(self._look()["closed"]["1013"])
            grown, connect_s = self._connect()
            memory = memory or grown
            connected_at = time.monotonic()
            time.sleep(min(_SETTLE_S, plan.seconds))
            with_clients.append(self._stretch(on_tick))
            if turn == plan.turns - 1:
                on_step("waiting for the stuck clients to be closed", plan.stand_still_s)
                eviction = self._evictions(connected_at, kernel, closed, on_tick)
            self._clients.ask("leave")
            self._wait(lambda: self._look()["clients"] == 0, 30.0, "the clients are gone")
        assert eviction is not None
        self._http.delete(f"/api/v1/cameras/{CAMERA}").raise_for_status()
        after = self._clients.ask("look")
        return CrowdRun(
            fps=fps,
            without=tuple(without),
            with_clients=tuple(with_clients),
            connect_s=connect_s,
            client_bytes=_slope(memory),
            eviction=eviction,
            ledger_holds=self._ledger_holds,
            disorder=after["disorder"] - before["disorder"],
            gaps=after["gaps"] - before["gaps"],
        )

    def close(self) -> None:
        self._http.close()

    def _look(self) -> dict[str, Any]:
        found = self._service.ask("look")
        self._ledger_holds &= found["decoded"] == found["published"] + found["dropped"] + found["in_flight"]
        return found

    def _connect(self) -> tuple[list[tuple[int, int]], float]:
        """Connect all clients in steps; clients and resident bytes after each, and how long it took."""
        plan, began = self._plan, time.monotonic()
        grown = [(0, int(self._look()["rss_bytes"]))]
        for step in range(_STEPS):
            live, stuck = (
                count * (step + 1) // _STEPS - count * step // _STEPS
                for count in (plan.clients - plan.stuck, plan.stuck)
            )
            self._clients.ask(
                "connect", host="127.0.0.1", port=self._port, path=_STREAM + plan.mode, live=live, stuck=stuck
            )
            found = self._look()
            grown.append((found["clients"], int(found["rss_bytes"])))
        return grown, time.monotonic() - began

    def _stretch(self, on_tick: Callable[[float], None]) -> Stretch:
        published_at: dict[int, float] = {}
        samples: list[tuple[int, float]] = []
        self._clients.ask("look")  # samples from before are not ours
        a, crowd_a, simulator_a = self._look(), self._clients.ask("look"), _cpu_s(self._simulator_process)
        ends_at = time.monotonic() + self._plan.seconds
        while (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            on_tick(self._plan.seconds - left_s)
            crowd_b, b = self._clients.ask("look"), self._look()
            samples += [(seq, at) for seq, at in crowd_b["samples"]]
            published_at.update({int(seq): at for seq, at in b["published_at"].items()})
        simulator_b, seconds = _cpu_s(self._simulator_process), b["at"] - a["at"]
        delays = [1e3 * (at - published_at[seq]) for seq, at in samples if seq in published_at]
        return Stretch(
            seconds=seconds,
            published_fps=(b["published"] - a["published"]) / seconds,
            decoded_fps=(b["decoded"] - a["decoded"]) / seconds,
            dropped=b["dropped"] - a["dropped"],
            service_cores=(b["cpu_s"] - a["cpu_s"]) / seconds,
            loop_cores=(b["threads_s"]["event loop"] - a["threads_s"]["event loop"]) / seconds,
            clients_cores=(crowd_b["cpu_s"] - crowd_a["cpu_s"]) / seconds,
            simulator_cores=(simulator_b - simulator_a) / seconds,
            sent_per_s=(b["sent"] - a["sent"]) / seconds,
            read_per_s=(crowd_b["messages"] - crowd_a["messages"]) / seconds,
            results_per_s=len(samples) / max(1, crowd_b["sampled"]) / seconds,
            missed_per_s=(b["missed"] - a["missed"]) / seconds,
            delay_ms=percentiles(delays),
        )

    def _evictions(
        self, connected_at: float, kernel_before: int | None, closed_before: int, on_tick: Callable[[float], None]
    ) -> Eviction:
        plan, began = self._plan, time.monotonic()
        first_s = last_s = kernel = None
        evicted = 0
        while time.monotonic() - began < plan.stand_still_s + _EVICTION_S and evicted < plan.stuck:
            time.sleep(_LOOK_S)
            on_tick(time.monotonic() - began)
            now = self._look()["closed"]["1013"] - closed_before
            if now > evicted:
                evicted, last_s = now, time.monotonic() - connected_at
                first_s = first_s or last_s
            elif not evicted:
                kernel = _kernel_bytes()
        seen_before = self._clients.ask("look")["codes"].get("1013", 0)
        codes = self._clients.ask("wake")["codes"]
        per_client = None
        if kernel is not None and kernel_before is not None and plan.stuck:
            per_client = max(0.0, (kernel - kernel_before) / plan.stuck)
        return Eviction(
            evicted=evicted,
            first_s=first_s,
            last_s=last_s,
            saw_1013=codes.get("1013", 0) - seen_before,
            kernel_bytes=per_client,
        )

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        ends_at = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > ends_at:
                raise AppError(f"not within {timeout_s:g} s: {what}")
            time.sleep(_POLL_S)


@contextmanager
def crowd(plan: CrowdPlan) -> Iterator[Crowd]:
    """Everything that is needed, started; ended when the context is."""
    job = {"settings": plan.settings, "stand_still_s": plan.stand_still_s}
    with (
        SimulatorProcess() as simulator,
        Child("app.measure.subscribers.service", job) as service,
        Child("app.measure.subscribers.clients", {}) as clients,
    ):
        found = Crowd(plan, service, clients, simulator, int(service.answer(_START_S)["port"]))
        try:
            yield found
        finally:
            found.close()


def _slope(points: Sequence[tuple[int, int]]) -> float:
    """Bytes a client, by least squares."""
    counts, sizes = (np.array(each, dtype=np.float64) for each in zip(*points, strict=True))
    return float(np.polyfit(counts, sizes, 1)[0])


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _kernel_bytes() -> int | None:
    """What TCP's buffers take on this machine now."""
    try:
        lines = _SOCKSTAT.read_text(encoding="ascii").splitlines()
        words = next(line for line in lines if line.startswith("TCP:")).split()
        return int(words[words.index("mem") + 1]) * _PAGE_BYTES
    except (OSError, StopIteration, ValueError):
        return None
