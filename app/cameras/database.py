"""The camera database: one SQLite file in WAL mode, migrated by `user_version`. Blocking; one thread at a time."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from app.cameras.lock import DataDirLock
from app.cameras.rows import Row, from_row, is_plain, to_row
from app.cameras.sealing import SecretKeys, key_path, make_key_file, read_keys
from app.cameras.settings import CameraSettings
from app.errors import StoreError
from app.sentences import sentences

logger = logging.getLogger("vidette.cameras")
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
    # What is secret, sealed, as JSON. From here on `password` is NULL, or '' where plain bytes are still to be wiped.
    "ALTER TABLE cameras ADD COLUMN sealed TEXT NOT NULL DEFAULT '{}'",
    """
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        secret_sha256 BLOB NOT NULL,
        scope TEXT NOT NULL,
        cameras TEXT,
        name TEXT,
        created_utc REAL NOT NULL,
        expires_utc REAL,
        revoked_utc REAL
    )
    """,
)
_PUT = (
    "INSERT INTO cameras (id, settings, sealed, declared) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, sealed = excluded.sealed, "
    "declared = excluded.declared, password = NULL"
)


class CameraDatabase:
    """An open database; `open_database` or `copy_in_memory` makes one. `path` is what messages call it."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, lock: DataDirLock | None = None, *, keys: SecretKeys | None = None
    ) -> None:
        self._path = path
        self._db = db
        self._lock = lock
        self._keys = SecretKeys() if keys is None else keys
        self._file = file_identity(path)
        self.closed = False

    @property
    def key_ids(self) -> tuple[str, ...]:
        return self._keys.ids

    @property
    def in_place(self) -> bool:
        """Whether the open file is still the one at its path: what is written to another one is lost with us."""
        return self._file == file_identity(self._path)

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy all that is committed. Errors are SQLite's own."""
        self._db.backup(target)

    def all(self) -> list[CameraSettings]:
        """Every stored camera, in the order of registration. Raises `StoreError` for a row that is not a camera."""
        return [self._camera(row, plain_password) for row, plain_password in self._rows()]

    def apply(self, *, put: Iterable[CameraSettings] = (), delete: Iterable[str] = ()) -> None:
        """Insert or replace these cameras and delete those: all of it is on disk when this returns, or nothing is."""
        with refusing(self._path), transaction(self._db):
            self._db.executemany("DELETE FROM cameras WHERE id = ?", [(camera_id,) for camera_id in delete])
            for camera in put:
                found = self._db.execute("SELECT sealed FROM cameras WHERE id = ?", (camera.id,)).fetchone()
                row = to_row(camera, self._keys, stored_seals="{}" if found is None else found[0])
                self._db.execute(_PUT, (row.id, row.settings, row.sealed, row.declared))

    def seal_plain(self) -> None:
        """Seal what an earlier version left plain, and leave none of its bytes in the file or its journal.

        May be cut off at any point: the next start goes on with it. Without a key everything stays as it is.
        """
        rows = self._rows()
        plain = [(row, password) for row, password in rows if is_plain(row, password)]
        if plain and not self._keys.ids:
            logger.warning("%s: there is no key, so stored passwords stay unencrypted", self._keys.place)
        elif any(password is not None for _, password in rows) or plain:
            cameras = [self._camera(row, password) for row, password in plain]
            with refusing(self._path):
                with transaction(self._db):
                    for row in (to_row(camera, self._keys) for camera in cameras):
                        settings = (row.settings, row.sealed, row.id)
                        self._db.execute(
                            "UPDATE cameras SET settings = ?, sealed = ?, password = '' WHERE id = ?", settings
                        )
                if self.wipe():
                    self._db.execute("UPDATE cameras SET password = NULL")
            logger.info("%d stored passwords are encrypted now; keep %s beside backups", len(plain), self._keys.place)

    def reseal(self, keys: SecretKeys) -> list[str]:
        """Seal everything anew with the first of these keys. Returns the cameras of which something is unreadable."""
        cameras = self.all()
        self._keys = keys
        self.apply(put=cameras)
        self.wipe()
        return [camera.id for camera in cameras if camera.unreadable]

    def wipe(self) -> bool:
        """Leave nothing of what was deleted or replaced in file and journal. False: a reader was in the way."""
        with refusing(self._path):
            self._db.execute("VACUUM")
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Idempotent."""
        self.closed = True
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def _rows(self) -> list[tuple[Row, str | None]]:
        with refusing(self._path):
            found = self._db.execute("SELECT id, settings, sealed, declared, password FROM cameras ORDER BY rowid")
            return [
                (Row(id=camera_id, settings=settings, sealed=sealed, declared=declared), password)
                for camera_id, settings, sealed, declared, password in found.fetchall()
            ]

    def _camera(self, row: Row, plain_password: str | None) -> CameraSettings:
        try:
            return from_row(row, self._keys, plain_password=plain_password)
        except ValidationError as exc:
            problem = "; ".join(sentences(exc))
        except (ValueError, TypeError) as exc:
            problem = str(exc)
        raise StoreError(f"{self._path}: the stored camera {row.id!r} cannot be read: {problem}")


def open_database(data_dir: Path, *, key_file: Path | None = None) -> CameraDatabase:
    """Open the folder's database for changes, and keep every other process from changing it.

    Makes what is not there, the folder's own key too, and brings an older version up to date. Raises `StoreError`, and
    leaves the file as it is, when it is corrupt, from a newer version, not ours, or in use.
    """
    path = data_dir / FILE_NAME
    prepare_folder(data_dir)
    lock = DataDirLock(data_dir)
    lock.acquire()
    try:
        keys = _keys(data_dir, key_file)
        _make_private(path)
        with refusing(path):
            db = sqlite3.connect(path, timeout=2.0, isolation_level=None)
            try:
                check(db, path)
                _migrate(db)
                database = CameraDatabase(path, db, lock, keys=keys)
                database.seal_plain()
            except BaseException:
                db.close()
                raise
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
    except BaseException:
        lock.release()
        raise
    return database


def file_identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None when there is none, or it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_shared(data_dir: Path, *, key_file: Path | None = None) -> sqlite3.Connection:
    """The folder's database for parts that a service may be using meanwhile; SQLite's locks keep writers apart.

    Blocking. Makes it, or brings it up to date, where that has not been done. Raises `StoreError`.
    """
    path = data_dir / FILE_NAME
    if not path.is_file() or path.stat().st_size == 0:
        open_database(data_dir, key_file=key_file).close()
    with refusing(path):
        db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            check(db, path)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version < len(MIGRATIONS):
                open_database(data_dir, key_file=key_file).close()
            db.execute("PRAGMA synchronous = FULL")
        except BaseException:
            db.close()
            raise
    return db


def copy_in_memory(data_dir: Path, *, key_file: Path | None = None) -> CameraDatabase:
    """A consistent copy of what the database holds now, at today's version. Takes no lock and changes no file."""
    return copy_file_in_memory(data_dir / FILE_NAME, keys=read_keys(key_path(data_dir, key_file)))


def copy_file_in_memory(path: Path, *, keys: SecretKeys | None = None) -> CameraDatabase:
    """`copy_in_memory` of a database by its file, such as a backup. Without keys no password in it can be read."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with refusing(path):
            copy_to(path, db)
            _migrate(db)
    except BaseException:
        db.close()
        raise
    return CameraDatabase(path, db, keys=keys)


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
    with refusing(path):
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


def _keys(data_dir: Path, key_file: Path | None) -> SecretKeys:
    path = key_path(data_dir, key_file)
    # One that somebody else keeps is never made: a path that is misspelt would part the key from its backups.
    if key_file is None and not path.exists():
        make_key_file(path)
    return read_keys(path)


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
    db.execute("PRAGMA secure_delete = ON")  # what is replaced is overwritten
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, statement in enumerate(MIGRATIONS[version:], start=version + 1):
        with transaction(db):
            db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it is on disk afterwards, or nothing is."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreError`."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise StoreError(f"{path}: the camera database cannot be used: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise StoreError(f"{path}: the camera database is corrupt ({exc}); restore it from a backup") from exc
