"""The camera database: one SQLite file in WAL mode, migrated by `user_version`. Blocking; one thread at a time."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from app.cameras.lock import DataDirLock
from app.cameras.settings import CameraSettings
from app.errors import StoreError
from app.settings import sentences

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
    "ALTER TABLE cameras ADD COLUMN declared INTEGER NOT NULL DEFAULT 0",
)
_PUT = (
    "INSERT INTO cameras (id, settings, password, declared) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET "
    "settings = excluded.settings, password = excluded.password, declared = excluded.declared"
)


class CameraDatabase:
    """An open database; `open_database` or `copy_in_memory` makes one. `path` is what messages call it."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: DataDirLock | None = None) -> None:
        self._path = path
        self._db = db
        self._lock = lock

    def all(self) -> list[CameraSettings]:
        """Every stored camera, in the order of registration. Raises `StoreError` for a row that is not a camera."""
        with _refusing(self._path):
            rows = self._db.execute("SELECT id, settings, password, declared FROM cameras ORDER BY rowid").fetchall()
        return [self._camera(*row) for row in rows]

    def apply(self, *, put: Iterable[CameraSettings] = (), delete: Iterable[str] = ()) -> None:
        """Insert or replace these cameras and delete those: all of it is on disk when this returns, or nothing is."""
        with _refusing(self._path), _transaction(self._db):
            self._db.executemany("DELETE FROM cameras WHERE id = ?", [(camera_id,) for camera_id in delete])
            self._db.executemany(_PUT, [_row(camera) for camera in put])

    def close(self) -> None:
        """Idempotent."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def _camera(self, camera_id: str, settings: str, password: str | None, declared: int) -> CameraSettings:
        try:
            fields = {**json.loads(settings), "id": camera_id, "password": password, "declared": bool(declared)}
            return CameraSettings.model_validate(fields)
        except ValidationError as exc:
            problem = "; ".join(sentences(exc))
        except (ValueError, TypeError) as exc:
            problem = str(exc)
        raise StoreError(f"{self._path}: the stored camera {camera_id!r} cannot be read: {problem}")


def open_database(data_dir: Path) -> CameraDatabase:
    """Open the folder's database for changes, and keep every other process from changing it.

    Makes what is not there, brings an older version up to date. Raises `StoreError`, and leaves the file as it is,
    when it is corrupt, from a newer version, not ours, or in use.
    """
    path = data_dir / FILE_NAME
    prepare_folder(data_dir)
    lock = DataDirLock(data_dir)
    lock.acquire()
    try:
        _make_private(path)
        with _refusing(path):
            db = sqlite3.connect(path, timeout=2.0, isolation_level=None)
            try:
                check(db, path)
                _migrate(db)
            except BaseException:
                db.close()
                raise
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
    except BaseException:
        lock.release()
        raise
    return CameraDatabase(path, db, lock)


def copy_in_memory(data_dir: Path) -> CameraDatabase:
    """A consistent copy of what the database holds now, at today's version. Takes no lock and changes no file."""
    return copy_file_in_memory(data_dir / FILE_NAME)


def copy_file_in_memory(path: Path) -> CameraDatabase:
    """`copy_in_memory` of a database by its file, such as a backup."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with _refusing(path):
            copy_to(path, db)
            _migrate(db)
    except BaseException:
        db.close()
        raise
    return CameraDatabase(path, db)


def copy_to(path: Path, target: sqlite3.Connection) -> None:
    """Copy a database that another process may be writing to: what is committed now, and nothing of what comes later.

    Raises `StoreError` when there is none, or when it is not one that this version can use; errors of the target are
    SQLite's own.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no camera database")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        check(db, path)
        db.backup(target)


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` unless this is an empty database, or a whole one of ours that is not newer than we are."""
    with _refusing(path):
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreError(f"{path}: this is another program's database; give data_dir a folder of its own")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{path}: the camera database has version {version}, written by a newer Vidette; "
                f"this one knows versions up to {len(MIGRATIONS)}"
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{path}: the camera database is corrupt ({verdict}); restore it from a backup")


def prepare_folder(folder: Path) -> None:
    """Make the folder where it is not there, for us alone. Raises `StoreError` when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK | os.X_OK)
    except OSError as exc:
        raise StoreError(f"data_dir: {folder} cannot be made: {exc.strerror}") from exc
    if not writable:
        raise StoreError(f"data_dir: {folder} is read-only; Vidette keeps its cameras there")


def _row(camera: CameraSettings) -> tuple[str, str, str | None, int]:
    settings = camera.model_dump_json(exclude={"id", "password", "declared"})
    password = camera.password.get_secret_value() if camera.password is not None else None
    return camera.id, settings, password, int(camera.declared)


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
        with _transaction(db):
            db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise StoreError(f"{path}: the camera database cannot be used: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise StoreError(f"{path}: the camera database is corrupt ({exc}); restore it from a backup") from exc
