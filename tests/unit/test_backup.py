"""Backup and restore: consistent while the database is written to, whole or not at all, and never over something."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.cameras.backup import restore_backup, write_backup
from app.cameras.database import APPLICATION_ID, FILE_NAME, open_database
from app.cameras.lock import LOCK_NAME, DataDirLock
from app.cameras.sealing import FILE_NAME as KEY_NAME
from app.cameras.settings import CameraSettings
from app.errors import ConfigError, StoreError


def camera(camera_id: str = "gate-1", **fields: Any) -> CameraSettings:
    url = f"rtsp://camera.test/{camera_id}"
    return CameraSettings.model_validate({"id": camera_id, "name": camera_id, "url": url, **fields})


def fill(data_dir: Path, *cameras: CameraSettings) -> None:
    with closing(open_database(data_dir)) as database:
        database.apply(put=cameras)


def content(data_dir: Path) -> list[CameraSettings]:
    with closing(open_database(data_dir)) as database:
        return database.all()


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "cameras.db"


def test_a_backup_brings_every_camera_back_with_its_password(data_dir: Path, tmp_path: Path, backup: Path) -> None:
    cameras = [camera("b", password="hunter2", labels={"x": "y"}), camera("a", declared=True)]
    fill(data_dir, *cameras)
    assert write_backup(data_dir, backup) == 2
    assert restore_backup(backup, tmp_path / "new") == 2
    shutil.copy(data_dir / "secret.key", tmp_path / "new")
    assert content(tmp_path / "new") == cameras


def test_a_backup_is_one_file_that_only_its_owner_may_read(data_dir: Path, backup: Path) -> None:
    fill(data_dir, camera())
    write_backup(data_dir, backup)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert backup.read_bytes()[18:20] == b"\x01\x01"  # not in WAL mode: it needs no file beside it
    assert [path.name for path in backup.parent.iterdir() if path.name.startswith((".", "cameras"))] == [backup.name]


def test_a_backup_is_of_one_moment_while_the_database_is_written_to(data_dir: Path, backup: Path) -> None:
    stop, written = threading.Event(), threading.Event()
    many = [camera(f"camera-{number}", labels={"x": "y" * 200}) for number in range(50)]

    def write() -> None:
        with closing(open_database(data_dir)) as database:
            for generation in range(1, 100_000):
                database.apply(put=[each.model_copy(update={"max_fps": generation / 1000}) for each in many])
                written.set()
                if stop.is_set():
                    return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(10)
        for number in range(5):
            assert write_backup(data_dir, backup, force=number > 0) == len(many)
            restored = backup.with_name(f"restored-{number}")
            restore_backup(backup, restored)
            # One transaction wrote all of them, so all of them have one rate.
            assert len({each.max_fps for each in content(restored)}) == 1
    finally:
        stop.set()
        writer.join()


def test_nothing_is_replaced_unless_it_is_wanted(data_dir: Path, backup: Path) -> None:
    fill(data_dir, camera("old"))
    write_backup(data_dir, backup)
    before = backup.read_bytes()
    fill(data_dir, camera("new"))
    with pytest.raises(ConfigError, match="there is a file already; --force replaces it"):
        write_backup(data_dir, backup)
    assert backup.read_bytes() == before
    with pytest.raises(ConfigError, match="has a camera database already; --force replaces it"):
        restore_backup(backup, data_dir)
    assert [each.id for each in content(data_dir)] == ["old", "new"]
    restore_backup(backup, data_dir, force=True)
    assert [each.id for each in content(data_dir)] == ["old"]
    write_backup(data_dir, backup, force=True)


def test_a_restore_waits_for_no_service_and_disturbs_none(data_dir: Path, backup: Path) -> None:
    fill(data_dir, camera())
    write_backup(data_dir, backup)
    with closing(open_database(data_dir)) as running:
        with pytest.raises(StoreError, match="is in use by another Vidette; stop that one, or name another folder"):
            restore_backup(backup, data_dir, force=True)
        running.apply(put=[camera("still-here")])
    assert [each.id for each in content(data_dir)] == ["gate-1", "still-here"]


def leave_a_journal(data_dir: Path) -> None:
    """End like a power cut, with the newest camera in the journal alone."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom app.cameras.database import open_database\n"
        "from app.cameras.settings import CameraSettings\ndatabase = open_database(Path(sys.argv[1]))\n"
        "database.apply(put=[CameraSettings(id='in-journal', name='x', url='rtsp://h')])\nos._exit(0)\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(data_dir)], check=True, cwd=root, timeout=60)
    assert (data_dir / f"{FILE_NAME}-wal").stat().st_size > 0


def test_a_backup_holds_what_lies_in_the_journal_alone(data_dir: Path, tmp_path: Path, backup: Path) -> None:
    leave_a_journal(data_dir)
    assert write_backup(data_dir, backup) == 1
    restore_backup(backup, tmp_path / "new")
    assert [each.id for each in content(tmp_path / "new")] == ["in-journal"]


def test_a_journal_of_the_old_database_does_not_get_into_the_new_one(
    data_dir: Path, tmp_path: Path, backup: Path
) -> None:
    fill(tmp_path / "other", camera("from-backup"))
    write_backup(tmp_path / "other", backup)
    leave_a_journal(data_dir)
    restore_backup(backup, data_dir, force=True)
    assert sorted(path.name for path in data_dir.iterdir()) == sorted([KEY_NAME, FILE_NAME, LOCK_NAME])
    assert [each.id for each in content(data_dir)] == ["from-backup"]


