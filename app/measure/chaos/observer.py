"""What is seen of the service while its cameras fail, and what of it must not be. Pure: time is an argument."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.measure.chaos.invariants import CameraCheck, Complaint, Violation
from app.measure.chaos.plan import Injection
from app.measure.chaos.recovery import Outcome, Recovery

FPS_RATIO = 0.97
# Others are judged from a fault's beginning to its recovery, and for so long at least: a frame more or less is nothing.
JUDGED_S = 6.0
# A camera that shows nothing for so long at a window's edge was silent there; less is lateness, which `age` bounds.
_EDGE_S = 1.0
# A machine may be busy with something else for a moment, and what comes late is not lost: of the whole run nothing is
# forgiven.
_LATE_S = 0.4
# Codes of a fault may still be told so long after its end.
_ECHO_S = 8.0


@dataclass(frozen=True, slots=True)
class Look:
    """Frames that a camera had decoded and published at a moment."""

    at_s: float
    decoded: int
    published: int


class Mark(NamedTuple):
    """When a result came, its number, and its place on the camera's own clock."""

    at_s: float
    seq: int
    pts_s: float


@dataclass
class CameraLog:
    """What was seen of one camera."""

    check: CameraCheck = field(default_factory=CameraCheck)
    looks: list[Look] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    state: str = "connecting"
    frames: Mapping[str, Any] = field(default_factory=dict)
    ages: list[tuple[float, float]] = field(default_factory=list)  # when a result came, and how old it was

    def decoded(self, from_s: float, to_s: float) -> int:
        """Frames decoded between the looks within a window."""
        within = [look for look in self.looks if from_s <= look.at_s <= to_s]
        return within[-1].decoded - within[0].decoded if within else 0

    def rate(self, from_s: float, to_s: float) -> tuple[float, float] | None:
        """(frames a second of the camera's own time, seconds) in a window; None when there is nothing to tell.

        By the numbers of results: they count decoded frames, so a frame that was dropped counts, and one that never
        came does not. By the camera's clock, since a simulator that was late itself is not the service's fault.
        """
        if to_s <= from_s:
            return None
        within = self.marks[bisect_left(self.marks, (from_s,)) : bisect_left(self.marks, (to_s,))]
        if not within:
            return 0.0, to_s - from_s
        first, last = within[0], within[-1]
        silent_s = sum(gap_s for gap_s in (first.at_s - from_s, to_s - last.at_s) if gap_s > _EDGE_S)
        seconds = last.pts_s - first.pts_s + silent_s
        return ((last.seq - first.seq) / seconds, seconds) if seconds > 0 else None


