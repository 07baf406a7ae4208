"""Backup and restore of the data folder, which is the camera database: everything else in it is made anew."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.cameras.database import FILE_NAME, copy_file_in_memory, copy_to, prepare_folder
from app.cameras.lock import DataDirLock
from app.errors import ConfigError, StoreError

_BESIDE = ("-wal", "-shm")


def write_backup(data_dir: Path, target: Path, *, force: bool = False) -> int:
    """Copy the database to `target`, a SQLite file that only its owner may read. Returns how many cameras it holds.

    Blocking. May be done while the service runs: SQLite copies what is committed at one moment. `target` appears
    whole or not at all. Raises `ConfigError` when it exists, unless `force`, and `StoreError` when there is nothing
    sound to back up.
    """
    if target.exists() and not force:
        raise ConfigError(f"{target}: there is a file already; --force replaces it")
    count = _count(data_dir / FILE_NAME)
    _copy(data_dir / FILE_NAME, target)
    return count


def restore_backup(source: Path, data_dir: Path, *, force: bool = False) -> int:
    """Put a backup in the place of the folder's database. Returns how many cameras it holds.

    Blocking. Everything is checked first; the old database stays in place until the new one is whole and on disk.
    Raises `ConfigError` when the folder has a database, unless `force`; `StoreError` when a service uses the folder
    or the backup cannot be read.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: there is no such backup")
    count = _count(source)
    prepare_folder(data_dir)
    lock = DataDirLock(data_dir)
    lock.acquire()
    try:
        database = data_dir / FILE_NAME
        if database.exists() and not force:
            raise ConfigError(f"data_dir: {data_dir} has a camera database already; --force replaces it")
        _drop_journal(database)
        _copy(source, database)
    finally:
        lock.release()
    return count


def _count(path: Path) -> int:
    """How many cameras there are; every one of them was read."""
    if path.is_file() and path.stat().st_size == 0:
        raise StoreError(f"{path}: the file is empty and no camera database")
    with closing(copy_file_in_memory(path)) as database:
        return len(database.all())


def _copy(source: Path, target: Path) -> None:
    """Make `target` a copy of a database, at once and for good."""
    with _partial(target) as partial:
        with closing(sqlite3.connect(partial, isolation_level=None)) as db:
            copy_to(source, db)
            db.execute("PRAGMA journal_mode = DELETE")  # one file that needs no other beside it
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    folder = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A private, empty file beside the target, gone afterwards whatever happens. Errors become sentences."""
    partial = target.absolute().with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR))
        try:
            yield partial
        finally:
            for end in ("", "-journal", *_BESIDE):
                partial.with_name(partial.name + end).unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigError(f"{target}: the file cannot be written: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        raise ConfigError(f"{target}: the file cannot be written: {exc}") from exc


def _drop_journal(database: Path) -> None:
    """Leave no journal beside the database: SQLite would replay it into whichever database comes next.

    What lies in it goes into the old database first, which is whole until the moment when it is replaced.
    """
    if database.exists():
        try:
            with closing(sqlite3.connect(database, timeout=2.0, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as exc:
            if "locked" in str(exc):
                raise StoreError(f"{database}: the camera database is being read; try again shortly") from None
            # Else it is broken, which is what a restore is for.
    for end in _BESIDE:
        database.with_name(database.name + end).unlink(missing_ok=True)
