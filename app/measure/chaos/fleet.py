"""The cameras of a chaos run: those that nothing is done to, those that fail, and guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from app.measure.chaos.cases import Case, Role
from app.measure.chaos.clips import CLIPS, FPS, draw_clip
from app.measure.chaos.plan import Injection, Lane
from app.simulator.process import ProcessOptions, SimulatorProcess

_GUESTS = "guests"


class Target(Protocol):
    """What cameras are registered with; `ServedService` is one."""

    def register(self, **camera: Any) -> None: ...

    def change(self, camera_id: str, **fields: Any) -> None: ...

    def remove(self, camera_id: str) -> None: ...


class Fleet:
    """Simulators as processes, one for all undisturbed cameras and one for each that fails. Blocking, one thread.

    A camera that fails has a server of its own, since some faults hit the whole server.
    """

    def __init__(self, folder: Path, *, steady: int, lanes: Sequence[Lane], seed: int) -> None:
        self.steady = tuple(f"steady-{number}" for number in range(steady))
        self.lanes = tuple(lanes)
        self._folder = folder
        self._seed = seed
        self._stack = ExitStack()
        self._simulators: dict[str, SimulatorProcess] = {}
        self._urls: dict[str, str] = {}

    def __enter__(self) -> Fleet:
        try:
            plain = draw_clip(self._folder, "plain")
            steady = self._simulator("steady")
            for number, name in enumerate(self.steady):
                phase_s = number / FPS / len(self.steady)
                self._urls[name] = steady.add_camera(name, plain, phase_s=phase_s)
            self._simulator(_GUESTS)
            for lane in self.lanes:
                if lane.role == "guest":
                    continue
                simulator = self._simulator(lane.camera)
                self._urls[lane.camera] = simulator.add_camera(lane.camera, plain)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prepare(self, cases: Sequence[Case]) -> None:
        """Draw and load the clips that the cases need."""
        for name in dict.fromkeys(case.clip for case in cases if case.clip is not None):
            clip = draw_clip(self._folder, name)
            for lane in self.lanes:
                if any(case.clip == name and case.role == lane.role for case in cases):
                    self._simulators[lane.camera].load_clip(clip)

    def rehearse(self, cases: Sequence[Case], target: Target) -> tuple[str, ...]:
        """Register a camera for each clip that the cases show, so that pools and caches fill; give their ids."""
        names = tuple(dict.fromkeys(case.clip for case in cases if case.clip is not None))
        for name in names:
            url = self._simulators[_GUESTS].add_camera(f"warm-{name}", draw_clip(self._folder, name))
            target.register(id=f"warm-{name}", url=url, max_fps=FPS)
        return tuple(f"warm-{name}" for name in names)

    def dismiss(self, cameras: Sequence[str], target: Target) -> None:
        """Remove cameras that `rehearse` registered."""
        for camera in cameras:
            target.remove(camera)
            self._simulators[_GUESTS].remove_camera(camera)

    def register(self, target: Target) -> None:
        """Register all but guests."""
        for name in self.steady:
            target.register(id=name, url=self._urls[name])
        for lane in self.lanes:
            if lane.role != "guest":
                transport = "udp" if lane.role == "udp" else "auto"
                target.register(id=lane.camera, url=self._urls[lane.camera], transport=transport)

    def begin(self, injection: Injection, target: Target) -> None:
        case = injection.case
        if case.role == "guest":
            target.register(id=injection.camera, url=case.url or self._guest(injection), **case.fields)
        elif case.url is not None:
            target.change(injection.camera, url=case.url)
        else:
            fault = case.fault.replace("CLIP", case.clip or "")
            self._simulators[injection.camera].set_fault(injection.camera, fault)

    def end(self, injection: Injection, target: Target) -> None:
        case = injection.case
        if case.role == "guest":
            target.remove(injection.camera)
            if case.url is None:
                self._simulators[_GUESTS].remove_camera(injection.camera)
        elif case.url is not None:
            target.change(injection.camera, url=self._urls[injection.camera])
        elif case.lasts_s and not case.fault.startswith("restart"):
            self._simulators[injection.camera].set_fault(injection.camera, "ok")

    def fps(self, injection: Injection) -> float:
        """Frames a second that its camera sends when all is well."""
        case = injection.case
        return CLIPS[case.clip].fps if case.role == "guest" and case.clip is not None else FPS

    def sent(self) -> Mapping[str, int]:
        """Frames that the undisturbed cameras have sent so far."""
        return {name: int(stats["frames_sent"]) for name, stats in self._simulators["steady"].stats().items()}

    def _guest(self, injection: Injection) -> str:
        assert injection.case.clip is not None
        return self._simulators[_GUESTS].add_camera(injection.camera, draw_clip(self._folder, injection.case.clip))

    def _simulator(self, name: str) -> SimulatorProcess:
        simulator = self._stack.enter_context(SimulatorProcess(options=ProcessOptions(seed=self._seed)))
        self._simulators[name] = simulator
        return simulator


def make_lanes(needed: Sequence[Role], *, victims: int) -> tuple[Lane, ...]:
    """The cameras that fail: as many victims as wanted, and one of each other role."""
    found = [Lane(camera=f"victim-{number}", role="victim") for number in range(victims) if "victim" in needed]
    found += [Lane(camera="udp", role="udp")] if "udp" in needed else []
    found += [Lane(camera=_GUESTS, role="guest")] if "guest" in needed else []
    return tuple(found)
