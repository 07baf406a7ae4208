"""Registered cameras on disk: SQLite, in WAL mode, migrated by `user_version`."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from app.cameras.settings import CameraSettings
from app.errors import StoreError
from app.settings import sentences

T = TypeVar("T")
FILE_NAME = "vidette.db"
APPLICATION_ID = 0x56494454  # "VIDT": tells our database from another program's
MIGRATIONS = (
    """
    CREATE TABLE cameras (
        id TEXT PRIMARY KEY,
        settings TEXT NOT NULL,
        password TEXT,
        registered_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    )
    """,
)


class CameraStore:
    """Every camera's settings. One thread of its own does all I/O, so the event loop never waits for a disk.

    A database that is corrupt, from a newer version, or not ours is refused with a sentence and left as it is.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        await self._run(self._open)

    async def all(self) -> list[CameraSettings]:
        """Every stored camera, in the order of registration. Raises `StoreError` for a row that is not a camera."""
        return await self._run(self._all)

    async def put(self, camera: CameraSettings) -> None:
        """Insert or replace a camera; on disk when this returns."""
        await self._run(lambda: self._put(camera))

    async def delete(self, camera_id: str) -> None:
        await self._run(lambda: self._execute("DELETE FROM cameras WHERE id = ?", (camera_id,)))

    async def close(self) -> None:
        """Close the database and end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        _prepare_folder(self._path.parent)
        _make_private(self._path)
        with self._refusing():
            db = sqlite3.connect(self._path, timeout=2.0, isolation_level=None)
            try:
                self._check(db)
                _migrate(db)
            except BaseException:
                db.close()
                raise
        os.chmod(self._path, stat.S_IRUSR | stat.S_IWUSR)
        self._db = db

    def _check(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreError(f"{self._path}: this is another program's database; give data_dir a folder of its own")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self._path}: the camera database has version {version}, written by a newer Vidette; "
                f"this one knows versions up to {len(MIGRATIONS)}"
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{self._path}: the camera database is corrupt ({verdict}); restore it from a backup")

    def _all(self) -> list[CameraSettings]:
        rows = self._execute("SELECT id, settings, password FROM cameras ORDER BY rowid")
        return [self._camera(*row) for row in rows]

    def _camera(self, camera_id: str, settings: str, password: str | None) -> CameraSettings:
        try:
            return CameraSettings.model_validate({**json.loads(settings), "id": camera_id, "password": password})
        except ValidationError as exc:
            problem = "; ".join(sentences(exc))
        except (ValueError, TypeError) as exc:
            problem = str(exc)
        raise StoreError(f"{self._path}: the stored camera {camera_id!r} cannot be read: {problem}")

    def _put(self, camera: CameraSettings) -> None:
        settings = camera.model_dump_json(exclude={"id", "password"})
        password = camera.password.get_secret_value() if camera.password is not None else None
        self._execute(
            "INSERT INTO cameras (id, settings, password) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, password = excluded.password",
            (camera.id, settings, password),
        )

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[str, str, str | None]]:
        assert self._db is not None, "the store is not open"
        with self._refusing():
            return self._db.execute(sql, values).fetchall()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise StoreError(f"{self._path}: the camera database cannot be used: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise StoreError(f"{self._path}: the camera database is corrupt ({exc}); restore it from a backup") from exc


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK | os.X_OK)
    except OSError as exc:
        raise StoreError(f"data_dir: {folder} cannot be made: {exc.strerror}") from exc
    if not writable:
        raise StoreError(f"data_dir: {folder} is read-only; Vidette keeps its cameras there")


def _make_private(path: Path) -> None:
    """Make an empty file that only we may read, where there is none: SQLite gives its journals the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR))
    except FileExistsError:
        pass
    except OSError as exc:
        raise StoreError(f"{path}: the camera database cannot be made: {exc.strerror}") from exc


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a registered camera survives a power cut
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, statement in enumerate(MIGRATIONS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
