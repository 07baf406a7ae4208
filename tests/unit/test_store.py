"""Cameras on disk: what comes back, and what is refused and left as it is."""
# ruff: noqa: ASYNC240  these tests look at files between two awaits; their loop serves nobody else

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cameras.database import APPLICATION_ID, FILE_NAME, MIGRATIONS
from app.cameras.settings import CameraSettings, MotionSettings
from app.cameras.store import CameraStore
from app.errors import StoreError

PASSWORD = " p@ss:w/ö#%?\\\"' "


def camera(camera_id: str = "gate-1", **fields: object) -> CameraSettings:
    return CameraSettings.model_validate(
        {"id": camera_id, "name": "Gate", "url": f"rtsp://camera.test/{camera_id}", **fields}
    )


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[CameraStore]:
    store = CameraStore(data_dir)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def refusal(data_dir: Path) -> str:
    with pytest.raises(StoreError) as caught:
        async with opened(data_dir):
            pass
    return str(caught.value)


def make_database(data_dir: Path, *statements: str) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / FILE_NAME
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_every_field_survives_a_restart(data_dir: Path) -> None:
    full = camera(
        username="admin",
        password=PASSWORD,
        enabled=False,
        transport="udp",
        max_fps=2.5,
        motion=MotionSettings(hold_s=0.5),
        priority=9,
        min_score=0.0,
        classes=["person"],
        labels={"floor": "2", "ö": "ü"},
    )
    bare = camera("bare")
    async with opened(data_dir) as store:
        await store.put(full)
        await store.put(bare)
    async with opened(data_dir) as store:
        assert await store.all() == [full, bare]


async def test_cameras_come_back_in_the_order_of_their_registration(data_dir: Path) -> None:
    async with opened(data_dir) as store:
        for name in ("b", "a", "c"):
            await store.put(camera(name))
        await store.put(camera("b", priority=1))  # a change is no new registration
        await store.delete("a")
        await store.put(camera("a"))
        assert [each.id for each in await store.all()] == ["b", "c", "a"]


async def test_deleting_what_is_not_there_is_no_error(data_dir: Path) -> None:
    async with opened(data_dir) as store:
        await store.delete("nobody")
        assert await store.all() == []


async def test_the_database_is_ours_private_and_in_wal_mode(data_dir: Path) -> None:
    async with opened(data_dir):
        path = data_dir / FILE_NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700

    def read() -> list[object]:
        with sqlite3.connect(path) as db:
            answers = [
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "journal_mode")
            ]
        db.close()
        return answers

    assert await asyncio.to_thread(read) == [APPLICATION_ID, len(MIGRATIONS), "wal"]


async def test_the_files_that_sqlite_keeps_beside_it_are_private_too(data_dir: Path) -> None:
    async with opened(data_dir) as store:
        await store.put(camera(password="hunter2"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in data_dir.iterdir()}
    assert FILE_NAME in modes
    assert set(modes.values()) == {0}, modes


async def test_closing_twice_is_no_error(data_dir: Path) -> None:
    store = CameraStore(data_dir)
    await store.open()
    await store.close()
    await store.close()


async def test_closing_a_store_that_was_never_opened_is_no_error(data_dir: Path) -> None:
    store = CameraStore(data_dir)
    await store.close()
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b"this is not a database " * 500), id="text"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:100] + os.urandom(8000)), id="garbage"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:5000]), id="cut"),
    ],
)
async def test_a_corrupt_database_is_refused_and_left_as_it_is(data_dir: Path, spoil: Callable[[Path], object]) -> None:
    async with opened(data_dir) as store:
        for number in range(200):
            await store.put(camera(f"camera-{number}", labels={"x": "y" * 100}))
    path = data_dir / FILE_NAME
    spoil(path)
    before = digest(path)
    message = await refusal(data_dir)
    assert message.startswith(f"{path}: the camera database is corrupt (")
    assert message.endswith("restore it from a backup")
    assert digest(path) == before


async def test_a_newer_database_is_refused_and_left_as_it_is(data_dir: Path) -> None:
    path = make_database(
        data_dir,
        "CREATE TABLE cameras (id TEXT, something_new TEXT)",
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 99",
    )
    before = digest(path)
    assert await refusal(data_dir) == (
        f"{path}: the camera database has version 99, written by a newer Vidette; this one knows versions "
        f"up to {len(MIGRATIONS)}"
    )
    assert digest(path) == before


