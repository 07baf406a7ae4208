"""`vidette profile` from end to end, short: what it reports must agree with itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from app.commands.progress import Progress
from app.measure.machine import this_machine
from app.measure.profile.cuda import open_cuda
from app.measure.profile.report import Profile, as_json, as_text
from app.measure.profile.session import Wishes, measure
from app.settings import load_settings
from tests.support.clips import write_test_clip
from tests.support.command import run_command
from tests.support.host_backend import host_libraries
from tests.support.host_driver import HostDriver
from tests.support.onnx_models import bright_cells, saved


def test_profile_reports_every_stage_of_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDETTE_DATA_DIR", str(tmp_path / "data"))
    clip = str(write_test_clip(tmp_path / "clip.mp4", fps=15))
    out, trace = tmp_path / "profile.json", tmp_path / "trace.json"
    model = str(saved(bright_cells(), tmp_path / "cells.onnx"))
    line = ["--device", "cpu", "--model", model, "--clip", clip, "--frames", "24", "--batch", "4", "--seconds", "0.5"]

    code = run_command("profile", *line, "--json", "--out", str(out), "--trace", str(trace))

    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert (report["kind"], report["device"], report["frames"], report["batches"]) == ("profile", "cpu", 24, 6)
    stages = {stage["stage"]: stage for stage in report["stages"]}
    assert list(stages) == ["read", "decode", "hand-over", "preprocess", "infer", "postprocess", "publish"]
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1.0, abs=1e-3)
    assert stages["publish"]["calls"] == 24
    assert stages["infer"]["calls"] == stages["preprocess"]["calls"] == 6
    for stage in stages.values():
        assert 0 < stage["wall_ms"]["p50"] <= stage["wall_ms"]["p95"] <= stage["wall_ms"]["p99"]
        assert stage["device_ms"] >= 0
    assert report["figures"]["stage.infer.wall_ms.p50"]["samples"] == [stages["infer"]["wall_ms"]["p50"]]
    assert [row["batch"] for row in report["sweep"]["rows"]] == [1, 2, 4, 8, 12, 16]
    assert len(report["binding"]["evidence"]) >= 2
    assert {step["step"] for step in report["memory"]["steps"]} == {"open", "components", "batch sweep", "service"}
    assert report["load"]["figures"]["inferred_fps"] > 0
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert set(stages) <= names
    threads = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert any(name.startswith("camera:") for name in threads)
    assert any(name.startswith("cpu-detector") for name in threads)


def test_profile_of_the_cuda_backend_on_host_memory(tmp_path: Path) -> None:
    driver, work = HostDriver(), tmp_path / "work"
    work.mkdir()
    settings = load_settings(
        overrides={
            "data_dir": tmp_path / "data",
            "media_dir": work,
            "model": str(saved(bright_cells(), tmp_path / "cells.onnx")),
            "backend": {"device": "cuda", "decoder": "software", "contexts": 1},
            "cameras": {"declared": ()},
        },
        environ={},
    )
    clip = write_test_clip(tmp_path / "clip.mp4", seconds=1.0)
    wishes = Wishes(clip=clip, folder=work, seconds=0.5, budget_ms=33.0, frames=8, batch=4)
    opener = partial(open_cuda, libraries=host_libraries(driver))

    session = measure(settings, wishes, Progress(), open_device=opener)

    profile = Profile(machine=this_machine(), components=session.components, comparison=None)
    report, text = as_json(profile), as_text(profile)
    assert report["load"]["figures"]["inferred_fps"] > 0
    assert report["stages_absent"] == ["track"]
    assert "between two CUDA events" in text
    assert "reserved peak" in text
    assert not driver.left_open
    # The user's cameras are not touched: the service under load has a folder of its own.
    assert (work / "data" / "vidette.db").exists()
    assert not (tmp_path / "data" / "vidette.db").exists()
