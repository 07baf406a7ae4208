"""`vidette backup` and `vidette restore`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from app.cameras.backup import restore_backup, write_backup
from app.cameras.database import copy_in_memory
from app.cameras.sealing import key_path
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
    else:
        count = write_backup(settings.data_dir, arguments.file, force=arguments.force)
        _tell(arguments, count, f"{arguments.file} holds {counted(count)}, with their passwords, encrypted")
    key = key_path(settings.data_dir, settings.secrets.key_file)
    print(f"vidette: the key of the passwords is not in the backup: keep {key} too, in another place", file=sys.stderr)
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
    _tell(arguments, count, f"{settings.data_dir} has {counted(count)} again")
    with closing(copy_in_memory(settings.data_dir, key_file=settings.secrets.key_file)) as database:
        unreadable = [camera.id for camera in database.all() if camera.unreadable]
    if unreadable:
        key = key_path(settings.data_dir, settings.secrets.key_file)
        names = names_of(unreadable)
        print(f"vidette: the passwords of {names} need the key that they were stored with, at {key}", file=sys.stderr)
    return 0


def names_of(camera_ids: Sequence[str]) -> str:
    """Some cameras in a sentence, whatever their number."""
    return ", ".join(camera_ids[:8]) + (", ..." if len(camera_ids) > 8 else "")


def counted(count: int) -> str:
    """Cameras in a sentence."""
    return "1 camera" if count == 1 else f"{count} cameras"


def _tell(arguments: argparse.Namespace, count: int, sentence: str) -> None:
    print(json.dumps({"file": str(arguments.file), "cameras": count}, indent=2) if arguments.json else sentence)
