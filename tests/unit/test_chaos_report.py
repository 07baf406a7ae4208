"""What a chaos run says of itself: its rows, its drifts, and what is written into a document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from app.measure.chaos.cases import CASES, chosen
from app.measure.chaos.drift import Drift, drifts
from app.measure.chaos.fleet import make_lanes
from app.measure.chaos.invariants import Violation
from app.measure.chaos.observer import Look, Mark, Observer
from app.measure.chaos.plan import make_plan
from app.measure.chaos.report import as_result, as_text
from app.measure.chaos.run import ChaosOptions, ChaosRun, Sample
from app.measure.chaos.target import Resources
from app.measure.machine import Machine
from scripts.soak import main as soak
from scripts.soak import record
from tests.support.command import run_command

MACHINE = Machine(
    cpu="Some CPU", cores=2, memory_bytes=2**33, platform="Linux", python="CPython 3.11", vidette="0.1.0",
    commit="abc", versions={},
)  # fmt: skip
MIB = 2**20
NOW_UTC = 1_800_000_000.0
RESULT = {
    "type": "detections", "camera_id": "victim-0", "seq": 1, "pts_s": 0.0, "timing_ms": {"total": 20.0},
    "captured_at": "2027-01-15T08:00:00.000Z", "clock": "rtcp",
}  # fmt: skip


def held(*, threads: int = 20, fds: int = 30, mib: float = 300.0) -> Resources:
    return Resources(threads=threads, fds=fds, rss_bytes=round(mib * MIB), anonymous_bytes=round(mib * MIB))


def change(state: str, code: str | None) -> dict[str, Any]:
    error = None if code is None else {"code": code, "message": "why"}
    return {"type": "camera", "camera_id": "victim-0", "state": state, "error": error}


def a_run(*, mib_a_minute: float = 0.0, slower_ms: float = 0.0) -> ChaosRun:
    """Ten minutes of one steady camera beside one that stalled once and was back after a second."""
    cases = chosen("stall")
    lanes = make_lanes(("victim",), victims=1)
    observer = Observer(["steady-0"], attempt_s=4.0)
    observer.calm({"steady-0": 10.0})
    plan = make_plan(cases, lanes, seconds=10.0, seed=0)
    (injection,) = plan.injections
    observer.message(9.0, NOW_UTC, change("running", None))
    observer.began(10.0, injection)
    observer.message(12.0, NOW_UTC, change("retrying", "read_timeout"))
    observer.ended(14.0, injection)
    observer.message(14.9, NOW_UTC, change("running", None))
    observer.message(15.0, NOW_UTC, RESULT)
    steady, victim = observer.log("steady-0"), observer.log("victim-0")
    for second in range(600):
        steady.ages.append((float(second), 0.02 + slower_ms / 1e3 * (second > 300)))
        victim.looks.append(Look(float(second), 9 * second, 9 * second))
    steady.marks.extend(Mark(tenth / 10, tenth + 1, tenth / 10) for tenth in range(6000))
    steady.frames = {"decoded": 600, "published": 598, "dropped": {"replaced": 2}, "in_flight": 0}
    samples = tuple(
        Sample(at_s=float(at_s), held=held(mib=300 + mib_a_minute * at_s / 60), answer_s=0.01)
        for at_s in range(0, 600, 5)
    )
    return ChaosRun(
        options=ChaosOptions(cases=cases, steady=1, victims=1, seconds=10.0),
        plan=plan,
        observer=observer,
        faults_s=(0.0, 599.0),
        before=samples[0].held,
        after=samples[-1].held,
        samples=samples,
        seconds=600.0,
    )


def drift_of(run: ChaosRun, name: str) -> Drift:
    return next(drift for drift in drifts(run) if drift.name == name)


def test_a_row_tells_how_a_fault_was_taken() -> None:
    found = as_result(a_run(), MACHINE)
    (row,) = found["rows"]
    assert (row["fault"], row["injected"], row["noticed"], row["recovered"]) == ("stall", 1, 1, 1)
    assert row["recovery_s"] == {"p50": 1.0, "max": 1.0}
    assert row["over_allowed"] == pytest.approx(1 / 7, abs=1e-3)
    assert row["others"] == pytest.approx(1.0)
    assert row["codes"] == ["read_timeout"]
    assert found["frames"] == {"decoded": 600, "published": 598, "dropped": {"replaced": 2}, "never_came": 599}
    assert found["holds"] is True
    assert found["injections"][0]["planned_s"] == 0.0


def test_what_broke_is_in_the_text() -> None:
    run = a_run()
    run.observer.violations.append(
        Violation(invariant="seq", camera="gate", fault="jump", at_s=3.0, detail="2 came behind 3")
    )
    text = as_text(run)
    assert "1 BROKEN" in text
    assert text.endswith("seq: gate at 3.0 s, fault jump: 2 came behind 3")
    assert as_result(run, MACHINE)["holds"] is False


def test_what_stays_where_it_was_is_no_drift() -> None:
    assert len(drifts(a_run())) == 7
    assert all(drift.holds for drift in drifts(a_run()))


def test_memory_that_grows_all_the_time_is_a_drift() -> None:
    memory = drift_of(a_run(mib_a_minute=10.0), "memory")
    assert not memory.holds
    assert memory.growth == pytest.approx(60.0, abs=2)
    assert memory.an_hour == pytest.approx(600.0, abs=1)


def test_results_that_grow_older_are_a_drift() -> None:
    assert not drift_of(a_run(slower_ms=100.0), "result age p50").holds


def test_a_short_run_tells_of_no_drift() -> None:
    assert drifts(replace(a_run(), samples=())) == ()


def test_a_record_replaces_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- numbers -->\nold\n<!-- /numbers -->\nbelow\n")
    record(page, "fault  injected", "`the command`")
    record(page, "fault  injected", "`the command`")
    assert page.read_text() == (
        "above\n<!-- numbers -->\n`the command`:\n\n```\nfault  injected\n```\n<!-- /numbers -->\nbelow\n"
    )


def test_a_record_needs_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ConfigError, match=r"--record: .*page\.md has no <!-- numbers --> and <!-- /numbers -->"):
        record(page, "x", "y")


def test_every_fault_has_a_row_in_the_documentation() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
    cells = {line.split("|")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    documented = {name.strip().strip("`") for cell in cells for name in cell.split(",")}
    assert {case.name for case in CASES} <= documented


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--faults", "explode"], "--faults: there is no fault 'explode'; there are all, stall"),
        (["--faults", "stall", "--cameras", "1"], "--cameras must be at least 2 with --faults"),
    ],
)
def test_bad_options_are_one_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", *options) == 2
    assert sentence in capsys.readouterr().err


def test_bench_ends_with_1_when_an_invariant_broke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = a_run()
    monkeypatch.setattr("app.commands.bench_faults.run_chaos", lambda *_, **__: run)
    out = tmp_path / "chaos.json"
    assert run_command("bench", "--faults", "stall", "--out", str(out)) == 0
    run.observer.violations.append(
        Violation(invariant="seq", camera="gate", fault="jump", at_s=3.0, detail="2 came behind 3")
    )
    assert run_command("bench", "--faults", "stall", "--out", str(out)) == 1
    assert "seq: gate at 3.0 s, fault jump: 2 came behind 3" in capsys.readouterr().out
    assert json.loads(out.read_text())["violations"][0]["invariant"] == "seq"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--minutes", "0"], "--minutes must be more than 0, not 0"),
        (["--cameras", "1"], "--cameras must be from 2 to 256, not 1"),
        (["--faults", "explode"], "--faults: there is no fault 'explode'"),
        (["--out", "missing/soak.json"], "--out: there is no folder missing"),
        (["--record", "missing.md"], "--record: missing.md cannot be read: No such file or directory"),
    ],
)
def test_a_soak_refuses_bad_options_before_it_runs(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak(options) == 2
    assert capsys.readouterr().err.startswith(f"soak: {sentence}")