async def test_another_program_s_database_is_refused_and_left_as_it_is(data_dir: Path) -> None:
    path = make_database(data_dir, "CREATE TABLE bookmarks (url TEXT)")
    before = digest(path)
    assert "another program's database" in await refusal(data_dir)
    assert digest(path) == before


async def test_an_empty_file_becomes_a_database(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / FILE_NAME).touch()
    async with opened(data_dir) as store:
        assert await store.all() == []


async def test_a_read_only_folder_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o555)
    try:
        assert await refusal(data_dir) == f"data_dir: {data_dir} is read-only; Vidette keeps its cameras there"
        assert list(data_dir.iterdir()) == []
    finally:
        data_dir.chmod(0o755)


async def test_a_data_dir_that_is_a_file_is_refused(data_dir: Path) -> None:
    data_dir.write_text("mine")
    assert await refusal(data_dir) == f"data_dir: {data_dir} cannot be made: File exists"
    assert data_dir.read_text() == "mine"


async def test_a_data_dir_below_a_file_is_refused(data_dir: Path) -> None:
    data_dir.write_text("mine")
    assert await refusal(data_dir / "below") == f"data_dir: {data_dir / 'below'} cannot be made: Not a directory"


async def test_a_folder_that_cannot_even_be_looked_at_is_refused_with_a_sentence(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    async with opened(data_dir) as store:
        (data_dir / FILE_NAME).unlink()
        monkeypatch.setattr(Path, "is_dir", stale)
        for change in (store.keep(), store.put(camera()), store.delete("gate-1")):
            with pytest.raises(StoreError, match=r"cannot be used: Stale file handle"):
                await change
        monkeypatch.undo()
        await store.put(camera())
    async with opened(data_dir) as store:
        assert await store.all() == [camera()]


async def test_a_locked_database_is_refused_with_a_sentence(data_dir: Path) -> None:
    async with opened(data_dir):
        pass
    path = data_dir / FILE_NAME
    other = await asyncio.to_thread(lambda: sqlite3.connect(path, isolation_level=None, check_same_thread=False))
    try:
        async with opened(data_dir) as store:
            await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match="cannot be used: database is locked"):
                await store.put(camera())
            await asyncio.to_thread(other.execute, "ROLLBACK")
            await store.put(camera())
            assert len(await store.all()) == 1
    finally:
        other.close()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("'{}'", "url: must be given"),
        ("'not json'", "Expecting value"),
        ("'[]'", "cannot be read"),
        ('\'{"name": "x", "url": "rtsp://h", "priority": 77}\'', "priority: "),
    ],
)
async def test_a_row_that_is_not_a_camera_is_refused_by_its_name(data_dir: Path, row: str, reason: str) -> None:
    async with opened(data_dir):
        pass
    make_database(data_dir, f"INSERT INTO cameras (id, settings) VALUES ('gate-1', {row})")
    async with opened(data_dir) as store:
        with pytest.raises(StoreError, match="the stored camera 'gate-1' cannot be read") as caught:
            await store.all()
    assert reason in str(caught.value)


async def test_an_upgrade_that_fails_half_way_leaves_the_old_version(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(data_dir) as store:
        await store.put(camera())
    monkeypatch.setattr("app.cameras.database.MIGRATIONS", (*MIGRATIONS, "ALTER TABLE nowhere ADD COLUMN x"))
    assert "cannot be used: no such table: nowhere" in await refusal(data_dir)
    monkeypatch.undo()
    async with opened(data_dir) as store:
        assert await store.all() == [camera()]


async def test_an_upgrade_keeps_every_camera(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(data_dir) as store:
        await store.put(camera())
    monkeypatch.setattr("app.cameras.database.MIGRATIONS", (*MIGRATIONS, "ALTER TABLE cameras ADD COLUMN site TEXT"))
    async with opened(data_dir) as store:
        assert await store.all() == [camera()]
    monkeypatch.undo()
    assert "written by a newer Vidette" in await refusal(data_dir)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30).map(str.strip)


@settings(max_examples=40)
@given(
    name=TEXT.filter(bool),
    username=st.none() | TEXT,
    password=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    labels=st.dictionaries(TEXT, TEXT, max_size=4),
    max_fps=st.none() | st.floats(0.001, 240),
    min_score=st.none() | st.floats(0, 1),
)
async def test_whatever_a_camera_holds_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, **fields: Any
) -> None:
    one = camera(**fields)
    async with opened(tmp_path_factory.mktemp("store")) as store:
        await store.put(one)
        assert await store.all() == [one]
