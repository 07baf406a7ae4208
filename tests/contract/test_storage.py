"""Disks fill up, files are locked, spoilt and removed: changes are refused or kept, never both, and cameras go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cameras.database import FILE_NAME, copy_in_memory
from tests.support.app import API, RunningApp, StartApp
from tests.support.serve_process import ServeProcess
from tests.support.wait import wait_in_thread, wait_until

SYNTHETIC = {"VIDETTE_BACKEND__DEVICE": "synthetic"}
URL = "rtsp://camera.test/1?fps=50"
SECRET = "hunter2-und-mehr"


def settings_of(camera: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in camera.items() if key != "status"}


async def refused(running: RunningApp, *, sentence: str) -> None:
    """Every change answers 503 with a sentence, and neither changes anything nor disturbs the camera that runs."""
    before = [settings_of(each) for each in (await running.http.get(f"{API}/cameras")).json()]
    changes = (
        running.http.post(f"{API}/cameras", json={"id": "new", "url": URL}),
        running.http.patch(f"{API}/cameras/a", json={"min_score": 0.9}),
        running.http.put(f"{API}/cameras/a", json={"url": URL, "priority": 9}),
        running.http.delete(f"{API}/cameras/a"),
    )
    for response in await asyncio.gather(*changes):
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable"), response.text
        assert "retry-after" in response.headers
        assert sentence in response.json()["detail"] or "earlier changes have waited" in response.json()["detail"]
    assert [settings_of(each) for each in (await running.http.get(f"{API}/cameras")).json()] == before
    await running.wait_published("a", running.parts.registry.get("a").lane.counts().published + 5)
    assert (await running.camera("a"))["status"]["restarts"] == 0


async def works(running: RunningApp, camera_id: str) -> None:
    await running.register(camera_id, enabled=False, password=SECRET)
    await running.patch("a", min_score=0.9)
    await running.wait_published("a", running.parts.registry.get("a").lane.counts().published + 5)


async def stored(data_dir: Path) -> dict[str, tuple[float | None, str | None]]:
    """What the next start will find."""

    def read() -> dict[str, tuple[float | None, str | None]]:
        database = copy_in_memory(data_dir)
        with contextlib.closing(database):
            return {
                each.id: (each.min_score, None if each.password is None else each.password.get_secret_value())
                for each in database.all()
            }

    return await asyncio.to_thread(read)


async def test_a_database_that_is_locked_refuses_changes_until_it_is_not(data_dir: Path, running: RunningApp) -> None:
    await running.register("a", password=SECRET)
    with contextlib.closing(sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await refused(running, sentence="the camera database cannot be used: database is locked")
        other.execute("ROLLBACK")
    await works(running, "b")
    assert await stored(data_dir) == {"a": (0.9, SECRET), "b": (None, SECRET)}


async def test_a_database_that_is_removed_is_put_back(data_dir: Path, start_app: StartApp) -> None:
    running = await start_app()
    await running.register("a", password=SECRET)
    (data_dir / FILE_NAME).unlink()
    await works(running, "b")
    assert await stored(data_dir) == {"a": (0.9, SECRET), "b": (None, SECRET)}
    await running.stop()
    again = await start_app()
    assert [each["id"] for each in (await again.http.get(f"{API}/cameras")).json()] == ["a", "b"]


async def test_it_is_put_back_without_a_change_too(
    data_dir: Path, start_app: StartApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.KEEP_S", 0.01)
    running = await start_app()
    await running.register("a", password=SECRET)
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        (data_dir / name).unlink()
    await wait_until((data_dir / FILE_NAME).exists)
    await running.stop()
    assert await stored(data_dir) == {"a": (None, SECRET)}


async def test_a_folder_that_is_removed_refuses_changes_until_it_is_there(data_dir: Path, running: RunningApp) -> None:
    await running.register("a", password=SECRET)
    await asyncio.to_thread(shutil.rmtree, data_dir)
    await refused(running, sentence=f"data_dir: {data_dir} is gone; once it is there again, cameras can be changed")
    await asyncio.to_thread(data_dir.mkdir)
    await works(running, "b")
    # The key went with the folder; what it had sealed is sealed anew.
    assert await stored(data_dir) == {"a": (0.9, SECRET), "b": (None, SECRET)}


async def test_a_folder_that_is_moved_away_and_back_is_the_same(data_dir: Path, running: RunningApp) -> None:
    await running.register("a", password=SECRET)
    elsewhere = data_dir.with_name("elsewhere")
    await asyncio.to_thread(data_dir.rename, elsewhere)
    await refused(running, sentence="is gone")
    await asyncio.to_thread(elsewhere.rename, data_dir)
    await works(running, "b")
    assert await stored(data_dir) == {"a": (0.9, SECRET), "b": (None, SECRET)}


async def test_a_database_of_somebody_else_in_its_place_is_not_touched(data_dir: Path, running: RunningApp) -> None:
    await running.register("a", password=SECRET)
    (data_dir / FILE_NAME).rename(data_dir / "kept.db")
    (data_dir / FILE_NAME).write_bytes(b"mine")
    await refused(running, sentence="another file has taken the camera database's place; restart Vidette")
    assert (data_dir / FILE_NAME).read_bytes() == b"mine"
    (data_dir / "kept.db").replace(data_dir / FILE_NAME)
    await works(running, "b")


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


async def test_a_database_that_is_spoilt_while_it_is_open_never_answers_500(
    data_dir: Path, running: RunningApp
) -> None:
    await running.register("a")
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        await asyncio.to_thread(spoil, data_dir / name)
    for number in range(5):
        body = {"id": f"b-{number}", "url": URL, "enabled": False}
        response = await running.http.post(f"{API}/cameras", json=body)
        listed = [each["id"] for each in (await running.http.get(f"{API}/cameras")).json()]
        assert (response.status_code, f"b-{number}" in listed) in ((201, True), (503, False)), response.text
    await running.wait_published("a", running.parts.registry.get("a").lane.counts().published + 5)


@contextlib.contextmanager
def limited_files(data_dir: Path, service: ServeProcess) -> Iterator[None]:
    """No file may grow any more."""
    size = (data_dir / f"{FILE_NAME}-wal").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def filled_disk(data_dir: Path, service: ServeProcess) -> Iterator[None]:
    filler = data_dir / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 512):
            pass
    yield
    filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def check_a_full_disk(
    data_dir: Path, full: Callable[[Path, ServeProcess], contextlib.AbstractContextManager[None]]
) -> None:
    with ServeProcess(data_dir, environ=SYNTHETIC) as service, httpx.Client(base_url=service.url) as http:
        service.register(id="a", url=URL)
        service.wait_running("a")
        kept = []
        with full(data_dir, service):
            statuses = set()
            for number in range(60):  # the journal may have room for some
                body = {"id": f"b-{number}", "url": URL, "enabled": False, "labels": {"x": "y" * 2000}}
                response = http.post("/api/v1/cameras", json=body)
                statuses.add(response.status_code)
                if response.status_code == 201:
                    kept.append(f"b-{number}")
                else:
                    assert response.json()["code"] == "storage_unavailable", response.text
            assert 503 in statuses <= {201, 503}
            assert [each["id"] for each in service.get("/api/v1/cameras")] == ["a", *kept]
            published = service.frames()["a"]["published"]
        response = http.post("/api/v1/cameras", json={"id": "after", "url": URL, "enabled": False})
        assert response.status_code == 201, response.text
        wait_in_thread(lambda: service.frames()["a"]["published"] > published, what="the camera goes on")
        assert service.terminate() == 0
        assert "Traceback" not in service.log()
    with ServeProcess(data_dir, environ=SYNTHETIC) as service:
        assert [each["id"] for each in service.get("/api/v1/cameras")] == ["a", *kept, "after"]


def test_files_that_may_not_grow_refuse_changes_until_they_may(tmp_path: Path) -> None:
    check_a_full_disk(tmp_path / "data", limited_files)


def test_a_full_disk_refuses_changes_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        check_a_full_disk(tmp_path / "disk", filled_disk)
