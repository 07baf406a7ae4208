"""A camera database whose file was removed while it is open: whole in open files, and lost with the process."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from app.cameras.database import FILE_NAME, CameraDatabase, open_database, refusing
from app.errors import StoreError

logger = logging.getLogger("vidette.cameras")


def put_back(lost: CameraDatabase, data_dir: Path, *, key_file: Path | None) -> CameraDatabase:
    """Write the open database to where its file was, close it, and open it there. Blocking.

    Raises `StoreError`, and leaves `lost` open, while the folder is not there or another file has taken the place. What
    was sealed with a key that is gone too is sealed with the new one.
    """
    path = data_dir / FILE_NAME
    if not data_dir.is_dir():
        raise StoreError(f"data_dir: {data_dir} is gone; once it is there again, cameras can be changed")
    if path.exists():
        raise StoreError(f"{path}: another file has taken the camera database's place; restart Vidette to use that one")
    cameras, partial = lost.all(), data_dir / f".{FILE_NAME}.{os.getpid()}.partial"
    try:
        with refusing(path):
            os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
            with closing(sqlite3.connect(partial)) as copy:
                lost.copy_to(copy)
        lost.close()
        for leftover in (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
            (data_dir / leftover).unlink(missing_ok=True)  # of the file that is gone; SQLite would play it back
        os.replace(partial, path)
    except OSError as exc:
        raise StoreError(f"{path}: the camera database cannot be put back: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)
    found = open_database(data_dir, key_file=key_file)
    if found.key_ids != lost.key_ids:
        found.apply(put=cameras)
    logger.warning("%s was removed while Vidette works; it has been written anew, with %d cameras", path, len(cameras))
    return found
