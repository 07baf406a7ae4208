"""While an engine is built: what users see of it, and how the service stops in the middle of it."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.backends.base import OnProgress, unwatched
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.commands.serve import outcome
from app.errors import Cancelled
from tests.support.app import API, StartApp
from tests.support.fakes import BuildingBackend
from tests.support.wait import wait_in_thread, wait_until

ROOT = Path(__file__).resolve().parents[2]
BUILDING = "building the engine: 42 %, about 3 min left"


async def test_progress_is_shown_wherever_the_service_is_not_ready(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vidette.service")
    backend = BuildingBackend()
    running = await start_app(backend, wait_ready=False)
    try:
        await wait_until(lambda: running.service.progress.newest is not None)
        for path in ("/readyz", f"{API}/cameras", f"{API}/models"):
            response = await running.http.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready"), path
            assert response.json()["detail"] == (
                f"the service is starting: {BUILDING}; ask again when /readyz answers 200"
            )
        system = (await running.http.get(f"{API}/system")).json()
        assert (system["state"], system["progress"]) == ("starting", BUILDING)
        assert (await running.http.get("/livez")).status_code == 200
    finally:
        backend.go_on.set()
    await wait_until(lambda: running.service.state == "ready")
    system = (await running.http.get(f"{API}/system")).json()
    assert (system["state"], system["progress"]) == ("ready", None)
    assert caplog.messages.count(BUILDING) == 1


async def test_a_stop_gives_up_a_build_at_its_next_sentence(start_app: StartApp) -> None:
    backend = BuildingBackend()
    running = await start_app(backend, wait_ready=False)
    await wait_until(lambda: running.service.progress.newest is not None)
    await running.stop()
    assert isinstance(backend.error, Cancelled)
    assert (running.service.state, running.service.fatal, running.service.abandoned_threads) == ("stopped", None, 0)
    assert outcome(running.service) == 0
    assert (await asyncio.to_thread(_opening_threads)) == []


async def test_a_build_that_says_nothing_is_left_behind_within_bounds(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    class Silent(SyntheticBackend):
        def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
            assert go_on.wait(60)
            return super().open_detector()

    running = await start_app(Silent(), wait_ready=False)
    await wait_until(lambda: bool(_opening_threads()))
    began = time.monotonic()
    await running.stop()
    assert 3 < time.monotonic() - began < 10
    assert (running.service.fatal, running.service.abandoned_threads) == (None, 1)
    assert outcome(running.service) == 0
    assert "the detector did not open within 4 s of the stop and is abandoned" in caplog.text
    go_on.set()
    await asyncio.to_thread(wait_in_thread, lambda: not _opening_threads())


def _opening_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "opening"]


# As `vidette serve` runs it, with an engine that takes an hour to build.
SERVE = """
import sys, time
from pathlib import Path
from app.backends.synthetic.backend import SyntheticBackend
from app.commands.serve import leave, outcome, watch_the_clock
from app.logs import configure_logging
from app.main import create_app
from app.server import listen, make_server
from app.settings import load_settings

class Building(SyntheticBackend):
    def open_detector(self, on_progress):
        on_progress("building the engine: 0 %")
        ends_at = time.monotonic() + 3600
        while time.monotonic() < ends_at:
            time.sleep(0.05)
            if sys.argv[2] == "tells":
                on_progress("building the engine: 1 %")

configure_logging("info")
settings = load_settings(overrides={"data_dir": Path(sys.argv[1]), "server": {"port": 0}}, environ={})
app = create_app(settings, Building())
service = app.state.service
service.on_stopping = watch_the_clock
make_server(app, service).run(sockets=[listen(settings.server, settings.auth)])
sys.exit(leave(outcome(service), abandoned=service.abandoned_threads))
"""


@pytest.mark.parametrize("kind", ["tells", "is silent"])
def test_sigterm_during_a_long_build_ends_the_process_with_0_within_10_s(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "log").open("w+") as log:
        arguments = [sys.executable, "-c", SERVE, str(tmp_path / "data"), kind]
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log)
        try:
            wait_in_thread(lambda: "building the engine" in (tmp_path / "log").read_text(), timeout_s=60)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
            assert (code, time.monotonic() - began < 10) == (0, True), (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
