"""What a chaos run calls broken: each invariant is broken here once, and once it is not."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from app.measure.chaos.cases import CASES, Case
from app.measure.chaos.invariants import CameraCheck
from app.measure.chaos.observer import Observer
from app.measure.chaos.plan import Injection
from app.measure.chaos.recovery import Recovery

NOW_UTC = 1_800_000_000.0
Json = dict[str, Any]


def case(name: str) -> Case:
    return next(each for each in CASES if each.name == name)


def injection(name: str = "stall", camera: str = "victim") -> Injection:
    return Injection(number=0, camera=camera, case=case(name), at_s=0.0, phase="single")


def status(decoded: int = 10, published: int = 8, in_flight: int = 0, **more: Any) -> Json:
    frames = {"decoded": decoded, "published": published, "in_flight": in_flight, "dropped": {"replaced": 2}}
    return {
        "state": "running",
        "error": None,
        "retry_in_s": None,
        "frames": {**frames, **more.pop("frames", {})},
        **more,
    }


def result(
    seq: int, *, total_ms: float = 20.0, captured_utc: float = NOW_UTC, camera: str = "victim", pts_s: float = 0.0
) -> Json:
    captured = datetime.fromtimestamp(captured_utc, timezone.utc).isoformat().replace("+00:00", "Z")
    return {
        "type": "detections", "camera_id": camera, "seq": seq, "pts_s": pts_s, "timing_ms": {"total": total_ms},
        "captured_at": captured, "clock": "rtcp",
    }  # fmt: skip


def change(state: str, code: str | None = None, camera: str = "victim") -> Json:
    error = None if code is None else {"code": code, "message": "why"}
    return {"type": "camera", "camera_id": camera, "state": state, "error": error}


def broken(complaints: list[tuple[Any, str]]) -> list[str]:
    return [invariant for invariant, _ in complaints]


def test_a_ledger_that_balances_is_no_complaint_and_any_other_is() -> None:
    check = CameraCheck()
    assert check.status(status()) == []
    assert check.status(status(decoded=12)) == [("ledger", "12 decoded, 10 accounted for")]
    assert check.status(status(decoded=20, published=1, in_flight=17))[0] == ("ledger", "17 in flight")


def test_counters_never_go_back() -> None:
    check = CameraCheck()
    check.status(status(decoded=20, published=18))
    assert ("ledger", "decoded went back from 20 to 10") in check.status(status())


def test_a_reason_that_is_not_on_the_list_is_a_complaint() -> None:
    found = CameraCheck().status(status(decoded=9, frames={"dropped": {"boredom": 1}}))
    assert found == [("ledger", "unknown reason boredom")]


def test_numbers_rise() -> None:
    check = CameraCheck()
    assert [broken(check.result(result(seq), utc=NOW_UTC)) for seq in (1, 3, 3, 2, 4)] == [[], [], ["seq"], ["seq"], []]


def test_results_are_young_and_dated_near_their_arrival() -> None:
    check = CameraCheck()
    assert broken(check.result(result(1, total_ms=2500), utc=NOW_UTC)) == ["age"]
    assert broken(check.result(result(2, captured_utc=NOW_UTC + 7200), utc=NOW_UTC)) == ["clock"]
    assert broken(check.result(result(3, captured_utc=NOW_UTC - 7200), utc=NOW_UTC)) == ["clock"]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (change("retrying"), "it is retrying without a code"),
        (change("retrying", "bad_luck"), "code 'bad_luck' is not on the list"),
        (change("sulking"), "state 'sulking' is not on the list"),
    ],
)
def test_a_state_and_its_code_are_on_the_list(message: Json, sentence: str) -> None:
    assert CameraCheck.change(message) == [("code", sentence)]
    assert CameraCheck.change(change("retrying", "read_timeout")) == []


# Recovery


def recovery(name: str = "stall") -> Recovery:
    return Recovery(injection(name), began_s=0.0, state="running", attempt_s=4.0)


def retrying(in_s: float) -> Json:
    return status(state="retrying", retry_in_s=in_s, error={"code": "read_timeout", "message": "why"})


def test_recovery_runs_from_the_end_of_the_fault_to_the_first_result_behind_it() -> None:
    it = recovery()
    it.change(2.0, change("retrying", "read_timeout"))
    it.status(2.1, retrying(0.8))
    it.change(2.9, change("connecting", "read_timeout"))
    it.ended(4.0)
    it.result(4.1)  # of before: the camera is not running
    it.change(4.5, change("running"))
    it.result(4.6)
    outcome = it.outcome
    assert (outcome.down_s, outcome.recovered_s, outcome.codes) == (2.0, 4.6, {"read_timeout"})
    assert outcome.recovery_s == pytest.approx(0.6)
    assert it.late(100.0) is None


def test_the_wait_that_a_camera_is_in_counts() -> None:
    it = recovery()
    it.change(2.0, change("retrying", "read_timeout"))
    it.status(3.9, retrying(5.0))
    it.ended(4.0)
    assert it.outcome.deadline_s == pytest.approx(8.9 + 3.0)


def test_an_attempt_that_is_under_way_may_fail_once_and_its_wait_counts() -> None:
    it = recovery()
    it.change(2.0, change("retrying", "read_timeout"))
    it.change(3.0, change("connecting", "read_timeout"))
    it.ended(4.0)
    assert it.outcome.deadline_s == 4.0 + 4.0 + 3.0
    for failed_s, deadline_s in ((6.0, 11.0), (9.0, 11.0)):
        it.change(failed_s, change("retrying", "connect_timeout"))
        it.status(failed_s, retrying(2.0))
        it.change(failed_s + 2.0, change("connecting", "connect_timeout"))
        assert it.outcome.deadline_s == deadline_s
    assert it.late(11.0) is None
    assert it.late(11.1) == "no picture 7.1 s after the fault's end; it is connecting"
    assert it.late(11.2) is None


def test_a_picture_that_comes_too_late_is_told_too() -> None:
    it = recovery()
    it.change(2.0, change("retrying", "read_timeout"))
    it.ended(4.0)
    it.change(20.0, change("running"))
    it.result(20.01)
    assert it.late(20.1) == "the first picture came 16.0 s after the fault's end, not 7.0 s"


def test_a_fault_that_stops_pictures_is_not_over_before_it_was_noticed() -> None:
    it = recovery()
    it.ended(0.0)
    it.result(0.1)
    assert it.outcome.recovered_s is None
    it = recovery("jump")
    it.ended(0.0)
    it.result(0.1)
    assert it.outcome.recovered_s == 0.1


# The observer


def observer() -> Observer:
    it = Observer(["steady"], attempt_s=4.0)
    it.calm({"steady": 10.0})
    return it


def results(it: Observer, *, fps: float, from_s: float, to_s: float) -> None:
    for frames in range(round(fps * from_s), round(fps * to_s)):
        it.message(frames / fps, NOW_UTC, result(frames + 1, camera="steady", pts_s=frames / fps))


def told(it: Observer) -> list[tuple[str, str, str]]:
    return [(each.invariant, each.camera, each.fault) for each in it.violations]


def test_a_camera_that_nothing_was_done_to_must_not_fail() -> None:
    it = observer()
    it.message(1.0, NOW_UTC, change("retrying", "read_timeout", camera="steady"))
    assert told(it) == [("calm", "steady", "none")]


def test_a_code_must_fit_the_fault() -> None:
    it = observer()
    it.began(1.0, injection("stall"))
    it.message(2.0, NOW_UTC, change("retrying", "read_timeout"))
    assert it.violations == []
    it.message(3.0, NOW_UTC, change("retrying", "auth_failed"))
    assert told(it) == [("code", "victim", "stall")]


@pytest.mark.parametrize(("fps", "found"), [(10.0, []), (9.0, [("fps", "steady", "jump"), ("fps", "steady", "all")])])
def test_others_are_judged_over_the_faults_window(fps: float, found: list[tuple[str, str, str]]) -> None:
    it = observer()
    it.began(0.0, injection("jump"))
    it.ended(0.0, injection("jump"))
    results(it, fps=fps, from_s=0.0, to_s=30.0)
    it.message(30.0, NOW_UTC, result(1))
    it.settled(30.0, injection("jump"))
    it.judge(0.0, 30.0)
    assert [each for each in told(it) if each[0] == "fps"] == found


def test_a_camera_that_was_silent_at_the_end_of_a_window_is_found() -> None:
    it = observer()
    it.began(0.0, injection("jump"))
    results(it, fps=10.0, from_s=0.0, to_s=5.0)
    it.judge(0.0, 30.0)
    assert it.others(it.outcomes[0])["steady"] == pytest.approx(5 / 6, abs=0.02)
    assert told(it) == [("fps", "steady", "jump"), ("fps", "steady", "all")]


def test_the_window_of_a_fault_just_before_the_end_ends_with_the_run() -> None:
    it = observer()
    results(it, fps=10.0, from_s=0.0, to_s=30.0)
    it.began(27.5, injection("jump"))
    it.ended(27.5, injection("jump"))
    it.judge(0.0, 30.0)
    assert told(it) == []


def test_a_broken_ledger_is_told_once_for_each_fault() -> None:
    it = observer()
    it.began(0.0, injection("stall"))
    for second in range(3):
        it.look(second, [{"id": "victim", "status": status(decoded=12)}])
    assert told(it) == [("ledger", "victim", "stall")]
    assert str(it.violations[0]) == "ledger: victim at 0.0 s, fault stall: 12 decoded, 10 accounted for"


def test_a_guest_has_to_show_pictures() -> None:
    it = observer()
    slow = injection("slow", camera="guest")
    it.began(0.0, slow)
    it.ended(6.0, slow)
    it.settled(8.0, slow)
    assert told(it) == [("recovery", "guest", "slow")]
