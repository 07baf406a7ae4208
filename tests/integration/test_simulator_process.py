"""The simulator as a process: its command line, its control channel, and that nothing is left running."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.simulator.__main__ import main
from app.simulator.errors import SimulatorError
from app.simulator.process import ProcessOptions, SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.rtsp import watch

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "-p@ss:w/ö#%?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_clip(tmp_path_factory.mktemp("clips") / "street.mp4", fps=50, seconds=0.4, gop=5)


@pytest.fixture(scope="module")
def simulator(clip: Path) -> Iterator[SimulatorProcess]:
    options = ProcessOptions(auth="digest", username="admin", password=PASSWORD)
    with SimulatorProcess([clip], cameras=2, options=options) as running:
        yield running


def test_cameras_are_up_when_the_context_opens(simulator: SimulatorProcess) -> None:
    assert list(simulator.urls) == ["cam0", "cam1"]
    assert simulator.url("cam1") == f"rtsp://127.0.0.1:{simulator.port}/cam1"
    assert simulator.url("cam1", credentials=True).startswith("rtsp://admin:-p%40ss%3Aw%2F%C3%B6%23%25%3F@127.0.0.1:")
    view = watch(simulator.url("cam1", credentials=True), frames=5)
    assert view.error is None and len(view.numbers) >= 5


def test_faults_and_counts_go_over_the_control_channel(simulator: SimulatorProcess) -> None:
    simulator.set_fault("cam0", "missing")
    view = watch(simulator.url("cam0", credentials=True))
    stats = simulator.stats()["cam0"]
    simulator.set_fault("cam0", "ok")
    assert type(view.error).__name__ == "HTTPNotFoundError"
    assert (stats["fault"], stats["viewers"]) == ("missing", 0)


def test_camera_comes_and_goes_and_changes_its_clip(simulator: SimulatorProcess, tmp_path: Path) -> None:
    small = write_test_clip(tmp_path / "small.mp4", width=160, height=120, fps=50, seconds=0.4, gop=5)
    url = simulator.add_camera("gate", small, audio_first=True, sprop=False)
    assert url == simulator.url("gate")
    assert watch(simulator.url("gate", credentials=True), frames=2).sizes[0] == (160, 120)
    assert simulator.load_clip(small) == "small"
    simulator.set_fault("cam0", "resolution=small")
    assert watch(simulator.url("cam0", credentials=True), frames=2).sizes[0] == (160, 120)
    simulator.set_fault("cam0", "ok")
    simulator.remove_camera("gate")
    with pytest.raises(SimulatorError, match="there is no camera gate; there are: cam0, cam1"):
        simulator.url("gate")


def test_refusal_is_raised_with_the_childs_sentence(simulator: SimulatorProcess, tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="fault 'explode' is unknown"):
        simulator.set_fault("cam0", "explode")
    with pytest.raises(SimulatorError, match=r"clip .*none\.mp4 cannot be read"):
        simulator.add_camera("gate", tmp_path / "none.mp4")
    assert list(simulator.stats()) == ["cam0", "cam1"]


def test_late_answer_is_not_taken_for_the_next_one(simulator: SimulatorProcess, clip: Path) -> None:
    child = psutil.Process(simulator.pid)
    child.suspend()
    try:
        with pytest.raises(SimulatorError, match=r"the simulator process did not answer within 0.05 s"):
            simulator.command("load", clip=str(clip), timeout_s=0.05)
    finally:
        child.resume()
    assert "cameras" in simulator.command("stats")


def test_child_ends_with_its_context(clip: Path) -> None:
    with SimulatorProcess([clip]) as running:
        child = psutil.Process(running.pid)
        port = running.port
    assert not child.is_running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(SimulatorError, match="the simulator process is not running"):
        running.stats()
    running.close()


def test_child_ends_with_its_parents_pipe(clip: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "app.simulator", "--control", "--port", "0", str(clip)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        assert b'"ready": true' in child.stdout.readline()
        child.stdin.close()
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_dead_child_is_noticed(clip: Path) -> None:
    with SimulatorProcess([clip]) as running:
        psutil.Process(running.pid).kill()
        with pytest.raises(SimulatorError, match="the simulator process ended with code -9"):
            running.stats()
        with pytest.raises(SimulatorError, match="ended with code -9"):
            running.stats()


def test_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"^simulator: clip .*none\.mp4 cannot be read: No such file"):
        SimulatorProcess([tmp_path / "none.mp4"]).__enter__()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there must be at least one CLIP, or --control"),
        (["nothing.mp4"], "nothing.mp4 cannot be read: No such file or directory"),
        (["a.mp4", "--cameras", "0"], "--cameras must be at least 1, and needs a CLIP"),
        (["--control", "--cameras", "2"], "--cameras must be at least 1, and needs a CLIP"),
        (["a.mp4", "--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["a.mp4", "--port", "rtsp"], "argument --port: invalid int value: 'rtsp'"),
        (["a.mp4", "--auth", "digest"], "--auth digest needs a --user"),
        (["a.mp4", "--fault", "stall"], "--fault must be CAMERA=FAULT, not 'stall'"),
        (["a.mp4", "--fault", "cam0=drop"], "fault drop needs a number (0 to 1)"),
        (["a.mp4", "--tls", "no.pem", "no.key"], "certificate no.pem or its key cannot be used: No such file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*arguments] if "--port" in arguments else [*arguments, "--port", "0"])
    except SystemExit as exit_:
        assert exit_.code == 2
        code = 2
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("simulator: ") and printed.err.count("\n") == 1
    assert sentence in printed.err


def test_fault_of_an_unknown_camera_is_refused(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--port", "0", "--fault", "cam1=stall"]) == 2
    assert capsys.readouterr().err == "simulator: there is no camera cam1; there are: cam0\n"


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "python -m app.simulator street.mp4 --cameras 4" in capsys.readouterr().out


class Announcing(io.StringIO):
    """Standard output that tells when something was flushed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = threading.Event()

    def flush(self) -> None:
        super().flush()
        if self.getvalue():
            self.flushed.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_urls_are_printed_and_a_signal_ends_it(clip: Path, number: signal.Signals) -> None:
    output = Announcing()

    def interrupt() -> None:
        if output.flushed.wait(20):
            os.kill(os.getpid(), number)

    waiting = threading.Thread(target=interrupt, name="test:interrupt")
    with contextlib.redirect_stdout(output):
        waiting.start()
        arguments = ["--cameras", "3", "--port", "0", "--user", "admin", "--password", "x", "--fault", "cam2=stall"]
        code = main([str(clip), *arguments])
    waiting.join()
    lines = output.getvalue().splitlines()
    assert code == 0
    assert [line.rsplit("/", 1)[1] for line in lines] == ["cam0", "cam1", "cam2"]
    assert all(line.startswith("rtsp://127.0.0.1:") for line in lines)


def test_control_needs_a_pipe(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text("{}\n")
    with commands.open() as standard_input:
        finished = subprocess.run(
            [sys.executable, "-m", "app.simulator", "--control", "--port", "0"],
            cwd=ROOT,
            stdin=standard_input,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert finished.returncode == 2
    assert finished.stderr == "simulator: --control needs a pipe or a terminal as standard input\n"