def test_a_journal_without_its_database_does_not_get_into_the_new_one_either(
    data_dir: Path, tmp_path: Path, backup: Path
) -> None:
    fill(tmp_path / "other", camera("from-backup"))
    write_backup(tmp_path / "other", backup)
    leave_a_journal(data_dir)
    (data_dir / FILE_NAME).unlink()
    restore_backup(backup, data_dir)
    assert [each.id for each in content(data_dir)] == ["from-backup"]


def test_a_database_that_somebody_reads_is_not_pulled_away(data_dir: Path, backup: Path) -> None:
    fill(data_dir, camera("mine"))
    write_backup(data_dir, backup)
    with closing(sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM cameras").fetchall()
        with pytest.raises(StoreError, match="is being read; try again shortly"):
            restore_backup(backup, data_dir, force=True)
    restore_backup(backup, data_dir, force=True)
    assert [each.id for each in content(data_dir)] == ["mine"]


def test_a_corrupt_database_is_no_backup_but_is_restored(data_dir: Path, tmp_path: Path, backup: Path) -> None:
    fill(tmp_path / "other", camera("from-backup"))
    write_backup(tmp_path / "other", backup)
    leave_a_journal(data_dir)
    garbage(data_dir / FILE_NAME)
    garbage(data_dir / f"{FILE_NAME}-wal")  # a whole one would still hold the cameras
    with pytest.raises(StoreError, match="is corrupt"):
        write_backup(data_dir, tmp_path / "never.db")
    assert not (tmp_path / "never.db").exists()
    restore_backup(backup, data_dir, force=True)
    assert [each.id for each in content(data_dir)] == ["from-backup"]


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database " * 500)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in ("CREATE TABLE cameras (id)", f"PRAGMA application_id = {APPLICATION_ID}"):
            db.execute(statement)
        db.execute("PRAGMA user_version = 99")


def bad_row(path: Path) -> None:
    fill(path.parent / "bad", camera())
    write_backup(path.parent / "bad", path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE cameras SET settings = '{}'")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (garbage, "is corrupt"),
        (Path.touch, "the file is empty and no camera database"),
        (foreign, "another program's database"),
        (newer, "written by a newer Vidette"),
        (bad_row, "the stored camera 'gate-1' cannot be read"),
        (lambda path: None, "there is no such backup"),
        (Path.mkdir, "there is no such backup"),
    ],
)
def test_a_file_that_is_no_backup_changes_nothing(
    data_dir: Path, backup: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    fill(data_dir, camera("mine"))
    spoil(backup)
    with pytest.raises(ConfigError, match=sentence):
        restore_backup(backup, data_dir, force=True)
    assert [each.id for each in content(data_dir)] == ["mine"]
    assert not [path for path in data_dir.iterdir() if path.name.endswith(".partial")]


def test_there_must_be_something_to_back_up(data_dir: Path, backup: Path) -> None:
    with pytest.raises(StoreError, match="there is no camera database"):
        write_backup(data_dir, backup)
    assert not backup.exists()
    assert not data_dir.exists()


@pytest.mark.parametrize("where", ["missing/cameras.db", "file/cameras.db"])
def test_a_place_that_cannot_be_written_to_is_named(data_dir: Path, tmp_path: Path, where: str) -> None:
    fill(data_dir, camera())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{where}: the file cannot be written: "):
        write_backup(data_dir, tmp_path / where)


def test_an_older_backup_is_brought_up_to_date_by_the_next_start(data_dir: Path, backup: Path) -> None:
    with closing(sqlite3.connect(backup, isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE cameras (id TEXT PRIMARY KEY, settings TEXT NOT NULL, password TEXT, "
            "registered_at TEXT NOT NULL DEFAULT 'then')"
        )
        db.execute('INSERT INTO cameras (id, settings) VALUES (\'old\', \'{"name": "x", "url": "rtsp://h"}\')')
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
    before = backup.read_bytes()
    assert restore_backup(backup, data_dir) == 1
    assert backup.read_bytes() == before
    assert [(each.id, each.declared) for each in content(data_dir)] == [("old", False)]


# The lock


def test_a_folder_belongs_to_one_process_at_a_time(data_dir: Path) -> None:
    data_dir.mkdir()
    first, second = DataDirLock(data_dir), DataDirLock(data_dir)
    first.acquire()
    with pytest.raises(StoreError, match=f"data_dir: {data_dir} is in use by another Vidette"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_lock_ends_with_its_process(data_dir: Path) -> None:
    leave_a_journal(data_dir)  # which ended without letting go
    assert (data_dir / LOCK_NAME).exists()
    assert [each.id for each in content(data_dir)] == ["in-journal"]


def test_a_lock_file_that_cannot_be_made_is_a_sentence(data_dir: Path) -> None:
    with pytest.raises(StoreError, match="the lock file cannot be opened: No such file or directory"):
        DataDirLock(data_dir).acquire()


def test_a_database_that_cannot_be_opened_lets_the_folder_go(data_dir: Path) -> None:
    data_dir.mkdir()
    garbage(data_dir / FILE_NAME)
    for _ in range(2):
        with pytest.raises(StoreError, match="is corrupt"):
            open_database(data_dir)


def test_the_partial_file_of_a_process_that_died_is_in_nobody_s_way(data_dir: Path, backup: Path) -> None:
    fill(data_dir, camera())
    backup.with_name(f".{backup.name}.{os.getpid()}.partial").write_bytes(b"garbage")
    assert write_backup(data_dir, backup) == 1
