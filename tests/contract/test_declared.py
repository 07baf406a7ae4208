"""Cameras of the configuration file, and imports, in the running service."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import API, RunningApp, StartApp, make_settings, running_app
from tests.support.command import run_command

GATE = {"id": "gate-1", "url": "rtsp://admin:hunter2@camera.test/1?fps=50"}
DOOR = {"id": "door", "url": "rtsp://camera.test/2?fps=50"}


async def views(running: RunningApp) -> dict[str, Any]:
    return {camera["id"]: camera for camera in (await running.http.get(f"{API}/cameras")).json()}


async def listed(data_dir: Path, *cameras: dict[str, Any]) -> dict[str, Any]:
    """What a service shows that is started with these cameras in its file, and then stopped."""
    settings = await asyncio.to_thread(make_settings, data_dir, cameras={"declared": cameras})
    async with running_app(settings) as running:
        return await views(running)


async def test_declared_cameras_come_go_and_change_with_the_file(data_dir: Path) -> None:
    assert {name: view["declared"] for name, view in (await listed(data_dir, GATE, DOOR)).items()} == {
        "gate-1": True,
        "door": True,
    }
    after = await listed(data_dir, {**DOOR, "priority": 9}, {"id": "new", "url": "rtsp://camera.test/3"})
    assert {name: view["priority"] for name, view in after.items()} == {"door": 9, "new": 5}
    assert await listed(data_dir) == {}


async def test_a_declared_camera_runs_and_a_registered_one_outlives_the_file(
    start_app: StartApp, data_dir: Path
) -> None:
    running = await start_app(cameras={"declared": [GATE]})
    camera = await running.wait_state("gate-1", "running")
    assert (camera["declared"], camera["username"], camera["password_set"]) == (True, "admin", True)
    assert "hunter2" not in str(camera)
    plain = await running.register("by-rest")
    assert plain["declared"] is False
    await running.stop()
    assert set(await listed(data_dir)) == {"by-rest"}


@pytest.mark.parametrize(
    ("method", "body"), [("PATCH", {"priority": 9}), ("PUT", {"url": "rtsp://camera.test/9"}), ("DELETE", None)]
)
async def test_a_declared_camera_is_changed_in_its_file_only(
    start_app: StartApp, method: str, body: dict[str, Any] | None
) -> None:
    running = await start_app(cameras={"declared": [GATE]})
    before = await running.camera("gate-1")
    response = await running.http.request(method, f"{API}/cameras/gate-1", json=body)
    assert response.status_code == 409
    problem = response.json()
    assert problem["code"] == "camera_declared"
    assert problem["detail"] == ("camera 'gate-1' is declared in the configuration file; change it there and restart")
    after = await running.camera("gate-1")
    assert {**after, "status": None} == {**before, "status": None}


async def test_a_declared_camera_may_be_restarted_and_its_id_is_taken(start_app: StartApp) -> None:
    running = await start_app(cameras={"declared": [GATE]})
    await running.wait_state("gate-1", "running")
    assert (await running.http.post(f"{API}/cameras/gate-1/restart")).status_code == 200
    response = await running.http.post(f"{API}/cameras", json=GATE)
    assert (response.status_code, response.json()["code"]) == (409, "camera_exists")


async def test_a_user_cannot_mark_a_camera_as_declared(running: RunningApp) -> None:
    response = await running.http.post(f"{API}/cameras", json={**DOOR, "declared": True})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "declared")


async def test_a_declared_class_that_the_model_lacks_stops_the_start_and_changes_nothing(
    start_app: StartApp, data_dir: Path
) -> None:
    assert set(await listed(data_dir, GATE)) == {"gate-1"}
    broken = await start_app(wait_ready=False, cameras={"declared": [DOOR, {**GATE, "classes": ["unicorn"]}]})
    await asyncio.wait_for(broken.fatal.wait(), 20)
    assert str(broken.service.fatal).startswith("cameras[1].classes: 'unicorn' is not a class of the model")
    await broken.stop()
    assert set(await listed(data_dir, GATE)) == {"gate-1"}


async def test_two_services_do_not_share_a_folder(start_app: StartApp) -> None:
    await start_app()
    second = await start_app(wait_ready=False)
    await asyncio.wait_for(second.fatal.wait(), 20)
    assert "is in use by another Vidette" in str(second.service.fatal)


# Import into a service that runs

FILE = """\
cameras:
  - {id: gate-1, url: "rtsp://admin:hunter2@camera.test/1?fps=50", labels: {floor: "2"}}
  - {id: door, url: "rtsp://camera.test/2?fps=50"}
