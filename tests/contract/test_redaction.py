"""A camera's password is in no response, no message, no metric and no log line, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.source import SyntheticSource
from app.cameras.source import SourceRequest
from app.logs import configure_logging
from tests.support.app import API, RunningApp, StartApp
from tests.support.wait import wait_until

PASSWORD = "p@ss:w/ö#%?"
ENCODED = quote(PASSWORD, safe="")
FORMS = (
    PASSWORD,
    ENCODED,
    ENCODED.lower(),
    quote(PASSWORD),
    json.dumps(PASSWORD)[1:-1],
    repr(PASSWORD)[1:-1],
    "ss:w/",  # its middle, in case something cuts at the @
    "ss%3Aw",
)


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


class LoudBackend(SyntheticBackend):
    """Its sources put the password into errors, as a library would do that quotes the URL it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.passwords: dict[str, str | None] = {}

    def open_source(self, request: SourceRequest) -> SyntheticSource:
        self.passwords[request.camera_id] = request.password
        if "loud" in request.camera_id:
            raise RuntimeError(f"cannot open rtsp://{request.username}:{ENCODED}@camera.test/, with {request.password}")
        return super().open_source(request)


CREDENTIALS = {"username": "admin", "password": PASSWORD}
BODIES: dict[str, dict[str, Any]] = {
    "in-url": {"url": f"rtsp://admin:{ENCODED}@camera.test/1?fps=50"},
    "raw-in-url": {"url": f"rtsp://admin:{PASSWORD}@camera.test/1"},
    "in-fields": {
        "url": "rtsp://camera.test/1?fps=50&after=3&fail=auth_failed",
        "username": "admin",
        "password": PASSWORD,
    },
}


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_password_appears_nowhere(
    start_app: StartApp, capsys: pytest.CaptureFixture[str], own_logging: None, form: Any
) -> None:
    configure_logging("debug", form)
    loud = f"loud-{form}"  # a name of its own, since a camera's log lines are not repeated within seconds
    cameras = {**BODIES, loud: {"url": "rtsp://camera.test/1", **CREDENTIALS}}
    backend = LoudBackend()
    running = await start_app(backend)
    seen: list[str] = []
    async with running.socket("?mode=all") as socket:
        for camera_id, body in cameras.items():
            await ask(running, seen, "POST", "/cameras", 201, json={"id": camera_id, **body})
        await wait_until(lambda: set(backend.passwords) == set(cameras))
        await running.wait_state(loud, "retrying")
        await running.wait_state("in-fields", "retrying")
        assert set(backend.passwords.values()) == {PASSWORD}  # it does reach the source
        await change_everything(running, seen)
        await ask_everything(running, seen)
        await provoke_errors(running, seen)
        for camera_id in cameras:
            await ask(running, seen, "DELETE", f"/cameras/{camera_id}", 204)
        while "removed" not in seen[-1]:
            seen.append(str(await asyncio.wait_for(socket.recv(), 10)))
    await running.stop()
    assert [text for text in seen if leaks(text)] == []
    log = capsys.readouterr().err
    assert "RuntimeError" in log
    assert "camera.test" in log
    assert [line for line in log.splitlines() if leaks(line)] == []


async def ask(running: RunningApp, seen: list[str], method: str, path: str, status: int, **options: Any) -> None:
    response = await running.http.request(method, f"{API}{path}" if path.startswith("/c") else path, **options)
    assert response.status_code == status, (path, response.text)
    seen.append(f"{response.headers} {response.text}")


async def change_everything(running: RunningApp, seen: list[str]) -> None:
    again = {"url": f"rtsp://other:{ENCODED}@camera.test/2"}
    await ask(running, seen, "PATCH", "/cameras/in-url", 200, json={"password": PASSWORD})
    await ask(running, seen, "PATCH", "/cameras/in-url", 200, json=again)
    await ask(running, seen, "PUT", "/cameras/in-fields", 200, json={**again, "password": PASSWORD})
    await ask(running, seen, "PUT", "/cameras/in-fields", 200, json={"url": "rtsp://camera.test/3"})
    await ask(running, seen, "POST", "/cameras/raw-in-url/restart", 200)


async def ask_everything(running: RunningApp, seen: list[str]) -> None:
    await running.wait_published("in-url")
    for path in ("/cameras", "/capacity", "/cameras/in-url/detections"):
        await ask(running, seen, "GET", path, 200)
    for camera_id in BODIES:
        await ask(running, seen, "GET", f"/cameras/{camera_id}", 200)
    for path in ("/metrics", "/openapi.json", f"{API}/system", f"{API}/models", f"{API}/detections/latest"):
        await ask(running, seen, "GET", path, 200)


