"""One process at a time in a data folder."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from pathlib import Path

from app.errors import FolderInUse, StoreError

logger = logging.getLogger("vidette.cameras")
LOCK_NAME = "vidette.lock"


class DataDirLock:
    """Held by whoever may change the folder: the running service, an import, a restore. Not thread-safe.

    The kernel lets go of it when the process ends, however it ends, so a lock is never stale. Readers need none.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise `FolderInUse` at once. The folder must exist and be writable."""
        path = self._data_dir / LOCK_NAME
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR)
        except OSError as exc:
            raise StoreError(f"{path}: the lock file cannot be opened: {exc.strerror}") from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise FolderInUse(self._data_dir) from None
        except OSError as exc:  # some network file systems have no locks; the user must then keep the rule himself
            logger.warning("%s cannot be locked (%s); never let two processes use it", path, exc.strerror)
        self._file = file

    def release(self) -> None:
        """Let the next one in. Idempotent. The file stays: removing it would race with whoever has just opened it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def in_use(data_dir: Path) -> bool:
    """Whether somebody holds the folder's lock now; False also where that cannot be seen."""
    try:
        file = os.open(data_dir / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
