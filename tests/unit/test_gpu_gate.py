"""The GPU gate where there is no GPU, and its steps' walls: whatever one does, the others run and are told."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.backends.cuda.probe import examine
from app.types import Availability
from scripts.gate import steps
from scripts.gate.availability import Found
from scripts.gate.clips import looped
from scripts.gate.decode import packets_of
from scripts.gate.pipeline import offered_fps
from scripts.gate.plan import GatePlan, read_plan, write_plan
from scripts.gate.report import as_json, as_table
from scripts.gate.steps import ROOT, STEPS, Outcome, Step, run_in_child, run_steps
from scripts.gate.suite import run_tests
from tests.support.clips import write_test_clip
from tests.support.wait import wait_in_thread

PARTS = [
    "driver",
    "nvdec",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "PyNvVideoCodec",
    "cuda-bindings",
    "nvidia-ml-py",
    "kernels",
]


def plan_in(folder: Path) -> Path:
    plan = GatePlan(model="m", models_dir="models", precision="fp16", clip=None, scale=1.0, work=str(folder))
    write_plan(plan, folder / "plan.json")
    assert read_plan(folder / "plan.json") == plan
    return folder / "plan.json"


def found(*available: str) -> Found:
    return Found(
        parts=tuple(Availability(name=name, available=name in available, reason=f"{name} says so") for name in PARTS)
    )


def test_without_a_gpu_it_names_each_missing_part_in_one_line_and_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "gate.json"
    command = [sys.executable, str(ROOT / "scripts/gpu_gate.py"), "--out", str(out)]
    # No driver is to be found, wherever this test runs.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["gpu"] is False and report["steps"] == {} and report["summary"] is None
    assert [part["name"] for part in report["parts"]] == PARTS
    lines = done.stdout.splitlines()
    for part, line in zip(report["parts"], lines, strict=False):
        assert line.split()[:2] == [part["name"], "available" if part["available"] else "missing"]
        assert part["reason"] in line
    assert lines[-1] == '"gpu": false: nothing was measured'


def test_an_output_folder_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/gpu_gate.py"), "--out", str(tmp_path / "no" / "gate.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpu_gate: there is no folder {tmp_path / 'no'}\n"


def test_a_step_whose_parts_are_missing_is_skipped_with_their_reasons(tmp_path: Path) -> None:
    here = found("driver", "pycuda", "kernels")
    assert here.gpu
    outcomes = list(run_steps(plan_in(tmp_path), here.missing(), ("engine", "nvdec")))
    assert [(each.name, each.state) for each in outcomes] == [("engine", "skipped"), ("nvdec", "skipped")]
    assert outcomes[0].reason == "engine: tensorrt: tensorrt says so; tensorrt_rtx: tensorrt_rtx says so"
    assert outcomes[1].reason == "nvdec: nvdec says so; PyNvVideoCodec: PyNvVideoCodec says so"


@pytest.fixture
def own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Steps that die in every way a step can, run by children that find them through a module of this test's."""
    (tmp_path / "dying.py").write_text(
        "import os, subprocess, time\n"
        "def well(plan): return {'model': plan.model}\n"
        "def raises(plan): raise RuntimeError('the device said no')\n"
        "def exits(plan): os._exit(1)\n"
        "def hangs(plan):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    (plan.folder / 'grandchild').write_text(str(child.pid))\n"
        "    time.sleep(600)\n"
        "def finds(plan): return {'failed': 'memory grew'}\n",
        encoding="utf-8",
    )
    step = Step(name="", title="", function="", needs=(), timeout_s=20)
    named = [
        replace(step, name=name, title=name, function=f"dying:{name}", timeout_s=4 if name == "hangs" else 30)
        for name in ("raises", "exits", "hangs", "finds", "well")
    ]
    monkeypatch.setattr(steps, "STEPS", tuple(named))
    child = tmp_path / "scripts" / "gpu_gate.py"
    child.parent.mkdir()
    child.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from pathlib import Path\nfrom scripts.gate import steps\n"
        f"steps.STEPS = tuple(steps.Step(name=n, title=n, function='dying:' + n, needs=(), timeout_s=9) "
        f"for n in {[each.name for each in named]!r})\n"
        "sys.exit(steps.run_in_child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    return plan_in(tmp_path)


def test_each_step_survives_the_failure_of_those_before_it(own_steps: Path) -> None:
    outcomes = {each.name: each for each in run_steps(own_steps, {}, ())}
    assert {name: each.state for name, each in outcomes.items()} == {
        "raises": "failed",
        "exits": "failed",
        "hangs": "failed",
        "finds": "failed",
        "well": "ok",
    }
    assert "RuntimeError: the device said no" in str(outcomes["raises"].reason)
    assert str(outcomes["exits"].reason).startswith("ended with 1")
    assert str(outcomes["hangs"].reason).startswith("did not end within 4 s")
    assert outcomes["finds"].reason == "memory grew" and outcomes["finds"].result == {"failed": "memory grew"}
    assert outcomes["well"].result == {"model": "m"}
    # What a step started must not go on using the GPU while the next one measures.
    left = int((own_steps.parent / "grandchild").read_text())
    wait_in_thread(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE)


