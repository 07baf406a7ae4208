"""A password with every special character, planted wherever one can be given, is found nowhere that anybody looks.

The real service in a process of its own, with the real FFmpeg, against cameras that fail in every way.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.simulator.process import ProcessOptions, SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.ports import free_port
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = pytest.mark.alone

PASSWORD = "p@ss:w/rd?#%&+ \"'é"
TOKEN = "t0ken-of-metrics&é"
GOOD = {"good", "in-url", "by-file"}
ENCODED = quote(PASSWORD, safe="")
FORMS = {
    PASSWORD,
    ENCODED,
    ENCODED.lower(),
    quote(PASSWORD),
    quote_plus(PASSWORD),
    json.dumps(PASSWORD)[1:-1],
    json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
    repr(PASSWORD)[1:-1],
    html.escape(PASSWORD),
    base64.b64encode(f"admin:{PASSWORD}".encode()).decode(),
    base64.b64encode(PASSWORD.encode()).decode(),
    # Its middle, in case something cuts at a special character.
    "ss:w/rd",
    "ss%3Aw",
    "ss%3aw",
    "w/rd?",
    TOKEN,
}


def leaks(text: str) -> list[str]:
    return sorted(form for form in FORMS if form in text)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    clip = write_test_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", width=192, height=128, fps=10, seconds=1)
    options = ProcessOptions(auth="digest", username="admin", password=PASSWORD)
    with SimulatorProcess([clip], cameras=4, options=options) as running:
        for name, fault in (("cam1", "unauthorized"), ("cam2", "garbage"), ("cam3", "mute")):
            running.set_fault(name, fault)
        yield running


def cameras(simulator: SimulatorProcess) -> dict[str, dict[str, Any]]:
    """Every way to give a password, and every way to fail."""
    login = {"username": "admin", "password": PASSWORD}
    plain, host = simulator.url("cam0"), f"127.0.0.1:{simulator.port}"
    return {
        "good": {"url": plain, **login},
        "in-url": {"url": f"rtsp://admin:{ENCODED}@{host}/cam0"},
        "raw-in-url": {"url": f"rtsp://admin:{PASSWORD}@{host}/cam0"},
        "in-query": {"url": f"{plain}?user=admin&password={ENCODED}"},
        "raw-in-query": {"url": f"{plain}?user=admin&pwd={PASSWORD}", **login},
        "refuses-login": {"url": simulator.url("cam1"), **login},
        "garbage": {"url": simulator.url("cam2"), **login},
        "mute": {"url": simulator.url("cam3"), **login},
        "missing": {"url": f"rtsp://{host}/no-such-camera", **login},
        "refused": {"url": f"rtsp://admin:{ENCODED}@127.0.0.1:{free_port()}/1"},
        "dns": {"url": f"rtsp://admin:{ENCODED}@no-such-host.invalid/1"},
        "tls": {"url": f"rtsps://admin:{ENCODED}@{host}/cam0"},
    }


class Witness:
    """Asks the service, and remembers every byte that it answered."""

    def __init__(self, service: ServeProcess) -> None:
        self.seen: list[str] = []
        self._http = httpx.Client(base_url=service.url, timeout=30, trust_env=False)
        self._connecting = connect(f"{service.ws_url}?mode=all", proxy=None)
        self._socket = self._connecting.__enter__()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._http.request(method, path, **options)
        assert response.status_code < 500, response.text
        self.seen.append(f"{method} {path} {response.status_code} {response.headers} {response.text}")
        return response

    def close(self) -> None:
        self._connecting.__exit__(None, None, None)
        self._thread.join(10)
        self._http.close()

    def _listen(self) -> None:
        try:
            for message in self._socket:
                self.seen.append(str(message))
        except ConnectionClosed:
            pass


def of_the_process(pid: int) -> str:
    """What every user of the machine can read of a process, and the names of its threads."""
    folder = Path(f"/proc/{pid}")
    threads = " ".join((task / "comm").read_text() for task in (folder / "task").iterdir())
    return (folder / "cmdline").read_bytes().decode("utf-8", "replace") + threads


def on_disk(data_dir: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in data_dir.rglob("*") if path.is_file())


def configured(tmp_path: Path, simulator: SimulatorProcess) -> Path:
    """A configuration file that declares a camera, its password in a file of its own."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    entry = {"id": "by-file", "url": simulator.url("cam0"), "username": "admin"}
    entry["password_file"] = str(tmp_path / "password")
    path = tmp_path / "vidette.yml"
    path.write_text(json.dumps({"cameras": {"stall_timeout_s": 1, "backoff_max_s": 1, "declared": [entry]}}))
    return path


