"""How the service ends: on request, by a crash, while it starts; in order, within bounds, leaving nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from app.backends.base import OnProgress, unwatched
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.backends.synthetic.source import SyntheticSource
from app.cameras.source import SourceRequest
from app.commands.serve import outcome
from app.errors import DeviceLost, ModelError, NotReady, StoreError
from app.main import create_app
from app.server import make_server
from app.service import Service
from tests.support.app import API, RunningApp, StartApp, make_settings
from tests.support.fakes import ManualDetector, SlowOpeningBackend
from tests.support.wait import wait_until


def camera_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("camera:")]


class Unfinished(SyntheticBackend):
    """Its detector ends batches when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.manual = ManualDetector(contexts=2)

    def open_detector(self, on_progress: OnProgress = unwatched) -> Any:
        return self.manual


async def test_a_stop_ends_every_thread_and_balances_every_ledger(running: RunningApp) -> None:
    for number in range(4):
        await running.register(f"camera-{number}", "fps=100")
    await running.register("hanging", "fps=100&after=2&hang=1")
    await running.register("retrying", "fail=auth_failed")
    await running.wait_published("camera-0", 3)
    cameras = running.parts.registry.cameras()
    started_at = time.monotonic()
    await running.stop()
    assert time.monotonic() - started_at < 10
    assert camera_threads() == []
    assert all(camera.lane.counts().in_flight == 0 for camera in cameras)
    assert running.service.state == "stopped"
    assert running.service.fatal is None
    assert not running.fatal.is_set()
    with pytest.raises(httpx.ConnectError):
        await running.http.get("/livez")


async def test_a_batch_in_flight_finishes_before_the_detector_is_closed(start_app: StartApp) -> None:
    backend = Unfinished()
    running = await start_app(backend)
    await running.register("a", "fps=100&after=1&hang=1")
    await wait_until(lambda: len(backend.manual.calls) == 1)
    lane = running.parts.registry.get("a").lane
    stopping = asyncio.create_task(running.stop())
    await wait_until(lambda: running.service.state == "stopping" and not camera_threads())
    closed_too_early = backend.manual.closed
    backend.manual.calls[0].finish()
    await stopping
    assert backend.manual.closed
    assert not closed_too_early
    assert (lane.counts().published, lane.counts().in_flight) == (1, 0)


async def test_the_api_refuses_while_the_service_stops(start_app: StartApp) -> None:
    backend = Unfinished()
    running = await start_app(backend)
    await running.register("a", "fps=100&after=1&hang=1")
    await wait_until(lambda: len(backend.manual.calls) == 1)
    stopping = asyncio.create_task(running.stop())
    await wait_until(lambda: running.service.state == "stopping")
    response = await running.http.get(f"{API}/cameras")  # over the connection that is open already
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert (await running.http.get("/readyz")).status_code == 503
    backend.manual.calls[0].finish()
    await stopping


