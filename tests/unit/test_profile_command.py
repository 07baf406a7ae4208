"""The options of `vidette profile`, NVIDIA's tools around it, and its entries in scripts/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli import build_parser
from app.commands.profile import as_arguments
from app.errors import AppError
from app.measure.profile.tools import ROOT, run_under
from tests.support.command import run_command

SCRIPTS = ROOT / "scripts"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cameras", "0"], "--cameras must be from 1 to 64, not 0"),
        (["--batch", "17"], "--batch must be from 1 to 16, not 17"),
        (["--batch", "8", "--cameras", "4"], "--batch 8 is never filled by 4 cameras, which give one frame each"),
        (["--seconds", "0.1"], "--seconds must be from 0.5 to 600, not 0.1"),
        (["--seconds", "nan"], "--seconds must be from 0.5 to 600, not nan"),
        (["--frames", "0"], "--frames must be at least 1, not 0"),
        (["--budget-ms", "0"], "--budget-ms must be more than 0, not 0"),
        (["--clip", "missing.mp4"], "--clip: there is no file missing.mp4"),
        (["--out", "missing/profile.json"], "--out: there is no folder missing"),
        (["--trace", "missing/trace.json"], "--trace: there is no folder missing"),
        (["--postprocess", "--trace", "trace.json"], "--trace: comparing postprocessing alone has no stages to show"),
        (["--model", "no-such-model"], "model no-such-model is neither a file nor one of the models"),
    ],
)
def test_profile_refuses_what_it_cannot_measure(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("profile", *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"vidette: {sentence}")


def test_profile_refuses_a_clip_that_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_text("not a video")
    assert run_command("profile", "--clip", str(clip)) == 2
    assert "clip.mp4 cannot be read" in capsys.readouterr().err


def test_profile_refuses_a_backend_that_has_no_components(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDETTE_BACKEND__DEVICE", "synthetic")
    assert run_command("profile") == 1
    assert "profiles are taken of the cpu and the cuda backend" in capsys.readouterr().err


@pytest.mark.parametrize(("tool", "name"), [("nsys", "NVIDIA Nsight Systems"), ("ncu", "NVIDIA Nsight Compute")])
def test_a_tool_that_is_absent_is_told_in_one_sentence(
    tool: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command("profile", f"--{tool}") == 1
    assert capsys.readouterr().err == f"vidette: --{tool}: {tool} is not on PATH; it comes with {name}\n"


def test_a_tool_runs_the_same_command_without_itself() -> None:
    called: list[list[str]] = []

    def call(command: list[str], *, env: dict[str, str]) -> int:
        assert str(ROOT) in env["PYTHONPATH"]
        called.append(command)
        return 3

    line = ["profile", "--nsys", "--device", "cuda", "--batch", "8", "--clip", "a b.mp4", "--comprehensive", "--json"]
    arguments = build_parser().parse_args(line)
    assert run_under("nsys", as_arguments(arguments), which=lambda _: "/opt/nsys", call=call) == 3
    (command,) = called
    assert command[:2] == ["/opt/nsys", "profile"]
    ours = command[command.index("app") + 1 :]
    assert "--nsys" not in ours
    again = build_parser().parse_args(ours)
    assert {**vars(again), "nsys": True, "run": None} == {**vars(arguments), "run": None}


def test_run_under_raises_for_a_tool_that_is_missing() -> None:
    with pytest.raises(AppError, match="ncu is not on PATH"):
        run_under("ncu", [], which=lambda _: None)


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, **options
    )


@pytest.mark.parametrize("script", ["profile.py", "test_profiling.py"])
def test_the_scripts_are_the_command(script: str) -> None:
    done = python(str(SCRIPTS / script), "--cameras", "0")
    assert (done.returncode, done.stderr) == (2, "vidette: --cameras must be from 1 to 64, not 0\n")


def test_a_script_beside_ours_still_finds_pythons_own_profile() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import cProfile, profile, pstats; "
        "cProfile.Profile().runcall(int); profile.Profile; print(profile.__file__)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert str(SCRIPTS) not in done.stdout
