"""What a chaos run found, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.commands.columns import in_columns
from app.measure.chaos.cases import Case
from app.measure.chaos.invariants import MEANINGS
from app.measure.chaos.recovery import Outcome
from app.measure.chaos.run import ChaosRun
from app.measure.figures import percentiles
from app.measure.machine import Machine
from app.measure.results import Figure, result

DEFINITIONS = {
    "injected": "times that the fault was injected; singly: in turn on its camera; mixed: by chance",
    "noticed": "times that the camera left the state running",
    "recovered": "times that it showed pictures again (a guest: at all) before its next fault",
    "recovery_s": "from the fault's end to the first result that arrived behind it, of faults that stop the pictures",
    "over_allowed": "recovery_s against what the backoff that the camera was in and 3 s allow, at worst",
    "others": "the least that any undisturbed camera delivered from the fault's beginning to its recovery, against the "
    "baseline of the same run",
    "never_came": "frames that the disturbed cameras would have sent in the faults' time, not decoded",
    "injections": "every fault in turn; planned_s: when the seed has it begin, since the first one could; began_s, "
    "ended_s (of the fault), down_s (noticed), recovered_s, deadline_s (for that): seconds since the run began",
    "invariants": MEANINGS,
}


def as_result(run: ChaosRun, machine: Machine) -> dict[str, Any]:
    """The JSON: figures for `vidette compare`, a row a fault, every injection, and what broke."""
    rows = [_row(run, case, outcomes) for case, outcomes in _by_case(run)]
    return result(
        "chaos",
        machine,
        _figures(run),
        seed=run.options.seed,
        seconds=run.seconds,
        holds=run.holds,
        violations=[asdict(each) for each in run.observer.violations],
        rows=rows,
        injections=[_injection(outcome) for outcome in run.observer.outcomes],
        frames=_frames(run),
        resources={"before": asdict(run.before), "after": asdict(run.after)},
        cameras={"undisturbed": len(run.observer.steady), "disturbed": run.options.victims},
        definitions=DEFINITIONS,
    )


def as_text(run: ChaosRun) -> str:
    """The table, what was lost, what was left behind, and what broke."""
    lines: list[tuple[str, ...]] = [
        ("fault", "injected", "noticed", "recovered", "p50 s", "max s", "allowed", "others", "codes")
    ]
    lines += [_line(_row(run, case, outcomes)) for case, outcomes in _by_case(run)]
    outcomes, frames = run.observer.outcomes, _frames(run)
    lost = ", ".join(f"{reason} {count}" for reason, count in frames["dropped"].items() if count) or "none"
    facts = [
        (
            "run",
            f"{run.seconds:.0f} s, seed {run.options.seed}, {len(outcomes)} faults on {run.options.victims} cameras",
        ),
        ("others", f"{_number(_least(run), '{:.1%}')} of the baseline at least, over all faults"),
        ("frames", f"{frames['decoded']} decoded, {frames['published']} published; dropped: {lost}"),
        ("never came", f"{frames['never_came']} frames of disturbed cameras"),
        (
            "age",
            f"p50 {1e3 * _age(run, 50):.0f} ms, p99 {1e3 * _age(run, 99):.0f} ms, max {1e3 * _age(run, 100):.0f} ms",
        ),
        ("drift", _drift(run)),
        ("invariants", "hold" if run.holds else f"{len(run.observer.violations)} BROKEN"),
    ]
    broken = [f"  {violation}" for violation in run.observer.violations]
    return "\n\n".join(filter(None, (in_columns(lines, right=range(1, 8)), in_columns(facts), "\n".join(broken))))


def _by_case(run: ChaosRun) -> list[tuple[Case, list[Outcome]]]:
    found = [(case, [o for o in run.observer.outcomes if o.injection.case is case]) for case in run.options.cases]
    return [(case, outcomes) for case, outcomes in found if outcomes]


def _row(run: ChaosRun, case: Case, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    recoveries = [each.recovery_s for each in outcomes if each.recovery_s is not None and each.down_s is not None]
    recoveries = recoveries if case.role != "guest" else []
    spread = percentiles(recoveries)
    others = [min(ratios.values()) for each in outcomes if (ratios := run.observer.others(each))]
    return {
        "fault": case.name,
        "about": case.about,
        "injected": len(outcomes),
        "noticed": sum(each.down_s is not None for each in outcomes) if case.role != "guest" else 0,
        "recovered": sum(each.recovered_s is not None for each in outcomes),
        "recovery_s": {"p50": spread.p50, "max": max(recoveries, default=math.nan)},
        "over_allowed": max(map(_over_allowed, outcomes), default=math.nan),
        "others": min(others, default=math.nan),
        "codes": sorted({code for each in outcomes for code in each.codes}),
    }


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["fault"]),
        str(row["injected"]),
        str(row["noticed"]),
        str(row["recovered"]),
        _number(row["recovery_s"]["p50"], "{:.2f}"),
        _number(row["recovery_s"]["max"], "{:.2f}"),
        _number(row["over_allowed"], "{:.0%}"),
        _number(row["others"], "{:.1%}"),
        ", ".join(row["codes"]) or "-",
    )


def _number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "-"


def _over_allowed(outcome: Outcome) -> float:
    if outcome.recovery_s is None or outcome.deadline_s is None or outcome.ended_s is None or outcome.down_s is None:
        return -math.inf
    return outcome.recovery_s / max(1e-9, outcome.deadline_s - outcome.ended_s)


def _injection(outcome: Outcome) -> dict[str, Any]:
    injection = outcome.injection
    return {
        "fault": injection.case.name,
        "camera": injection.camera,
        "phase": injection.phase,
        "planned_s": injection.at_s,
        "began_s": outcome.began_s,
        "ended_s": outcome.ended_s,
        "down_s": outcome.down_s,
        "recovered_s": outcome.recovered_s,
        "deadline_s": outcome.deadline_s,
        "codes": sorted(outcome.codes),
    }


def _figures(run: ChaosRun) -> dict[str, Figure]:
    recoveries = [
        each.recovery_s for each in run.observer.outcomes if each.recovery_s is not None and each.down_s is not None
    ]
    before, after = run.before, run.after

    def figure(value: float, unit: str, *, higher: bool = False) -> Figure:
        return Figure(unit=unit, better="higher" if higher else "lower", samples=(value,))

    return {
        "injected": Figure(unit="faults", better="neither", samples=(len(run.observer.outcomes),)),
        "recovery_s.p50": figure(percentiles(recoveries).p50, "s"),
        "recovery_s.max": figure(max(recoveries, default=math.nan), "s"),
        "others": figure(_least(run), "1", higher=True),
        "age_ms.p99": figure(1e3 * _age(run, 99), "ms"),
        "threads_growth": figure(after.threads - before.threads, "threads"),
        "fds_growth": figure(after.fds - before.fds, "descriptors"),
        "rss_growth_mib": figure((after.rss_bytes - before.rss_bytes) / 2**20, "MiB"),
    }


def _frames(run: ChaosRun) -> dict[str, Any]:
    """Frames of all cameras: what the ledgers say, and what never reached them."""
    logs = run.observer.logs
    seconds = run.faults_s[1] - run.faults_s[0]
    never = 0.0
    for name in {each.injection.camera for each in run.observer.outcomes if each.injection.case.role != "guest"}:
        never += max(0.0, run.fps * seconds - logs[name].decoded(*run.faults_s))
    return {
        "decoded": sum(log.frames.get("decoded", 0) for log in logs.values()),
        "published": sum(log.frames.get("published", 0) for log in logs.values()),
        "dropped": run.observer.dropped(),
        "never_came": round(never),
    }


def _least(run: ChaosRun) -> float:
    return min(run.observer.ratios(*run.faults_s).values(), default=math.nan)


def _age(run: ChaosRun, percent: float) -> float:
    ages = sorted(age_s for log in run.observer.logs.values() for _at_s, age_s in log.ages)
    return ages[min(len(ages) - 1, int(len(ages) * percent / 100))] if ages else math.nan


def _drift(run: ChaosRun) -> str:
    before, after = run.before, run.after
    memory_mib = (after.rss_bytes - before.rss_bytes) / 2**20
    return (
        f"threads {before.threads} -> {after.threads}, descriptors {before.fds} -> {after.fds}, "
        f"memory {before.rss_bytes / 2**20:.0f} -> {after.rss_bytes / 2**20:.0f} MiB ({memory_mib:+.0f})"
    )
