"""`vidette export`: the registered cameras as YAML."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import closing
from pathlib import Path

from app.cameras.database import copy_in_memory
from app.cameras.exchange import as_yaml
from app.cameras.sealing import key_path
from app.commands.backup import names_of
from app.errors import ConfigError
from app.settings import Settings


def export_cameras(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write the cameras to `--out` or to stdout; a service may run meanwhile. 0; raises `ConfigError` (2).

    1 when secrets are wanted and some cannot be read; all else is written.
    """
    with closing(copy_in_memory(settings.data_dir, key_file=settings.secrets.key_file)) as database:
        cameras = database.all()
    text = as_yaml(cameras, with_secrets=arguments.with_secrets)
    if arguments.out is None:
        print(text, end="")
    else:
        _write(arguments.out, text)
    secretive = [camera.id for camera in cameras if camera.password_set]
    if secretive and not arguments.with_secrets:
        print(f"vidette: left out the password of {names_of(secretive)} (--with-secrets writes it)", file=sys.stderr)
    unreadable = [camera.id for camera in cameras if camera.unreadable]
    if not unreadable or not arguments.with_secrets:
        return 0
    key = key_path(settings.data_dir, settings.secrets.key_file)
    print(f"vidette: the secrets of {names_of(unreadable)} cannot be read with the key in {key}", file=sys.stderr)
    return 1


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, since even URLs without passwords are nobody's business."""
    partial = path.absolute().with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        file = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR)
        try:
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigError(f"--out: {path} cannot be written: {exc.strerror}") from None
