"""SIGTERM in the middle of everything: real cameras, requests, and clients that read, crawl or stand still."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.simulator.process import SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    clip = write_test_clip(tmp_path_factory.mktemp("clips") / "street.mp4", width=640, height=360, fps=15, seconds=4)
    with SimulatorProcess([clip], cameras=6) as simulator:
        simulator.set_fault("cam4", "mute")
        simulator.set_fault("cam5", "flap=1")
        yield simulator


class Load:
    """Threads that ask again and again until the service is gone; a 500 is remembered."""

    def __init__(self, service: ServeProcess) -> None:
        self.statuses: set[int] = set()
        self.codes: list[int] = []
        self._service = service
        self._threads: list[threading.Thread] = []

    def ask(self, method: str, path: str, body: Callable[[int], object] = lambda number: None) -> None:
        def run() -> None:
            with httpx.Client(base_url=f"{self._service.url}/api/v1", timeout=10) as client:
                for number in range(1_000_000):
                    try:
                        answer = client.request(method, path.format(number), json=body(number))
                    except httpx.HTTPError:
                        return
                    self.statuses.add(answer.status_code)

        self._start(run)

    def listen(self, query: str) -> None:
        """A client that reads until it is closed, and remembers the code."""
        listening = threading.Event()

        def run() -> None:
            with connect(f"{self._service.ws_url}{query}", proxy=None) as client, contextlib.suppress(ConnectionClosed):
                client.recv(20)
                listening.set()
                while True:
                    client.recv(20)
            self.codes.append(client.protocol.close_code or 0)

        self._start(run)
        assert listening.wait(20)

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def slow_clients(service: ServeProcess) -> Iterator[None]:
    """Half a request, half a body, an answer and a WebSocket that nobody reads."""
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    sent = (
        b"GET /api/v1/cameras HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{",
        b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 500,
        (
            b"GET /api/v1/ws/detections?mode=all HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    )
    with contextlib.ExitStack() as stack:
        for data in sent:
            stack.enter_context(socket.create_connection(address)).sendall(data)
        yield


def stop_twice(service: ServeProcess) -> float:
    """SIGTERM, and again a little later; seconds until the process has ended well."""
    started_at = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(12) == 0, service.log()
    return time.monotonic() - started_at


def test_a_stop_under_full_load_is_clean_and_quick(tmp_path: Path, simulator: SimulatorProcess) -> None:
    with ServeProcess(tmp_path / "data", environ=SETTLED) as service:
        for number in range(6):
            service.register(id=f"cam{number}", url=simulator.url(f"cam{number}"))
        service.wait_running("cam0", "cam1", "cam2", "cam3")
        load = Load(service)
        with slow_clients(service):
            for query in ("", "?mode=all", "?format=msgpack", "?camera=cam1&empty=false"):
                load.listen(query)
            load.ask("GET", "/cameras")
            load.ask("GET", "/cameras/cam0/snapshot.jpg")
            load.ask("POST", "/cameras/cam2/restart")
            load.ask(
                "POST", "/cameras?force=true", lambda number: {"id": f"new-{number}", "url": simulator.url("cam3")}
            )
            load.ask("POST", "/diagnose", lambda number: {"url": simulator.url("cam4"), "timeout_s": 20})
            wait_in_thread(lambda: {200, 201} <= load.statuses)
            assert stop_twice(service) < 10
        load.join()
        assert 500 not in load.statuses
        assert load.codes == [1001] * 4
        assert "Traceback" not in service.log()


def test_a_stop_while_the_engine_warms_up_is_clean_and_quick(tmp_path: Path) -> None:
    service = ServeProcess(tmp_path / "data")
    with contextlib.ExitStack() as stack:
        stack.push(service.__exit__)
        service.start()
        wait_in_thread(lambda: "backend cpu:" in service.log(), 60)
        assert stop_twice(service) < 10
        assert "Traceback" not in service.log()