def test_every_step_names_a_function_that_is_there() -> None:
    for step in STEPS:
        module, _, function = step.function.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert f"\ndef {function}(plan: GatePlan)" in path.read_text(encoding="utf-8"), step.function


def test_a_step_that_raises_ends_its_child_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in_child("kernels", plan_in(tmp_path), tmp_path / "out.json") == 1
    assert "Traceback" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


RUN: dict[str, Any] = {
    "cameras": 64,
    "max_size": 16,
    "inferred_fps": 6400.0,
    "latency_ms": {"p50": 9.0, "p95": 14.0, "p99": 19.5},
    "cpu_ms_per_frame": 0.21,
    "decoders": {"nvdec": 64},
    "gpu": {"utilization_ratio": 0.93, "decoder_utilization_ratio": 0.71},
}


def outcome(name: str, result: dict[str, Any] | None, *, state: str = "ok", reason: str | None = None) -> Outcome:
    title = next(step.title for step in STEPS if step.name == name)
    return Outcome(name=name, title=title, state=state, seconds=1.0, result=result, reason=reason)


def test_the_table_shows_every_step_and_what_was_asked_for() -> None:
    outcomes = [
        outcome("tests", {"passed": 31, "failed_tests": [], "skipped": {}}),
        outcome("nvdec", {"fps": 7000.0, "picture": "h264 1920x1080", "runs": [{"decoders": 8, "fps": 7000.0}]}),
        outcome("pipeline", {"runs": [RUN], "inferred_fps": 6400.0}),
        outcome("load", {"run": RUN, "p99_ms": 19.5}),
        outcome("soak", None, state="failed", reason="ended with -9"),
    ]
    report = as_json(found("driver"), outcomes, seconds=61.0)
    table = as_table(report)
    assert "31 passed, 0 failed, 0 skipped" in table
    assert (
        "64 cameras, batch 16: 6400 fps, p50/p95/p99 9.0/14.0/19.5 ms, 0.21 ms CPU a frame; GPU 93%, NVDEC 71%" in table
    )
    assert "ended with -9" in table
    assert table.count("not run") == len(STEPS) - len(outcomes)
    summary = report["summary"]
    assert summary["ratio to the binding limit"] == {"value": 0.9143, "met": True, "text": "0.914 of NVDEC (goal: 0.9)"}
    assert summary["p99 at 70 % load"]["met"] is True
    assert summary["times the baseline"] == {
        "value": 10.8844,
        "met": True,
        "text": "6400 fps are 10.9 x 588 (goal: 10)",
    }


def test_what_was_not_measured_is_unknown_and_never_met() -> None:
    report = as_json(found("driver"), [outcome("tests", None, state="failed", reason="no")], seconds=1.0)
    assert {goal["met"] for goal in report["summary"].values()} == {None}
    assert "MISSED" not in as_table(report)


def test_a_looped_clip_keeps_its_clock_going(tmp_path: Path) -> None:
    import av

    clip = write_test_clip(tmp_path / "short.mp4", seconds=1, fps=10, b_frames=2)
    long = looped(clip, tmp_path, seconds=5, fps=20)
    with av.open(str(long)) as container:
        times = [float(packet.dts * packet.time_base) for packet in container.demux(video=0) if packet.dts is not None]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[-1] >= 4.8
    assert all(gap == pytest.approx(1 / 20, abs=2e-3) for gap in gaps)


def test_the_packets_for_nvdec_are_known_by_their_format(tmp_path: Path) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", seconds=1.0)  # keeps its parameter sets outside of the stream
    packets, video = packets_of(clip)
    assert (video.codec, video.chroma, video.bit_depth) == ("h264", "420", 8)
    assert len(packets) == 10 and bytes(packets[0])[:4] == b"\0\0\0\1"


@pytest.mark.skipif(examine().part("driver").available, reason="this machine has a GPU, where these tests take minutes")
def test_the_tests_that_need_a_gpu_are_collected_and_say_what_is_missing(tmp_path: Path) -> None:
    result = run_tests(read_plan(plan_in(tmp_path)))
    assert result["passed"] == 0 and not result["failed_tests"]
    assert str(result["failed"]).startswith("no test ran") and len(result["skipped"]) > 20
    assert all("driver" in reason for reason in result["skipped"].values()), result["skipped"]


def test_cameras_decoded_in_software_are_told() -> None:
    run = {**RUN, "decoders": {"nvdec": 60, "software": 4}}
    report = as_json(found("driver"), [outcome("pipeline", {"runs": [run], "inferred_fps": 1.0})], seconds=1.0)
    assert "4 decoded in software" in as_table(report)


def test_cameras_send_more_than_the_slower_of_engine_and_nvdec(tmp_path: Path) -> None:
    plan = read_plan(plan_in(tmp_path))
    assert offered_fps(plan) == 8000
    steps = [outcome("engine", {"images_per_second": 20_000.0}), outcome("nvdec", {"fps": 9000.0})]
    (tmp_path / "outcomes.json").write_text(json.dumps([asdict(step) for step in steps]), encoding="utf-8")
    assert offered_fps(plan) == pytest.approx(11_700)
