"""The comparison with what a user would write, short: everybody sees the same frames and finds the same boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run_command

pytest.importorskip("onnxruntime", reason="the peers run on ONNX Runtime: pip install onnxruntime")


def test_peers_run_on_the_same_frames_and_find_the_same_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "peers.json"

    options = ("--peer", "opencv-loop", "--precision", "fp32", "--cameras", "2", "--seconds", "1", "--no-paced")
    code = run_command("bench", "--peers", *options, "--out", str(out))

    shown = capsys.readouterr()
    assert code == 0, shown.err
    found = json.loads(out.read_text(encoding="utf-8"))
    figures = {name: figure["samples"][0] for name, figure in found["figures"].items()}
    assert found["kind"] == "peers"
    for name in ("ours_fp32", "opencv_loop"):
        assert figures[f"{name}.inferred_fps"] > 0
        assert figures[f"{name}.camera_fps.min"] > 0
        assert figures[f"{name}.cpu_ms_per_frame"] > 0
        assert figures[f"{name}.unrecognised"] == 0
        # Counted from the camera's sending: nobody is done before, whatever clock a result came with.
        assert 0 < figures[f"{name}.latency_ms.p50"] <= figures[f"{name}.latency_ms.p99"]
    ratio = figures["ours_fp32.inferred_fps"] / figures["opencv_loop.inferred_fps"]
    assert figures["ratio.fp32.opencv_loop"] == pytest.approx(ratio, abs=1e-3)
    boxes = found["saturated"]["boxes"]["opencv_loop"]
    assert boxes["boxes"] > 0
    assert boxes["share"] > 0.9
    assert "opencv-loop" in shown.out


def test_an_unknown_peer_ends_the_command_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command("bench", "--peers", "--peer", "nobody")

    assert code == 2
    assert "--peer: there is no nobody" in capsys.readouterr().err