def settled(witness: Witness, expected: set[str]) -> bool:
    found = witness.ask("GET", "/api/v1/cameras").json()
    running = {each["id"] for each in found if each["status"]["state"] == "running"}
    # An error stays to be seen while the camera is being connected to anew.
    failed = {each["id"] for each in found if each["status"]["error"]}
    return running >= GOOD and running | failed >= expected


def provoke(witness: Witness, camera_id: str, body: dict[str, Any]) -> None:
    path = f"/api/v1/cameras/{camera_id}"
    witness.ask("POST", "/api/v1/cameras", json={"id": camera_id, **body})
    witness.ask("POST", "/api/v1/cameras", json={"id": "x", **body, "priority": 99})
    witness.ask("POST", "/api/v1/cameras", json={"id": "x", **body, "passwort": PASSWORD})
    witness.ask("POST", "/api/v1/cameras", json=body["url"])
    witness.ask("POST", "/api/v1/cameras", json={"id": "x", "url": body["url"].replace("rtsp", "http")})
    witness.ask("POST", "/api/v1/cameras", content=json.dumps(body)[:-1])
    witness.ask("PATCH", path, json={"password": PASSWORD, "username": "a:b"})
    witness.ask("PATCH", path, json={"password": [PASSWORD]})
    witness.ask("PUT", path, json={**body, "transport": body["url"]})
    witness.ask("PATCH", path, json={"password": PASSWORD})
    witness.ask("POST", f"{path}/restart")
    witness.ask("GET", f"{path}/detections")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_planted_password_is_found_nowhere(form: str, tmp_path: Path, simulator: SimulatorProcess) -> None:
    data_dir = tmp_path / "data"
    own = {"VIDETTE_LOG__LEVEL": "debug", "VIDETTE_LOG__FORMAT": form, "OTEL_TRACES_EXPORTER": "console"}
    options = ("--config", str(configured(tmp_path, simulator)), "--metrics.token", TOKEN)
    with ServeProcess(data_dir, *options, environ={**SETTLED, **own}) as service, closing(Witness(service)) as witness:
        wanted = cameras(simulator)
        taken = {"by-file"}
        for camera_id, body in wanted.items():
            made = witness.ask("POST", "/api/v1/cameras?force=true", json={"id": camera_id, **body})
            assert made.status_code in (201, 422)
            taken |= {camera_id} if made.status_code == 201 else set()
        # A password that no URL can hold unescaped may be refused; all the others get where they are needed.
        assert taken >= set(wanted) - {"raw-in-url", "raw-in-query", "by-file"}
        wait_in_thread(
            lambda: settled(witness, taken), timeout_s=30, what="every camera has run or failed", every_s=0.2
        )
        for camera_id, body in wanted.items():
            provoke(witness, camera_id, body)
        for camera_id in ("good", "refuses-login", "dns", "tls"):
            witness.ask("POST", "/api/v1/diagnose", json={**wanted[camera_id], "timeout_s": 3})
        wait_in_thread(
            lambda: settled(witness, taken), timeout_s=30, what="every camera has run or failed again", every_s=0.2
        )
        for path in ("/openapi.json", "/api/v1/system", "/api/v1/capacity", "/api/v1/models", "/", "/docs"):
            witness.ask("GET", path)
        witness.ask("GET", "/api/v1/detections/latest")
        witness.ask("GET", "/metrics")
        assert witness.ask("GET", "/metrics", headers={"authorization": f"Bearer {TOKEN}".encode()}).status_code == 200
        states = {camera["id"]: camera["status"] for camera in witness.ask("GET", "/api/v1/cameras").json()}
        stored = on_disk(data_dir)
        title = of_the_process(service.process.pid)
        wait_in_thread(lambda: "camera.connect" in service.log(), timeout_s=30, what="OpenTelemetry's spans are there")
        os.kill(service.process.pid, signal.SIGABRT)
        service.process.wait(10)
        log = service.log()
    assert [(text[:200], leaks(text)) for text in witness.seen if leaks(text)] == []
    assert [(line, leaks(line)) for line in log.splitlines() if leaks(line)] == []
    assert leaks(title) == []
    assert leaks(stored) == []
    assert leaks(on_disk(data_dir)) == []
    # It was there to be leaked: every kind of failure came, and the passwords opened what they open.
    codes = {camera_id: (status["error"] or {}).get("code") for camera_id, status in states.items()}
    assert {camera_id for camera_id in GOOD if states[camera_id]["state"] != "running"} == set()
    assert (codes["dns"], codes["missing"]) == ("dns_failed", "not_found")
    assert codes["tls"] in ("tls_failed", "connect_timeout")
    assert (codes["refused"], codes["refuses-login"]) == ("connection_refused", "auth_failed")
    assert re.match(r"vidette serve .*--metrics.token \*\*\*", title)
    assert "Fatal Python error: Aborted" in log
    assert "camera.connect" in log  # OpenTelemetry's spans
