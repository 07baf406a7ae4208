"""The demo, as a user runs it: a process of its own, a terminal or a pipe, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import httpx
import psutil
import pytest

from tests.support.command import run_command

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
RUNNING = "4 cameras running"


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of all demos here, so that the scenes are drawn once."""
    return tmp_path_factory.mktemp("demo")


class DemoProcess:
    """`vidette demo` on a free port; its output is read as it comes."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDETTE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "demo", "--port", "0", "--data-dir", str(data_dir), *options],
            cwd=ROOT,
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seen: list[str] = []
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="demo-output")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())

    def lines(self, timeout_s: float) -> Iterator[str]:
        """Each line as it comes, until the time is up."""
        ends_at = time.monotonic() + timeout_s
        while (left_s := ends_at - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left_s)
            except Empty:
                return
            self.seen.append(line)
            yield line

    def wait_for(self, pattern: str, timeout_s: float = START_S) -> re.Match[str]:
        for line in self.lines(timeout_s):
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line like {pattern!r} within {timeout_s:g} s:\n" + "\n".join(self.seen))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_demo_reaches_four_cameras_with_boxes_and_leaves_nothing_behind(demo_dir: Path) -> None:
    demo = DemoProcess(demo_dir)
    try:
        url = demo.wait_for(r"^console +(http://\S+)/$")[1]
        demo.wait_for(RUNNING)
        demo.wait_for(r"^(street|plaza|yard|shop) +running .* ms +[1-9]\d* ")  # boxes in its newest frame
        cameras = httpx.get(f"{url}/api/v1/cameras").raise_for_status().json()
        children = psutil.Process(demo.process.pid).children(recursive=True)

        demo.process.send_signal(signal.SIGINT)
        code = demo.process.wait(20)

        assert code == 0, demo.seen
        assert sorted(camera["name"] for camera in cameras) == ["plaza", "shop", "street", "yard"]
        assert len(children) == 1
        assert not [child for child in children if child.is_running()]
        assert sorted(path.name for path in demo_dir.iterdir()) == ["demo"]
        assert not [line for line in demo.seen if "Traceback" in line]
    finally:
        demo.close()


def test_demo_after_one_that_was_killed_starts_over_and_ends_after_its_seconds(demo_dir: Path) -> None:
    first = DemoProcess(demo_dir)
    try:
        first.wait_for(RUNNING)
    finally:
        first.close()

    second = DemoProcess(demo_dir, "--seconds", "0.5")
    try:
        second.wait_for(RUNNING)
        second.wait_for(r"^camera +state +fps")
        assert second.process.wait(20) == 0, second.seen
    finally:
        second.close()


def test_demo_names_the_port_that_is_occupied(demo_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        code = run_command("demo", "--port", str(port), "--data-dir", str(demo_dir))

    assert code == 2
    assert f"server.port: 127.0.0.1:{port} cannot be used" in capsys.readouterr().err


def test_demo_with_a_model_that_is_not_there_says_so(demo_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command("demo", "--port", "0", "--model", "no-such-model", "--data-dir", str(demo_dir))

    assert code == 2
    assert "model no-such-model is neither a file nor one of the models" in capsys.readouterr().err
