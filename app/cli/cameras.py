"""Parsers of the commands that carry the registered cameras in and out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.options import command, settings_from, with_data_dir


def add_export(commands: Any) -> None:
    parser = command(commands, "export", "write the registered cameras as YAML", "vidette export --out cameras.yml")
    with_data_dir(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there (default: to stdout)")
    parser.add_argument("--with-secrets", action="store_true", help="write passwords too")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.export_cameras import export_cameras

        return export_cameras(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def add_import(commands: Any) -> None:
    example = "vidette import cameras.yml --url http://127.0.0.1:8080"
    parser = command(commands, "import", "register and change cameras as a YAML file says", example)
    with_data_dir(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="as `vidette export` writes it; - is stdin")
    parser.add_argument("--url", metavar="URL", help="the service to import into (default: none runs, into data_dir)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with --url: file that holds a token for it")
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="with --url: whose certificate to trust, or that itself (PEM)"
    )
    parser.add_argument("--force", action="store_true", help="with --url: even when the machine has no room for them")
    parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.import_cameras import import_cameras

        return import_cameras(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def add_backup(commands: Any) -> None:
    parser = command(commands, "backup", "copy the camera database, also while it is used", "vidette backup cameras.db")
    with_backup_file(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.backup import backup

        return backup(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def add_restore(commands: Any) -> None:
    parser = command(commands, "restore", "put a backup in place, while no service runs", "vidette restore cameras.db")
    with_backup_file(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.backup import restore

        return restore(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def add_rekey(commands: Any) -> None:
    parser = command(commands, "rekey", "encrypt the stored passwords with a new key", "vidette rekey")
    with_data_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.rekey import rekey

        return rekey(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def with_backup_file(parser: argparse.ArgumentParser) -> None:
    with_data_dir(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup, a SQLite file; - is stdout or stdin")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")