"""


async def imported(running: RunningApp, tmp_path: Path, text: str, *options: str) -> int:
    file = tmp_path / "cameras.yml"
    await asyncio.to_thread(file.write_text, text)
    url = f"http://127.0.0.1:{running.port}"
    return await asyncio.to_thread(run_command, "import", str(file), "--url", url, *options)


async def test_an_import_into_a_service_takes_effect_at_once_and_twice_is_once(
    running: RunningApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.register("other")
    assert await imported(running, tmp_path, FILE) == 0
    assert capsys.readouterr().out == "imported: 2 new, 0 changed, 0 as they were\n"
    since = (await running.wait_state("gate-1", "running"))["status"]["since"]
    before = await views(running)
    assert await imported(running, tmp_path, FILE) == 0
    assert capsys.readouterr().out == "imported: 0 new, 0 changed, 2 as they were\n"
    after = await views(running)
    assert list(after) == ["other", "gate-1", "door"]
    assert after["gate-1"]["status"]["since"] == since  # the password was sent again, and nothing restarted
    assert {name: {**view, "status": None} for name, view in after.items()} == {
        name: {**view, "status": None} for name, view in before.items()
    }


async def test_an_import_changes_what_differs_and_keeps_a_password_that_it_does_not_tell(
    running: RunningApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await imported(running, tmp_path, FILE)
    without = "cameras: [{id: gate-1, url: 'rtsp://camera.test/1?fps=50', username: admin, max_fps: 7}]"
    assert await imported(running, tmp_path, without, "--dry-run") == 0
    assert (await running.camera("gate-1"))["max_fps"] is None
    assert await imported(running, tmp_path, without) == 0
    assert "0 new, 1 changed, 0 as they were" in capsys.readouterr().out
    camera = await running.camera("gate-1")
    assert (camera["max_fps"], camera["labels"], camera["password_set"]) == (7, {}, True)


async def test_what_the_service_refuses_is_told_with_its_place(
    running: RunningApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "cameras: [{id: gate-1, url: 'rtsp://camera.test/1', classes: [unicorn]}]"
    assert await imported(running, tmp_path, text) == 1
    message = capsys.readouterr().err
    assert message.startswith("vidette: cameras[0]: classes: 'unicorn' is not a class of the model")


async def test_declared_cameras_of_a_service_are_left_alone_by_an_import(
    start_app: StartApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await start_app(cameras={"declared": [{**GATE, "labels": {"floor": "2"}}]})
    assert await imported(running, tmp_path, FILE) == 0
    assert "1 new, 0 changed, 1 as they were" in capsys.readouterr().out
    assert await imported(running, tmp_path, FILE.replace('"2"', '"3"')) == 2
    assert "cameras[0].id: 'gate-1' is declared in the configuration file" in capsys.readouterr().err


async def test_a_service_that_is_not_there_is_a_sentence(
    running: RunningApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cameras.yml"
    await asyncio.to_thread(file.write_text, FILE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert await asyncio.to_thread(run_command, "import", str(file), "--url", f"http://127.0.0.1:{free}") == 1
    assert f"127.0.0.1:{free} does not answer: " in capsys.readouterr().err
    elsewhere = f"http://127.0.0.1:{running.port}/docs"
    assert await asyncio.to_thread(run_command, "import", str(file), "--url", elsewhere) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