@pytest.fixture
def not_under_nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_and_the_handlers_of_before_come_back(
    not_under_nohup: None, running: RunningApp, number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    assert handler == running.server.handle_exit
    signal.raise_signal(number)
    await asyncio.wait_for(running.task, 10)
    assert signal.getsignal(number) != handler
    assert outcome(running.service) == 0


async def test_a_lost_device_ends_the_service_cleanly_with_a_failure(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    detector = SyntheticDetector()
    options = {"on_fatal": lambda: signal.raise_signal(signal.SIGTERM)}  # the default, spelled out
    running = await start_app(SyntheticBackend(detector), options=options)
    await running.register("a", "fps=100")
    await running.wait_published("a")
    async with running.socket() as socket:
        await asyncio.wait_for(socket.recv(), 10)
        detector.fail_next = DeviceLost("the device fell off the bus")
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await asyncio.wait_for(socket.recv(), 10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
    await asyncio.wait_for(running.task, 10)
    assert isinstance(running.service.fatal, DeviceLost)
    assert running.service.state == "stopped"
    assert camera_threads() == []
    assert outcome(running.service) == 1
    assert "the service broke: the device fell off the bus" in caplog.text


async def test_after_a_crash_the_process_lives_but_is_not_ready(start_app: StartApp) -> None:
    detector = SyntheticDetector()
    running = await start_app(SyntheticBackend(detector))
    await running.register("a", "fps=100")
    await running.wait_published("a")
    detector.fail_next = DeviceLost("gone")
    await asyncio.wait_for(running.fatal.wait(), 10)
    assert (await running.http.get("/livez")).status_code == 200
    assert (await running.http.get("/readyz")).status_code == 503
    assert (await running.http.get(f"{API}/system")).json()["state"] == "stopped"
    assert "vidette_camera_up" not in await running.metrics()


async def test_a_model_that_cannot_be_used_ends_the_start_with_its_sentence(start_app: StartApp) -> None:
    class NoModel(SyntheticBackend):
        def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
            raise ModelError("model.onnx: is a text file")

    running = await start_app(NoModel(), wait_ready=False)
    await asyncio.wait_for(running.fatal.wait(), 10)
    await running.stop()
    with pytest.raises(ModelError, match="is a text file"):
        outcome(running.service)


async def test_a_stored_camera_that_cannot_be_read_ends_the_start_with_its_sentence(
    data_dir: Path, start_app: StartApp
) -> None:
    first = await start_app()
    await first.register("gate-1", enabled=False)
    await first.stop()

    def spoil() -> None:
        with sqlite3.connect(data_dir / "vidette.db") as db:
            db.execute("UPDATE cameras SET settings = ?", (json.dumps({"name": "x"}),))
        db.close()

    await asyncio.to_thread(spoil)
    running = await start_app(wait_ready=False)
    await asyncio.wait_for(running.fatal.wait(), 10)
    await running.stop()
    with pytest.raises(StoreError, match="the stored camera 'gate-1' cannot be read: url: must be given"):
        outcome(running.service)


async def test_a_stop_while_the_engine_opens_closes_what_it_opens(start_app: StartApp) -> None:
    class Noting(SlowOpeningBackend):
        closed = False

        def open_detector(self, on_progress: OnProgress = unwatched) -> SyntheticDetector:
            detector = super().open_detector(on_progress)
            backend = self

            async def close() -> None:
                backend.closed = True

            detector.aclose = close  # type: ignore[method-assign]
            return detector

    backend = Noting()
    running = await start_app(backend, wait_ready=False)
    stopping = asyncio.create_task(running.stop())
    await wait_until(lambda: running.service.state == "stopping")
    backend.go_on.set()
    await stopping
    assert backend.closed
    assert running.service.state == "stopped"
    assert running.service.fatal is None


async def test_a_camera_that_hangs_in_a_read_is_abandoned_within_bounds(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()

    class Deaf(SyntheticSource):
        def interrupt(self) -> None:
            if let_go.is_set():
                super().interrupt()

    class Backend(SyntheticBackend):
        sources: list[Deaf]

        def open_source(self, request: SourceRequest) -> SyntheticSource:
            self.sources = [Deaf(request)]
            return self.sources[0]

    backend = Backend()
    running = await start_app(backend)
    await running.register("a", "fps=100&after=1&hang=1")
    await wait_until(lambda: running.parts.registry.get("a").lane.counts().decoded == 1)
    started_at = time.monotonic()
    first = asyncio.create_task(running.service.stop())
    await wait_until(lambda: running.service.state == "stopping")
    await running.service.stop()  # a second one waits for the first, and does not cut its patience short
    await running.stop()
    await first
    assert 3 <= time.monotonic() - started_at < 10
    assert running.service.abandoned_threads == 1
    assert "1 camera threads did not end within 3 s and are abandoned" in caplog.text
    let_go.set()
    backend.sources[0].interrupt()


async def test_stopping_twice_or_before_the_start_is_no_error(data_dir: Path, running: RunningApp) -> None:
    await asyncio.gather(running.service.stop(), running.service.stop())
    await running.service.stop()
    assert running.service.state == "stopped"
    never = await asyncio.to_thread(Service, running.service.settings)
    await never.stop()
    with pytest.raises(NotReady, match="the service is starting"):
        assert never.parts


async def test_a_stop_that_takes_too_long_is_noticed(data_dir: Path) -> None:
    service = await asyncio.to_thread(lambda: Service(make_settings(data_dir)))
    told: list[str] = []
    service.on_stopping = lambda: told.append(service.state)
    service.start(lambda: None)
    await wait_until(lambda: service.state == "ready")
    await asyncio.gather(service.stop(), service.stop())
    assert told == ["stopping"]  # once, when it begins


@pytest.mark.parametrize("signals", [True, False])
def test_a_server_beside_other_work_leaves_the_signals_to_that(data_dir: Path, signals: bool) -> None:
    app = create_app(make_settings(data_dir), SyntheticBackend())
    server = make_server(app, app.state.service, signals=signals)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with server.capture_signals():
        assert ([signal.getsignal(number) for number in numbers] == before) is not signals
    assert [signal.getsignal(number) for number in numbers] == before
