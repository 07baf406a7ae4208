"""One chaos run: a baseline, then the plan, then quiet again; and what was left behind."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import AppError
from app.measure.chaos.cases import Case, roles
from app.measure.chaos.clips import FPS
from app.measure.chaos.fleet import Fleet, make_lanes
from app.measure.chaos.invariants import Complaint
from app.measure.chaos.observer import Observer
from app.measure.chaos.plan import Injection, Plan, make_plan
from app.measure.chaos.target import Resources, ServedService, Subscriber

STALL_TIMEOUT_S = 2.0
BACKOFF_MAX_S = 2.0
# An attempt that meets a fault: FFmpeg looks for an answer as long as the stall timeout, twice at most.
ATTEMPT_S = 2 * STALL_TIMEOUT_S
_LOOK_S = 0.2
_START_S = 30.0
_SETTLE_S = 20.0
_REHEARSAL_S = 2.0
_CLIENT_S = 5.0
_AROUND_S = 2.0  # between two visits of everything that a dashboard asks for
# What allocators and thread pools may keep. A leak of anything in each fault is more.
THREADS, FDS, MEMORY_BYTES = 4, 4, 48 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What is to be run. `victims` cameras fail besides the `steady` ones; faults by chance fill `seconds`."""

    cases: tuple[Case, ...]
    steady: int = 4
    victims: int = 4
    seconds: float = 60.0
    baseline_s: float = 8.0
    clients: int = 0  # further WebSocket clients; every five seconds the eldest goes and another comes
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the service held at a moment, and how long it took to answer everything that a dashboard asks for."""

    at_s: float
    held: Resources
    answer_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosRun:
    """Everything that was seen; `faults_s` is the window of the faults."""

    options: ChaosOptions
    plan: Plan
    observer: Observer
    faults_s: tuple[float, float]
    before: Resources
    after: Resources
    samples: tuple[Sample, ...]
    seconds: float

    @property
    def fps(self) -> float:
        """Frames a second that each camera sends that is not a guest."""
        return float(FPS)

    @property
    def holds(self) -> bool:
        return not self.observer.violations


OnStage = Callable[[str, float], None]  # what is done now, and how many seconds it takes
OnTick = Callable[[float], None]


def run_chaos(
    options: ChaosOptions,
    folder: Path,
    *,
    on_stage: OnStage = lambda name, seconds: None,
    on_tick: OnTick = lambda done_s: None,
) -> ChaosRun:
    """Run it, in real time. Blocking. Raises `AppError` when it cannot be set up; what breaks is in the observer."""
    lanes = make_lanes(roles(options.cases), victims=options.victims)
    plan = make_plan(options.cases, lanes, seconds=options.seconds, seed=options.seed)
    on_stage("starting the service and its cameras", 0.0)
    with (
        Fleet(folder, steady=options.steady, lanes=lanes, seed=options.seed) as fleet,
        ServedService(folder, stall_timeout_s=STALL_TIMEOUT_S, backoff_max_s=BACKOFF_MAX_S) as service,
    ):
        fleet.prepare(options.cases)
        return _Conductor(options, plan, fleet, service, on_stage, on_tick).run()


class _Conductor:
    """Does what the plan says while it looks at the service."""

    def __init__(
        self,
        options: ChaosOptions,
        plan: Plan,
        fleet: Fleet,
        service: ServedService,
        on_stage: OnStage,
        on_tick: OnTick,
    ) -> None:
        self._options, self._plan, self._fleet, self._service = options, plan, fleet, service
        self._on_stage, self._on_tick = on_stage, on_tick
        self._observer = Observer(fleet.steady, attempt_s=ATTEMPT_S)
        self._started_at = time.monotonic()
        self._around_at = 0.0
        self._samples: list[Sample] = []
        self._subscriber: Subscriber | None = None
        self._crowd: deque[Subscriber] = deque()
        self._client_at = 0.0

    def run(self) -> ChaosRun:
        observer, service = self._observer, self._service
        self._subscriber = service.subscribe()
        try:
            self._fleet.register(service)
            self._until_all_run(
                {*self._fleet.steady, *(each.camera for each in self._fleet.lanes if each.role != "guest")}
            )
            self._rehearse()
            began_s, ended_s = self._baseline()
            observer.calm({name: self._fps(name, began_s, ended_s) for name in observer.steady})
            before = service.resources()
            window = self._inject()
            observer.judge(*window)
            after = self._settle(before)
            if self._subscriber.closed is not None:
                self._note(f"the WebSocket was closed: {self._subscriber.closed}")
        finally:
            for client in (self._subscriber, *self._crowd):
                client.close()
        self._stop()
        return ChaosRun(
            options=self._options,
            plan=self._plan,
            observer=observer,
            faults_s=window,
            before=before,
            after=after,
            samples=tuple(self._samples),
            seconds=self._now_s(),
        )

    def _now_s(self) -> float:
        return time.monotonic() - self._started_at

    def _look(self) -> None:
        """Take everything that came, then the state of every camera."""
        observer, subscriber = self._observer, self._subscriber
        assert subscriber is not None
        for received in subscriber.messages():
            observer.message(received.at - self._started_at, received.utc, received.message)
        cameras = self._service.cameras()
        observer.look(self._now_s(), cameras)
        if time.monotonic() - self._around_at > _AROUND_S:
            self._around_at = time.monotonic()
            self._service.look_around()
            answer_s = time.monotonic() - self._around_at
            self._samples.append(Sample(at_s=self._now_s(), held=self._service.resources(), answer_s=answer_s))

        if self._options.clients and time.monotonic() - self._client_at > _CLIENT_S:
            self._client_at = time.monotonic()
            self._exchange_client()

    def _exchange_client(self) -> None:
        if len(self._crowd) >= self._options.clients:
            self._crowd.popleft().close()
        while len(self._crowd) < self._options.clients:
            self._crowd.append(self._service.subscribe("?mode=latest", keep=False))

    def _watch(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0:
            self._look()
            self._on_tick(seconds - left_s)
            time.sleep(min(_LOOK_S, max(0.0, ends_at - time.monotonic())))

    def _rehearse(self) -> None:
        guests = self._fleet.rehearse(self._options.cases, self._service)
        self._until_all_run(guests)
        self._watch(_REHEARSAL_S)
        self._fleet.dismiss(guests, self._service)

    def _until_all_run(self, expected: Collection[str]) -> None:
        gives_up_at = time.monotonic() + _START_S
        while missing := [name for name in expected if not self._observer.log(name).ages]:
            if time.monotonic() > gives_up_at:
                raise AppError(f"camera {min(missing)} showed no picture within {_START_S:g} s of its registration")
            self._look()
            time.sleep(_LOOK_S)

    def _baseline(self) -> tuple[float, float]:
        self._on_stage("measuring the undisturbed cameras", self._options.baseline_s)
        began_s = self._now_s()
        self._watch(self._options.baseline_s)
        return began_s, self._now_s()

    def _fps(self, name: str, from_s: float, to_s: float) -> float:
        rate = self._observer.log(name).rate(from_s, to_s)
        if rate is None or rate[0] <= 0:
            raise AppError(f"camera {name} showed no pictures before anything was done to any camera")
        return rate[0]

    def _inject(self) -> tuple[float, float]:
        """Carry the plan out; the window that it took."""
        plan = self._plan
        self._on_stage(f"injecting {len(plan.injections)} faults", plan.seconds)
        began_s = self._now_s()
        events = _events(plan.injections)
        while events:
            elapsed_s = self._now_s() - began_s
            while events and events[0][0] <= elapsed_s:
                _at_s, _order, what, injection = heapq.heappop(events)
                self._carry_out(what, injection)
            self._look()
            self._on_tick(elapsed_s)
            due_s = events[0][0] - (self._now_s() - began_s) if events else 0.0
            time.sleep(min(_LOOK_S, max(0.0, due_s)))
        return began_s, self._now_s()

    def _carry_out(self, what: str, injection: Injection) -> None:
        observer = self._observer
        if what == "begin":
            observer.began(self._now_s(), injection)
            self._fleet.begin(injection, self._service)
        elif what == "end":
            self._look()  # the state that the camera is in when the fault ends
            self._fleet.end(injection, self._service)
            observer.ended(self._now_s(), injection)
        else:
            self._look()
            observer.settled(self._now_s(), injection)

    def _settle(self, before: Resources) -> Resources:
        """Wait until the service holds no more than before, or long enough; complain about what it does."""
        self._on_stage("settling", _SETTLE_S)
        gives_up_at = time.monotonic() + _SETTLE_S
        while (complaints := _grown(before, after := self._service.resources())) and time.monotonic() < gives_up_at:
            self._watch(1.0)
        for complaint in complaints:
            self._observer.complain(self._now_s(), "all", complaint)
        return after

    def _stop(self) -> None:
        code, log = self._service.stop(), self._service.log()
        if code != 0:
            self._note(f"the service ended with code {code}")
        if "Traceback" in log:
            self._note("the log holds a traceback: " + log[log.index("Traceback") :][:2000])

    def _note(self, detail: str) -> None:
        self._observer.complain(self._now_s(), "all", ("alive", detail))


def _events(injections: Iterable[Injection]) -> list[tuple[float, int, str, Injection]]:
    """What is to be done when: a heap. The numbers keep the order of what falls together."""
    events = []
    for injection in injections:
        for order, (at_s, what) in enumerate(
            ((injection.at_s, "begin"), (injection.ends_at_s, "end"), (injection.settled_at_s - 0.1, "settle"))
        ):
            events.append((at_s, 3 * injection.number + order, what, injection))
    heapq.heapify(events)
    return events


def _grown(before: Resources, after: Resources) -> Sequence[Complaint]:
    found: list[Complaint] = []
    if after.threads > before.threads + THREADS:
        found.append(("flat", f"{after.threads} threads, {before.threads} before"))
    if after.fds > before.fds + FDS:
        found.append(("flat", f"{after.fds} descriptors, {before.fds} before"))
    if after.anonymous_bytes > before.anonymous_bytes + MEMORY_BYTES:
        grown_mib = (after.anonymous_bytes - before.anonymous_bytes) / 2**20
        found.append(("flat", f"{grown_mib:.0f} MiB more memory than before"))
    return found
