"""The gate's steps, each in a process of its own: a step that dies takes nothing with it.

A CUDA error may poison its whole process, and NVDEC's library ends it, so a process is the only wall that holds.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.gate.plan import read_plan

_TAIL_LINES = 6
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`function` is `module:name`; it takes the plan and returns what was measured, ready for JSON."""

    name: str
    title: str
    function: str
    needs: tuple[str, ...]  # parts without which it cannot run
    timeout_s: float


_DEVICE = ("driver", "pycuda")
_PIPELINE = (*_DEVICE, "engine")
STEPS = (
    Step(
        name="build",
        title="engine built, batch 1 to 16",
        function="scripts.gate.engine:build",
        needs=_PIPELINE,
        timeout_s=420,
    ),
    Step(
        name="tests",
        title="contract and parity tests (marker gpu)",
        function="scripts.gate.suite:run_tests",
        needs=_DEVICE,
        timeout_s=540,  # two minutes of clips in real time, and two engines
    ),
    Step(
        name="kernels",
        title="letterbox and postprocess alone",
        function="scripts.gate.kernels:measure",
        needs=_DEVICE,
        timeout_s=60,
    ),
    Step(
        name="engine",
        title="engine alone, by batch, graphs and contexts",
        function="scripts.gate.engine:measure",
        needs=_PIPELINE,
        timeout_s=150,
    ),
    Step(
        name="nvdec",
        title="NVDEC alone",
        function="scripts.gate.decode:measure",
        needs=(*_DEVICE, "nvdec", "PyNvVideoCodec"),
        timeout_s=90,
    ),
    Step(
        name="pipeline",
        title="whole pipeline from H.264 packets, 1 to 64 cameras",
        function="scripts.gate.pipeline:by_cameras",
        needs=_PIPELINE,
        timeout_s=180,
    ),
    Step(
        name="batches",
        title="whole pipeline, batch 1 against 4, 8, 16",
        function="scripts.gate.pipeline:by_batch",
        needs=_PIPELINE,
        timeout_s=420,  # three more engines
    ),
    Step(
        name="load",
        title="latency at 70 % of the limit",
        function="scripts.gate.pipeline:at_load",
        needs=_PIPELINE,
        timeout_s=90,
    ),
    Step(
        name="rtsp",
        title="whole pipeline over loopback RTSP",
        function="scripts.gate.pipeline:over_rtsp",
        needs=_PIPELINE,
        timeout_s=90,
    ),
    Step(
        name="soak",
        title="one minute with cameras coming and going",
        function="scripts.gate.soak:measure",
        needs=_PIPELINE,
        timeout_s=180,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended. `reason` says why there is no result, or none that can be trusted."""

    name: str
    title: str
    state: str  # ok, failed, skipped
    seconds: float
    result: dict[str, Any] | None
    reason: str | None


def run_steps(plan_path: Path, missing: dict[str, str], only: tuple[str, ...]) -> Iterator[Outcome]:
    """Run each step in a child, one after the other. `missing` names the parts that are not here, with the reason."""
    scale = max(1.0, read_plan(plan_path).scale)
    for step in STEPS:
        if only and step.name not in only:
            continue
        lacking = [f"{part}: {missing[part]}" for part in step.needs if part in missing]
        if lacking:
            yield _outcome(step, "skipped", 0.0, reason="; ".join(lacking))
        else:
            yield _run(step, plan_path, scale)


def run_in_child(name: str, plan_path: Path, out: Path) -> int:
    """The child's side: run one step and write its result. 0 ok, 1 failed."""
    step = next(step for step in STEPS if step.name == name)
    module, _, function = step.function.partition(":")
    try:
        result = getattr(importlib.import_module(module), function)(read_plan(plan_path))
    except Exception:
        traceback.print_exc()
        return 1
    out.write_text(json.dumps(result), encoding="utf-8")
    return 0


def _run(step: Step, plan_path: Path, scale: float) -> Outcome:
    out = plan_path.parent / f"step-{step.name}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "scripts/gpu_gate.py"), "--child", step.name, str(plan_path), str(out)]
    limit_s = step.timeout_s * scale
    began = time.monotonic()
    # A session of its own, so that what it started (pytest, the simulator) can be ended with it.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            _, said = child.communicate(timeout=limit_s)
        except BaseException as exc:
            os.killpg(child.pid, signal.SIGKILL)
            _, said = child.communicate()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            reason = f"did not end within {limit_s:.0f} s; it last said: {_tail(said)}"
            return _outcome(step, "failed", time.monotonic() - began, reason=reason)
    took_s = time.monotonic() - began
    if child.returncode != 0 or not out.is_file():
        return _outcome(step, "failed", took_s, reason=f"ended with {child.returncode}: {_tail(said)}")
    result = json.loads(out.read_text(encoding="utf-8"))
    failed = result.get("failed")
    return _outcome(step, "failed" if failed else "ok", took_s, result=result, reason=failed)


def _outcome(
    step: Step, state: str, seconds: float, *, result: dict[str, Any] | None = None, reason: str | None = None
) -> Outcome:
    return Outcome(name=step.name, title=step.title, state=state, seconds=seconds, result=result, reason=reason)


def _tail(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-_TAIL_LINES:] if line.strip())
