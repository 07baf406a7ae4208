"""What must hold at every moment, whatever the cameras do. Pure: it is told what was seen, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from app.cameras.ledger import DROP_REASONS
from app.errors import SourceErrorCode

Invariant: TypeAlias = Literal["ledger", "seq", "age", "clock", "code", "calm", "fps", "recovery", "flat", "alive"]
MEANINGS: dict[Invariant, str] = {
    "ledger": "decoded = published + dropped + in flight, at every look, and no counter goes back",
    "seq": "results of a camera arrive with rising numbers",
    "age": "no result is older than AGE_S when it is sent",
    "clock": "captured_at is within CLOCK_S of when the result arrived",
    "code": "a camera fails with a code of the closed list, and one that fits the fault",
    "calm": "a camera that nothing was done to never leaves the state running",
    "fps": "a camera that nothing was done to delivers at least 97 % of what it did before",
    "recovery": "a camera shows pictures again within its backoff and 3 s of the fault's end",
    "flat": "threads, descriptors and memory are what they were",
    "alive": "the service answers, ends with code 0 and logs no traceback",
}
AGE_S = 2.0
CLOCK_S = 5.0
MOST_IN_FLIGHT = 16
STATES = frozenset({"connecting", "running", "retrying", "disabled"})
CODES = frozenset(code.value for code in SourceErrorCode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An invariant that broke: when (seconds since the run's start), on which camera, under which fault."""

    invariant: Invariant
    camera: str
    fault: str
    at_s: float
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.camera} at {self.at_s:.1f} s, fault {self.fault}: {self.detail}"


Complaint: TypeAlias = "tuple[Invariant, str]"


class CameraCheck:
    """The invariants of one camera that need nothing but its own past."""

    def __init__(self) -> None:
        self._seq = 0
        self._counters: dict[str, int] = {}
        self.oldest_s = 0.0  # the greatest age of a result so far

    def status(self, status: Mapping[str, Any]) -> list[Complaint]:
        """Check a camera's `status` as REST shows it."""
        return [*self._ledger(status["frames"]), *_coded(status["state"], status["error"])]

    def result(self, message: Mapping[str, Any], *, utc: float) -> list[Complaint]:
        """Check a result that arrived at `utc`."""
        found: list[Complaint] = []
        seq, before = int(message["seq"]), self._seq
        if seq <= before:
            found.append(("seq", f"{seq} came behind {before}"))
        self._seq = max(seq, before)
        age_s = float(message["timing_ms"]["total"]) / 1e3
        self.oldest_s = max(self.oldest_s, age_s)
        if age_s > AGE_S:
            found.append(("age", f"result {seq} was {age_s:.2f} s old"))
        captured_utc = datetime.fromisoformat(str(message["captured_at"]).replace("Z", "+00:00")).timestamp()
        if abs(utc - captured_utc) > CLOCK_S:
            off_s = captured_utc - utc
            found.append(("clock", f"result {seq} is dated {off_s:+.1f} s from its arrival, by {message['clock']}"))
        return found

    @staticmethod
    def change(message: Mapping[str, Any]) -> list[Complaint]:
        """Check a change of state as the WebSocket tells it."""
        if message["state"] == "removed":
            return []
        return _coded(message["state"], message["error"])

    def _ledger(self, frames: Mapping[str, Any]) -> list[Complaint]:
        dropped = dict(frames["dropped"])
        found: list[Complaint] = []
        ended = frames["published"] + sum(dropped.values()) + frames["in_flight"]
        if frames["decoded"] != ended:
            found.append(("ledger", f"{frames['decoded']} decoded, {ended} accounted for"))
        if not 0 <= frames["in_flight"] <= MOST_IN_FLIGHT:
            found.append(("ledger", f"{frames['in_flight']} in flight"))
        unknown = set(dropped) - set(DROP_REASONS)
        if unknown:
            found.append(("ledger", f"unknown reason {', '.join(sorted(unknown))}"))
        counters = {"decoded": frames["decoded"], "published": frames["published"], **dropped}
        for name, before in self._counters.items():
            if counters.get(name, 0) < before:
                found.append(("ledger", f"{name} went back from {before} to {counters.get(name, 0)}"))
        self._counters = counters
        return found


def _coded(state: str, error: Mapping[str, Any] | None) -> list[Complaint]:
    if state not in STATES:
        return [("code", f"state {state!r} is not on the list")]
    if error is not None and error["code"] not in CODES:
        return [("code", f"code {error['code']!r} is not on the list")]
    if state == "retrying" and error is None:
        return [("code", "it is retrying without a code")]
    return []
