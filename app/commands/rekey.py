"""`vidette rekey`: a new key for the stored passwords."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing

from app.cameras.database import open_database
from app.cameras.sealing import KEY_BYTES, key_path, read_key_bytes, read_keys, write_key_file
from app.commands.backup import counted, names_of
from app.errors import ConfigError
from app.settings import Settings


def rekey(settings: Settings, arguments: argparse.Namespace) -> int:
    """Seal every password anew, while no service runs. 0; 1 when some cannot be read; raises `ConfigError` (2).

    The key of the data folder is replaced by a new one. A `secrets.key_file` stays as it is: its first key counts, so
    the new one is written above the old one beforehand, and the old one is deleted afterwards.
    """
    key_file = settings.secrets.key_file
    path = key_path(settings.data_dir, key_file)
    with closing(open_database(settings.data_dir, key_file=key_file)) as database:
        if key_file is None:
            old = read_key_bytes(path)
            new = os.urandom(KEY_BYTES)
            # Both are in the file until the last password is sealed anew, so a crash in between loses none.
            write_key_file(path, [new, *old])
        keys = read_keys(path)
        if not keys.ids:
            raise ConfigError(f"{path}: there is no such key file")
        count = len(database.all())
        unreadable = database.reseal(keys)
        if key_file is None and not unreadable:
            write_key_file(path, [new])
    _tell(arguments, count, keys.ids[0], unreadable)
    return 1 if unreadable else 0


def _tell(arguments: argparse.Namespace, count: int, key: str, unreadable: list[str]) -> None:
    if arguments.json:
        print(json.dumps({"cameras": count, "key": key, "unreadable": unreadable}, indent=2))
    else:
        print(f"the passwords of {counted(count)} are encrypted with key {key}; backups before this need the old key")
    if unreadable:
        print(f"vidette: left {names_of(unreadable)} as they are: no key here reads them", file=sys.stderr)