async def provoke_errors(running: RunningApp, seen: list[str]) -> None:
    url = f"rtsp://admin:{ENCODED}@camera.test/1"
    for body in (
        {"id": "in-url", "url": url},
        {"id": "x", "url": url, "priority": 99},
        {"id": "x", "url": f"rtsp://admin:{ENCODED}@camera.test:99999/1"},
        {"id": "x", "url": f"http://admin:{PASSWORD}@camera.test/"},
        {"id": "x", "url": f"rtsp://admin:{PASSWORD}@"},
        {"id": "x", "url": [url]},
        {"id": "x", "url": "rtsp://camera.test", "password": [PASSWORD]},
        {"id": "x", "url": "rtsp://camera.test", "password": PASSWORD * 30},
        {"id": "x", "url": "rtsp://camera.test", "username": "a:b", "password": PASSWORD},
        {"id": url, "url": url},
        {"id": "x", "url": url, "transport": url},
        {"id": "x", "url": url, "passwort": PASSWORD},
        {"id": "x", "url": url, BODIES["raw-in-url"]["url"]: 1, "labels": {url: 1}},
        {"id": "x", "url": url, "classes": [url]},
        url,
        [url],
    ):
        status = 409 if isinstance(body, dict) and body["id"] == "in-url" else 422
        await ask(running, seen, "POST", "/cameras", status, json=body)
    await ask(running, seen, "POST", "/cameras", 422, content=json.dumps(url), headers={"content-type": "text/plain"})
    await ask(running, seen, "PATCH", "/cameras/in-url", 422, json={"url": f"rtsp://admin:{PASSWORD}@[::1/"})


async def test_a_password_is_nowhere_on_disk(data_dir: Path, start_app: StartApp) -> None:
    running = await start_app()
    await running.register("gate-1", enabled=False, password=PASSWORD)
    await running.register("gate-2", script="password=s3cr3t-in-url", enabled=False)

    def holders() -> list[str]:
        files = [(path.name, path.read_bytes()) for path in data_dir.rglob("*") if path.is_file()]
        assert any(b"gate-2" in content for _, content in files)
        secrets = (PASSWORD.encode(), ENCODED.encode(), b"s3cr3t-in-url", json.dumps(PASSWORD)[1:-1].encode())
        return [name for name, content in files for secret in secrets if secret in content]

    assert await asyncio.to_thread(holders) == []  # with the journal: the service still runs
    await running.stop()
    assert await asyncio.to_thread(holders) == []


async def test_the_token_of_metrics_appears_nowhere(
    start_app: StartApp, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    configure_logging("debug", "text")
    running = await start_app(metrics={"token": PASSWORD})
    wrong = await running.http.get("/metrics", headers={"authorization": "Bearer wrong"})
    right = await running.http.get("/metrics", headers={"authorization": f"Bearer {PASSWORD}".encode()})  # type: ignore[arg-type]
    assert (wrong.status_code, right.status_code) == (401, 200)
    assert not leaks(wrong.text + right.text + repr(running.service.settings))
    await running.stop()
    assert not leaks(capsys.readouterr().err)


async def test_a_password_in_a_url_s_query_is_in_no_answer_and_comes_back_unharmed(running: RunningApp) -> None:
    url = "rtsp://camera.test/live?user=admin&password=s3cr3t&fps=50"
    shown = "rtsp://camera.test/live?user=admin&password=***&fps=50"
    made = await running.http.post(f"{API}/cameras", json={"id": "query", "url": url})
    assert (made.status_code, made.json()["url"]) == (201, shown)
    assert "s3cr3t" not in (await running.http.get(f"{API}/cameras")).text
    # What a client read it may write again: the secret stays, and nothing reconnects.
    assert (await running.http.patch(f"{API}/cameras/query", json={"url": shown, "min_score": 0.5})).status_code == 200
    body = {"url": shown, "name": "Query"}
    assert (await running.http.put(f"{API}/cameras/query", json=body)).status_code == 200
    assert running.parts.registry.get("query").settings.url == url
    # A changed URL needs its secret, and so does a new camera's.
    moved = await running.http.put(f"{API}/cameras/query", json={"url": shown.replace("live", "other")})
    copied = await running.http.post(f"{API}/cameras", json={"id": "copy", "url": shown})
    message = "write the secret in place of ***; only an unchanged URL may leave it out"
    for refused in (moved, copied):
        assert refused.status_code == 422
        assert refused.json()["errors"] == [{"field": "url", "message": message}]
