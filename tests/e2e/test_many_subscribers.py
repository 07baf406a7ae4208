"""Two hundred WebSocket clients of one busy camera, forty of which never read, and the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.measure.subscribers.child import Child
from tests.support.wait import wait_in_thread

pytestmark = pytest.mark.alone

LIVE, STUCK = 160, 40
STREAM = "/api/v1/ws/detections"


@pytest.fixture
def service(data_dir: Path) -> Iterator[tuple[Child, int]]:
    settings = {"data_dir": str(data_dir), "server": {"port": 0}, "backend": {"device": "synthetic"}}
    with Child("app.measure.subscribers.service", {"settings": settings, "stand_still_s": 2.0}) as child:
        port = int(child.answer(60)["port"])
        camera = {"id": "busy", "url": "rtsp://camera.test/busy?fps=200"}
        httpx.post(f"http://127.0.0.1:{port}/api/v1/cameras", json=camera, timeout=10).raise_for_status()
        yield child, port


def test_stuck_clients_are_closed_with_1013_and_cost_nobody_else_anything(service: tuple[Child, int]) -> None:
    child, port = service
    with Child("app.measure.subscribers.clients", {}) as clients:
        address = {"host": "127.0.0.1", "port": port, "path": STREAM}
        clients.ask("connect", **address, live=LIVE, stuck=STUCK)
        assert child.ask("look")["clients"] == LIVE + STUCK
        wait_in_thread(lambda: child.ask("look")["closed"]["1013"] == STUCK, 60, what="all stuck ones are closed")
        seen = clients.ask("wake")
        assert seen["codes"] == {"1013": STUCK}
        # The others have had everything in order, all along, and go on.
        before = child.ask("look")
        crowd = clients.ask("look")
        wait_in_thread(lambda: clients.ask("look")["fewest"] >= crowd["fewest"] + 20, 30, what="all live ones read on")
        after, crowd = child.ask("look"), clients.ask("look")
        assert crowd["disorder"] == 0
        assert crowd["connected"] == LIVE
        assert after["published"] > before["published"]
        assert after["decoded"] == after["published"] + after["dropped"] + after["in_flight"]
        assert after["closed"]["1013"] == STUCK
        clients.ask("leave")
        wait_in_thread(lambda: child.ask("look")["clients"] == 0, 10, what="nobody is left")
