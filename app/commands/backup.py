"""`vidette backup` and `vidette restore`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from app.cameras.backup import restore_backup, write_backup
from app.errors import ConfigError
from app.settings import Settings

# As in other programs: a container's backup can so come and go without a file inside it.
STREAM = Path("-")


def backup(settings: Settings, arguments: argparse.Namespace) -> int:
    """Copy the camera database to a file, or to stdout. 0; raises `ConfigError` (2)."""
    if arguments.file == STREAM:
        if arguments.json:
            raise ConfigError("--json: stdout is where the backup goes")
        with tempfile.TemporaryDirectory(prefix="vidette-backup-") as folder:
            copy = Path(folder) / "cameras.db"
            write_backup(settings.data_dir, copy)
            with copy.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return 0
    count = write_backup(settings.data_dir, arguments.file, force=arguments.force)
    _tell(arguments, count, f"{arguments.file} holds {_cameras(count)}, with their passwords")
    return 0


def restore(settings: Settings, arguments: argparse.Namespace) -> int:
    """Put a backup, or stdin, in the place of the camera database. 0; raises `ConfigError` (2)."""
    if arguments.file == STREAM:
        with tempfile.TemporaryDirectory(prefix="vidette-restore-") as folder:
            copy = Path(folder) / "stdin"
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            count = restore_backup(copy, settings.data_dir, force=arguments.force)
    else:
        count = restore_backup(arguments.file, settings.data_dir, force=arguments.force)
    _tell(arguments, count, f"{settings.data_dir} has {_cameras(count)} again")
    return 0


def _cameras(count: int) -> str:
    return "1 camera" if count == 1 else f"{count} cameras"


def _tell(arguments: argparse.Namespace, count: int, sentence: str) -> None:
    print(json.dumps({"file": str(arguments.file), "cameras": count}, indent=2) if arguments.json else sentence)
