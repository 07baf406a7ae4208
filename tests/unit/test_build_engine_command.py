"""`vidette build-engine`: what it says where it cannot build, and how it shows where it is."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.commands.build_engine import Shown
from app.commands.progress import Progress
from tests.support.command import run_command

ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "models" / "vidette-demo")
without_tensorrt = pytest.mark.skipif(
    find_spec("tensorrt") is not None or find_spec("tensorrt_rtx") is not None, reason="TensorRT is installed"
)


@without_tensorrt
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "TensorRT is not installed; pip install 'vidette[cuda]'"),
        (("--runtime", "tensorrt_rtx"), "TensorRT-RTX is not installed; pip install 'vidette[rtx]'"),
    ],
)
def test_without_tensorrt_it_is_one_sentence_that_names_the_package(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "app", "build-engine", DEMO, "--data-dir", str(tmp_path / "data"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    runtime = arguments[-1] if arguments else "tensorrt"
    assert done.stderr == f"vidette: backend {runtime} is not available: {sentence}\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--max-batch", "17"), "--max-batch must be 1 to 16, not 17"),
        (("--max-batch", "4", "--opt-batch", "8"), "--opt-batch must be 1 to --max-batch, which is 4, not 8"),
        (("--workspace-mib", "0"), "--workspace-mib must be 1 or more, not 0"),
        (("--calibrate", "."), "--calibrate is for --precision int8, not fp16"),
        (("--compute-capability", "8.9,new"), "--compute-capability must be numbers such as 8.9,12.0, not new"),
        (("--out", "x.plan"), "--out must name a file that ends in .engine, not x.plan"),
    ],
)
def test_an_option_that_cannot_be_is_refused_whatever_is_installed(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("build-engine", DEMO, *arguments) == 2
    assert capsys.readouterr().err == f"vidette: {sentence}\n"


@without_tensorrt
def test_the_script_of_the_old_name_builds_engines_too(tmp_path: Path) -> None:
    script = [str(ROOT / "scripts" / "build_batch_model.sh"), DEMO]
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=env)
    assert done.returncode == 1
    assert "TensorRT is not installed" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--precision", "fp8"), ("--max-batch", "many"), ("--runtime", "onnx"), ("--opt-batch",)]
)
def test_bad_usage_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command("build-engine", DEMO, *arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_lines_and_a_long_one_tells_every_five_seconds_how_far_it_is() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(out) as progress:
        shown = Shown(progress, terminal=False, clock=clock)
        shown("preparing demo as fp16")
        built_yet = shown.built
        for percent in range(100):
            clock.now += 0.125
            shown(f"building the engine: {percent} % (Tactic selection)")
    assert (built_yet, shown.built) == (False, True)
    assert out.getvalue().splitlines() == [
        "preparing demo as fp16 ...",
        "building the engine ...",
        "building the engine: 40 % (Tactic selection) ...",
        "building the engine: 80 % (Tactic selection) ...",
    ]


def test_on_a_terminal_steps_have_a_bar() -> None:
    out = Terminal()
    with Progress(out) as progress:
        shown = Shown(progress, terminal=True)
        shown("calibrating INT8: image 3 of 12")
    assert "calibrating INT8" in out.getvalue()
    assert "25%" in out.getvalue()
