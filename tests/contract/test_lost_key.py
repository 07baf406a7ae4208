"""A key that is lost stops no start and loses no password; the cameras concerned say how they are mended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.cameras.sealing import make_key_file
from tests.support.app import RunningApp, StartApp

SECRET = "p@ss:w/rd?#%"
QUERY_URL = "rtsp://camera.test/live?password=s3cr3t&fps=50"


async def restart(start_app: StartApp, running: RunningApp, **sections: Any) -> RunningApp:
    await running.stop()
    return await start_app(**sections)


async def lost(start_app: StartApp, data_dir: Path) -> tuple[RunningApp, bytes]:
    """Two cameras whose secrets were stored with a key that is gone, and that key."""
    running = await start_app()
    await running.register("field", username="admin", password=SECRET)
    await running.http.post("/api/v1/cameras", json={"id": "query", "url": QUERY_URL})
    await running.register("open")
    await running.stop()
    key = data_dir / "secret.key"
    original = await asyncio.to_thread(key.read_bytes)
    await asyncio.to_thread(key.unlink)
    return await start_app(), original


async def test_the_cameras_concerned_say_so_and_the_others_run(start_app: StartApp, data_dir: Path) -> None:
    running, _ = await lost(start_app, data_dir)
    await running.wait_published("open")
    for camera_id in ("field", "query"):
        camera = await running.wait_state(camera_id, "retrying")
        assert camera["status"]["error"] == {
            "code": "auth_failed",
            "message": f"the stored password of {camera_id} cannot be read with this key; "
            "set the password anew, or put the right key back (secret.key or secrets.key_file) and restart",
        }
    assert (await running.camera("field"))["password_set"] is True
    assert (await running.camera("query"))["url"] == "rtsp://camera.test/live?password=***&fps=50"


async def test_the_right_key_mends_them_whatever_was_changed_meanwhile(start_app: StartApp, data_dir: Path) -> None:
    running, original = await lost(start_app, data_dir)
    await running.patch("field", priority=9, username="root")
    kept = {"url": "rtsp://camera.test/field?fps=50", "username": "root", "priority": 8}
    assert (await running.http.put("/api/v1/cameras/field", json=kept)).status_code == 200
    shown = (await running.camera("query"))["url"]
    await running.patch("query", url=shown, name="Query")
    await running.stop()
    await asyncio.to_thread((data_dir / "secret.key").write_bytes, original)
    running = await start_app()
    for camera_id in ("field", "query"):
        await running.wait_published(camera_id)
    settings = running.parts.registry.get("field").settings
    assert settings.password is not None
    assert (settings.password.get_secret_value(), settings.priority) == (SECRET, 8)
    assert running.parts.registry.get("query").settings.url == QUERY_URL


@pytest.mark.parametrize(
    ("camera_id", "fields"),
    [
        ("field", {"password": "another one"}),
        ("field", {"password": None}),
        ("field", {"url": "rtsp://admin:another@camera.test/field?fps=50"}),
        ("query", {"url": QUERY_URL}),
        ("query", {"url": "rtsp://camera.test/query?fps=50"}),
    ],
)
async def test_a_new_secret_mends_them(
    start_app: StartApp, data_dir: Path, camera_id: str, fields: dict[str, Any]
) -> None:
    running, _ = await lost(start_app, data_dir)
    await running.wait_state(camera_id, "retrying")
    await running.patch(camera_id, **fields)
    await running.wait_published(camera_id)
    running = await restart(start_app, running)
    await running.wait_published(camera_id)


async def test_a_configured_key_that_is_not_there_stops_no_start_and_is_not_made(
    start_app: StartApp, data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.key"
    running = await start_app(secrets={"key_file": path})
    await running.register("open")
    refused = await running.http.post("/api/v1/cameras", json={"id": "x", "url": "rtsp://h/", "password": SECRET})
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert "there is no key, so no password can be stored" in refused.json()["detail"]
    assert [path.exists(), (data_dir / "secret.key").exists()] == [False, False]
    await asyncio.to_thread(make_key_file, path)
    running = await restart(start_app, running, secrets={"key_file": path})
    await running.register("closed", password=SECRET)
    running = await restart(start_app, running, secrets={"key_file": path})
    await running.wait_published("closed")