class Observer:
    """Takes every look and every message, and keeps what broke. One thread."""

    def __init__(self, steady: Sequence[str], *, attempt_s: float) -> None:
        self.steady = tuple(steady)
        self.violations: list[Violation] = []
        self.outcomes: list[Outcome] = []
        self.baseline: dict[str, float] = {}
        self._attempt_s = attempt_s
        self._logs: dict[str, CameraLog] = {}
        self._watching: dict[str, Recovery] = {}
        self._last_fault: dict[str, tuple[Injection, float]] = {}  # and when it is no excuse any more
        self._told: set[tuple[str, str, str]] = set()
        self._calm = False  # whether steady cameras are expected to be up

    def log(self, camera: str) -> CameraLog:
        return self._logs.setdefault(camera, CameraLog())

    @property
    def logs(self) -> Mapping[str, CameraLog]:
        return self._logs

    def look(self, at_s: float, cameras: Iterable[Mapping[str, Any]]) -> None:
        """Take `GET /cameras`."""
        for camera in cameras:
            name, status = str(camera["id"]), camera["status"]
            log, frames = self.log(name), camera["status"]["frames"]
            self._complain(at_s, name, log.check.status(status))
            log.looks.append(Look(at_s, frames["decoded"], frames["published"]))
            log.frames = frames
            recovery = self._watching.get(name)
            if recovery is not None:
                recovery.status(at_s, status)
        for name, recovery in self._watching.items():
            sentence = recovery.late(at_s)
            if sentence is not None:
                self._complain(at_s, name, [("recovery", sentence)])

    def message(self, at_s: float, utc: float, message: Mapping[str, Any]) -> None:
        """Take a message of the WebSocket."""
        kind = message["type"]
        if kind == "detections":
            self._result(at_s, utc, message)
        elif kind == "camera":
            self._change(at_s, message)

    def calm(self, baseline: Mapping[str, float]) -> None:
        """From now on nothing may happen to undisturbed cameras, which deliver `baseline` frames a second."""
        self.baseline = dict(baseline)
        self._calm = True

    def began(self, at_s: float, injection: Injection) -> None:
        log = self.log(injection.camera)
        recovery = Recovery(injection, began_s=at_s, state=log.state, attempt_s=self._attempt_s)
        self._watching[injection.camera] = recovery
        self._last_fault[injection.camera] = (injection, float("inf"))
        self.outcomes.append(recovery.outcome)
        if injection.case.role == "guest" and injection.case.clip is not None:
            recovery.ended(at_s)  # nothing is wrong with it: it has to show pictures

    def ended(self, at_s: float, injection: Injection) -> None:
        if injection.case.role != "guest":
            self._watching[injection.camera].ended(at_s)
        self._last_fault[injection.camera] = (injection, at_s + _ECHO_S)

    def settled(self, at_s: float, injection: Injection) -> None:
        """Stop watching an injection's camera."""
        recovery = self._watching.pop(injection.camera)
        outcome = recovery.outcome
        expects_pictures = injection.case.role != "guest" or injection.case.clip is not None
        is_late = not outcome.judged and outcome.recovered_s is None and expects_pictures
        if is_late and not (injection.case.outage and outcome.down_s is None):
            self._complain(at_s, injection.camera, [("recovery", "it showed no picture until its next fault")])

    def judge(self, from_s: float, to_s: float) -> None:
        """Judge what each fault did to cameras that nothing was done to, and all of them. Once, when all is over."""
        for outcome in self.outcomes:
            for name in self.steady:
                self._judge(outcome, name, until_s=to_s)
        for name, ratio in self.ratios(from_s, to_s).items():
            if ratio < FPS_RATIO:
                self._complain(to_s, name, [("fps", f"{ratio:.1%} of the baseline over all faults")], fault="all")

    def others(self, outcome: Outcome) -> dict[str, float]:
        """Each undisturbed camera's frames a second from a fault's beginning to its recovery, against its baseline."""
        return self.ratios(*_window(outcome))

    def ratios(self, from_s: float, to_s: float) -> dict[str, float]:
        """Each undisturbed camera's frames a second in a window, against its baseline."""
        rates = {name: self.log(name).rate(from_s, to_s) for name in self.steady}
        return {name: rate[0] / self.baseline[name] for name, rate in rates.items() if rate and self.baseline.get(name)}

    def complain(self, at_s: float, camera: str, invariant: Complaint) -> None:
        """Note what was found elsewhere."""
        self._complain(at_s, camera, [invariant])

    def dropped(self) -> dict[str, int]:
        """Frames of all cameras that came to nothing, by reason, as last seen."""
        total: Counter[str] = Counter()
        for log in self._logs.values():
            total.update(log.frames.get("dropped", {}))
        return dict(total)

    def _result(self, at_s: float, utc: float, message: Mapping[str, Any]) -> None:
        name = str(message["camera_id"])
        log = self.log(name)
        self._complain(at_s, name, log.check.result(message, utc=utc))
        if name in self.steady and message["pts_s"] is not None:
            log.marks.append(Mark(at_s, int(message["seq"]), float(message["pts_s"])))
        log.ages.append((at_s, float(message["timing_ms"]["total"]) / 1e3))
        recovery = self._watching.get(name)
        if recovery is not None:
            recovery.result(at_s)

    def _change(self, at_s: float, message: Mapping[str, Any]) -> None:
        name, state = str(message["camera_id"]), str(message["state"])
        self._complain(at_s, name, CameraCheck.change(message))
        self.log(name).state = state
        recovery = self._watching.get(name)
        if recovery is not None:
            recovery.change(at_s, message)
        if message["error"] is None or state != "retrying":
            return
        code, text = message["error"]["code"], message["error"]["message"]
        if name in self.steady:
            if self._calm:
                self._complain(at_s, name, [("calm", f"{code}: {text}")])
            return
        last = self._last_fault.get(name)
        if last is None or at_s > last[1]:
            self._complain(at_s, name, [("calm", f"nothing was done to it any more, and yet {code}: {text}")])
        elif code not in {each.value for each in last[0].case.codes}:
            self._complain(at_s, name, [("code", f"{code} does not fit: {text}")])

    def _judge(self, outcome: Outcome, name: str, *, until_s: float) -> None:
        from_s, to_s = _window(outcome)
        to_s = min(to_s, until_s)  # what would be seen of the last faults' windows after the run is not seen
        rate, baseline = self.log(name).rate(from_s, to_s), self.baseline.get(name)
        if rate is None or not baseline:
            return
        fps, seconds = rate
        if fps * (seconds + _LATE_S) < FPS_RATIO * baseline * seconds:
            injection = outcome.injection
            detail = f"{fps:.2f} fps in {seconds:.1f} s beside {injection.camera}, not {baseline:.2f}"
            self._complain(to_s, name, [("fps", detail)], fault=injection.case.name)

    def _complain(self, at_s: float, camera: str, found: Sequence[Complaint], *, fault: str | None = None) -> None:
        if fault is None:
            last = self._last_fault.get(camera)
            fault = "none" if last is None else last[0].case.name
        for invariant, detail in found:
            # Once for each fault: a broken ledger is broken at every look from then on.
            if (invariant, camera, fault) not in self._told:
                self._told.add((invariant, camera, fault))
                self.violations.append(
                    Violation(invariant=invariant, camera=camera, fault=fault, at_s=at_s, detail=detail)
                )


def _window(outcome: Outcome) -> tuple[float, float]:
    """From a fault's beginning to its recovery, or its end, or until it can be judged."""
    known = [at_s for at_s in (outcome.ended_s, outcome.recovered_s) if at_s is not None]
    return outcome.began_s, max([outcome.began_s + JUDGED_S, *known])
