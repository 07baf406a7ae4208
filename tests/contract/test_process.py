"""The service as a process: it survives kill -9, ends on SIGTERM, and refuses bad starts with a sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.backends.select import probe_cpu
from app.cameras.database import APPLICATION_ID
from tests.support.serve_process import ROOT, ServeProcess
from tests.support.wait import wait_in_thread

SYNTHETIC = {"VIDETTE_BACKEND__DEVICE": "synthetic"}


def without_status(camera: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in camera.items() if key != "status"}


def test_cameras_survive_kill_9_and_sigterm_ends_cleanly(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServeProcess(data_dir, environ=SYNTHETIC) as service:
        service.register(
            id="gate-1", url="rtsp://admin:hunter2@camera.test/1?fps=20", min_score=0.7, classes=["person"]
        )
        service.register(id="gone", url="rtsp://camera.test/2")
        httpx.delete(f"{service.url}/api/v1/cameras/gone").raise_for_status()
        acknowledged: list[dict[str, Any]] = []

        def register_many() -> None:
            try:
                for number in range(10_000):
                    body = {"id": f"camera-{number}", "url": "rtsp://camera.test/3", "enabled": False}
                    acknowledged.append(service.register(**body))
            except httpx.HTTPError:
                pass  # it was killed

        writer = threading.Thread(target=register_many)
        writer.start()
        wait_in_thread(lambda: len(acknowledged) >= 15)
        service.process.kill()  # in the middle of writing
        writer.join()

    with ServeProcess(data_dir, environ=SYNTHETIC) as service:
        found = {camera["id"]: camera for camera in service.get("/api/v1/cameras")}
        assert "gone" not in found
        assert (found["gate-1"]["min_score"], found["gate-1"]["classes"]) == (0.7, ["person"])
        assert (found["gate-1"]["username"], found["gate-1"]["password_set"]) == ("admin", True)
        for camera in acknowledged:
            assert without_status(found[camera["id"]]) == without_status(camera)
        assert len(found) - len(acknowledged) in (1, 2)  # the last one may have been stored but not answered
        service.wait_running("gate-1")
        end_with_sigterm(service)


def end_with_sigterm(service: ServeProcess) -> None:
    with connect(service.ws_url, proxy=None) as client:
        assert '"type":"hello"' in str(client.recv(10))
        started_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                client.recv(10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
    assert service.process.wait(10) == 0
    assert time.monotonic() - started_at < 10
    assert "Traceback" not in service.log()
    assert "hunter2" not in service.log()


def make_database(data_dir: Path, *statements: str) -> None:
    data_dir.mkdir()
    with sqlite3.connect(data_dir / "vidette.db") as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def read_only(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o555)


def corrupt(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "vidette.db").write_bytes(b"this is no database" * 500)


def newer(data_dir: Path) -> None:
    application = f"PRAGMA application_id = {APPLICATION_ID}"
    make_database(data_dir, "CREATE TABLE cameras (id)", application, "PRAGMA user_version = 99")


def foreign(data_dir: Path) -> None:
    make_database(data_dir, "CREATE TABLE bookmarks (url)")


def test_every_bad_start_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    typo = tmp_path / "vidette.yml"
    typo.write_text("batching:\n  max_sise: 4\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check_bad_starts(tmp_path, typo, taken)


def check_bad_starts(tmp_path: Path, typo: Path, taken: socket.socket) -> None:
    port = str(taken.getsockname()[1])
    starts: dict[str, tuple[list[str], dict[str, str], Any, str]] = {
        "a typo": (["--config", str(typo)], {}, None, "batching.max_sise: unknown key"),
        "a variable": ([], {"VIDETTE_SPEED": "9"}, None, "VIDETTE_SPEED: no such setting"),
        "a port": (["--port", port], {}, None, f"127.0.0.1:{port} cannot be used: Address already in use"),
        "a read-only folder": ([], {}, read_only, "is read-only; Vidette keeps its cameras there"),
        "a file for a folder": ([], {}, Path.touch, "cannot be made: File exists"),
        "a corrupt database": ([], {}, corrupt, "the camera database is corrupt"),
        "a newer database": ([], {}, newer, "written by a newer Vidette"),
        "a foreign database": ([], {}, foreign, "this is another program's database"),
    }
    if probe_cpu().available:
        model = ["--backend.device", "cpu", "--model", "no-such-model"]
        starts["a missing model"] = (model, {}, None, "no-such-model")
    running = {}
    before: dict[str, bytes] = {}
    for number, (name, (options, environ, prepare, _)) in enumerate(starts.items()):
        data_dir = tmp_path / f"data-{number}"
        if prepare is not None:
            prepare(data_dir)
        before[name] = read(data_dir)
        running[name] = (data_dir, start(data_dir, options, environ))
    for name, (data_dir, process) in running.items():
        _, err = process.communicate(timeout=60)
        sentences = [line for line in err.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", line)]
        assert process.returncode == 2, (name, err)
        assert len(sentences) == 1, (name, err)
        assert sentences[0].startswith("vidette: "), (name, err)
        assert starts[name][3] in sentences[0], (name, err)
        assert not before[name] or read(data_dir) == before[name], name


def start(data_dir: Path, options: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDETTE_")}
    arguments = ["serve", "--data_dir", str(data_dir)]
    if "--port" not in options:
        arguments += ["--port", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", "app", *arguments, *options],
        cwd=ROOT,
        env={**clean, **SYNTHETIC, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(data_dir: Path) -> bytes:
    database = data_dir / "vidette.db"
    return database.read_bytes() if database.is_file() else b""


def test_a_process_whose_loop_hangs_ends_with_a_failure_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    environ = {**SYNTHETIC, "PYTHONPATH": str(tmp_path), "VIDETTE_SERVER__STALL_EXIT_S": "2"}
    service = ServeProcess(tmp_path / "data", environ=environ)
    with service:
        service.process.send_signal(signal.SIGUSR1)
        assert service.process.wait(20) == 1
        assert "in stand_still" in service.log().split("the event loop's thread")[1].split("\nthread ")[0]
        assert "the event loop has not answered for 2 s: the process ends" in service.log()


# A handler of a signal runs in the loop's thread.
HANGS = """
import signal, time
def stand_still(*_):
    while True: time.sleep(60)
signal.signal(signal.SIGUSR1, stand_still)
"""
