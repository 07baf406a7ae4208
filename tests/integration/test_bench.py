"""The benchmark, short: what it reports must agree with itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.clips import write_test_clip
from tests.support.command import run_command

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2.0


@pytest.fixture(autouse=True)
def settled_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to be measured at the start, which takes seconds."""
    for name, value in (("ENGINE", "openvino"), ("PRECISION", "fp32"), ("CONTEXTS", "2")):
        monkeypatch.setenv(f"VIDETTE_BACKEND__{name}", value)


def test_bench_reports_figures_that_agree_with_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))

    options = ["--cameras", "2", "--seconds", str(SECONDS), "--clip", clip]
    code = run_command("bench", *options, "--json", "--out", str(out))

    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    service, ledger, limit = report["service"], report["ledger"], report["limit"]
    assert ledger["holds"]
    assert ledger["decoded"] == ledger["published"] + sum(ledger["dropped"].values())
    assert ledger["in_flight_after_stop"] == 0
    assert SECONDS - 0.1 < service["seconds"] < SECONDS + 20  # a busy machine may look late
    batched = sum(int(size) * count for size, count in service["batch_sizes"].items())
    # A frame may be between its batch and its result at either end of the measurement.
    assert batched == pytest.approx(service["inferred_fps"] * service["seconds"], abs=8)
    total, stages = service["latency_ms"]["total"], service["latency_ms"]
    assert 0 < total["p50"] <= total["p95"] <= total["p99"]
    assert stages["infer"]["p50"] < total["p50"]
    assert service["camera_fps"]["min"] > 0
    assert service["camera_fps"]["jain"] <= 1.0
    assert service["cpu_ms_per_frame"] > 0
    assert service["usage"]["simulator"] > 0
    assert len(limit["runs"]) == 2
    assert report["ratio"] == pytest.approx(service["inferred_fps"] / limit["fps"], rel=1e-3, abs=1e-4)
    assert report["machine"]["cores"] >= 1


def test_sweep_measures_the_same_cameras_frame_by_frame_and_in_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))
    out = tmp_path / "sweep.json"

    options = ["--cameras", "2", "--batches", "2", "--seconds", "0.5", "--clip", clip, "--fps", "30"]
    code = run_command("bench", "--sweep", *options, "--out", str(out))

    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["kind"] == "sweep"
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["sequential", "batch_2"]
    assert rows["sequential"]["engine"]["contexts"] == 1
    assert set(rows["sequential"]["service"]["batch_sizes"]) == {"1"}
    assert all(row["ledger"]["holds"] for row in rows.values())
    assert report["figures"]["sequential.speed_up"]["samples"] == [1.0]
    speed_up = rows["batch_2"]["service"]["inferred_fps"] / rows["sequential"]["service"]["inferred_fps"]
    assert report["figures"]["batch_2.speed_up"]["samples"] == [pytest.approx(speed_up, abs=1e-3)]
    lines = shown.out.splitlines()
    assert sum(line.startswith("sequential ") for line in lines) == 2  # in the table, and in that of the stages


def test_bench_frame_by_frame_never_forms_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))

    paced = ["--mode", "paced", "--phase", "aligned", "--fps", "30"]
    code = run_command("bench", "--cameras", "3", "--seconds", "1", "--clip", clip, "--max-size", "1", *paced)

    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert code == 0
    assert lines["batches"].startswith("of 1 ")
    assert "," not in lines["batches"]
    assert lines["load"].startswith("3 cameras, h264 320x240, 30 fps, paced, aligned phases")
    assert lines["ledger"].startswith("holds")


def test_bench_measures_a_camera_without_and_with_clients_and_closes_the_stuck_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))
    out = tmp_path / "subscribers.json"

    how = ["--fps", "60", "--seconds", "1", "--stand-still", "1", "--clip", clip]
    code = run_command("bench", "--subscribers", "20", "--stuck", "5", *how, "--out", str(out))

    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["kind"], report["clients"], report["stuck"]) == ("subscribers", 20, 5)
    (run,) = report["runs"]
    assert run["ledger_holds"]
    assert (run["disorder"], run["eviction"]["evicted"], run["eviction"]["saw_1013"]) == (0, 5, 5)
    (without,), (crowded,) = run["without"], run["with_clients"]
    assert without["published_fps"] > 0
    assert without["read_per_s"] == 0
    assert crowded["read_per_s"] > crowded["published_fps"]
    assert 0 < crowded["delay_ms"]["p50"] <= crowded["delay_ms"]["p99"]
    assert run["fps_ratio"] == pytest.approx(crowded["published_fps"] / without["published_fps"], rel=1e-3)
    assert report["figures"]["fps_60.fps_ratio"]["samples"] == [pytest.approx(run["fps_ratio"], abs=1e-3)]
    assert "evicted with 1013: 5 of 5" in shown.out


def test_overload_tells_shares_ages_and_the_api_s_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))

    options = ["--cameras", "4", "--seconds", "1.5", "--clip", clip, "--fps", "60", "--ladder", "off"]
    code = run_command("bench", "--overload", *options, "--json")

    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert report["kind"] == "overload"
    assert set(report["runs"]) == {"synthetic", "real"}
    for (run,) in report["runs"].values():
        assert run["ledger"]["holds"]
        assert [share["priority"] for share in run["shares"]] == [1, 2, 5, 10]
        inferred, due = (sum(share[name] for share in run["shares"]) for name in ("inferred_fps", "due_fps"))
        assert 0 < inferred <= sum(share["offered_fps"] for share in run["shares"]) + 4
        assert due == pytest.approx(inferred, rel=0.05)
        assert run["age_ms"]["p50"] >= run["batch_ms"]["p50"] > 0
        assert len(run["api_ms"]) == 5
        assert run["levels"] == {"full": 4}
    synthetic = report["figures"]["synthetic.overload"]["samples"][0]
    assert synthetic > 1.5


def test_a_terminated_bench_leaves_no_process_and_no_folder_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "bench", "--faults", "stall", "--cameras", "2", "--seconds", "60"]
    work = tmp_path / "work"
    work.mkdir()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(work)}, stderr=subprocess.PIPE, text=True
    ) as bench:
        assert bench.stderr is not None
        assert next((line for line in bench.stderr if "undisturbed" in line), None), "it never came to its cameras"
        children = psutil.Process(bench.pid).children(recursive=True)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 130
    assert len(children) >= 3, "the service and the cameras"
    _gone, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert not alive
    assert not list(work.iterdir())
