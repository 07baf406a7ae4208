"""How one camera takes one fault: when it was noticed, when it was over, and when pictures came again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.measure.chaos.plan import Injection

PATIENCE_S = 3.0
# An attempt that began in this instant of the fault's end may still have met it.
_SEAM_S = 0.5


@dataclass
class Outcome:
    """What came of an injection. All times are the run's seconds; None: it did not happen."""

    injection: Injection
    began_s: float
    ended_s: float | None = None  # when the fault was over
    down_s: float | None = None  # when the camera left the state running for the first time
    recovered_s: float | None = None  # the first result behind the fault
    deadline_s: float | None = None  # when it has to be there
    codes: set[str] = field(default_factory=set)
    judged: bool = False

    @property
    def recovery_s(self) -> float | None:
        if self.recovered_s is None or self.ended_s is None:
            return None
        return max(0.0, self.recovered_s - self.ended_s)


class Recovery:
    """Watches one camera from the beginning of a fault until it shows pictures again.

    The deadline is the wait that the camera is in when the fault ends, and 3 s. An attempt that is under way at that
    moment may still fail, at the latest after `attempt_s`; then the wait behind it counts. A later failure is the
    camera's own, and moves nothing.
    """

    def __init__(self, injection: Injection, *, began_s: float, state: str, attempt_s: float) -> None:
        self.outcome = Outcome(injection=injection, began_s=began_s)
        self._attempt_s = attempt_s
        self._state = state
        self._running_s: float | None = began_s if state == "running" else None
        self._may_fail = True
        self._retry_at_s: float | None = None

    def ended(self, at_s: float) -> None:
        """The fault is over."""
        outcome = self.outcome
        outcome.ended_s = at_s
        if self._state == "retrying" and self._retry_at_s is not None and self._retry_at_s > at_s:
            self._may_fail = False
            outcome.deadline_s = self._retry_at_s + PATIENCE_S
        else:
            outcome.deadline_s = at_s + self._attempt_s + PATIENCE_S

    def change(self, at_s: float, message: Mapping[str, Any]) -> None:
        """The camera's state changed."""
        outcome = self.outcome
        self._state, before = str(message["state"]), self._state
        if self._state == "running":
            self._running_s = at_s
            return
        self._running_s = None
        if message["error"] is not None and self._state == "retrying":
            outcome.codes.add(message["error"]["code"])
        if outcome.down_s is None and before == "running":
            outcome.down_s = at_s
        self._retry_at_s = None

    def status(self, at_s: float, status: Mapping[str, Any]) -> None:
        """A look at the camera's `status`: it tells how long it waits."""
        if status["state"] != "retrying" or status["retry_in_s"] is None:
            return
        is_new, self._retry_at_s = self._retry_at_s is None, at_s + float(status["retry_in_s"])
        outcome = self.outcome
        if not is_new or outcome.ended_s is None or outcome.recovered_s is not None:
            return
        if self._may_fail or at_s - outcome.ended_s < _SEAM_S:
            self._may_fail = False
            outcome.deadline_s = max(outcome.ended_s, self._retry_at_s) + PATIENCE_S

    def result(self, at_s: float) -> None:
        """A result of the camera arrived."""
        outcome = self.outcome
        if outcome.ended_s is None or outcome.recovered_s is not None or self._running_s is None:
            return
        needs_down = outcome.injection.case.outage and outcome.down_s is None
        if not needs_down and at_s > max(outcome.ended_s, self._running_s):
            outcome.recovered_s = at_s

    def late(self, at_s: float) -> str | None:
        """A sentence, once, when the deadline has passed without a picture."""
        outcome = self.outcome
        if outcome.judged or outcome.ended_s is None or outcome.deadline_s is None:
            return None
        shown_s = outcome.recovered_s
        if (at_s if shown_s is None else shown_s) <= outcome.deadline_s:
            outcome.judged = shown_s is not None
            return None
        outcome.judged = True
        allowed_s = outcome.deadline_s - outcome.ended_s
        if shown_s is None:
            return f"no picture {at_s - outcome.ended_s:.1f} s after the fault's end; it is {self._state}"
        return f"the first picture came {shown_s - outcome.ended_s:.1f} s after the fault's end, not {allowed_s:.1f} s"
