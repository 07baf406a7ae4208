"""The command line: parses, dispatches, turns errors into sentences and exit codes (0 ok, 1 failed, 2 bad usage)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from app import __version__
from app.cameras.urls import redact
from app.cli import cameras, measuring, models, service, tokens
from app.errors import AppError, ConfigError
from app.title import name_process, shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors end the process with 2, as argparse does."""
    if argv is None:
        name_process("vidette", sys.argv[1:])
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(shown(unknown))}")
    try:
        return int(arguments.run(arguments))
    except ConfigError as exc:
        print(f"vidette: {exc}", file=sys.stderr)
        return 2
    except AppError as exc:
        print(f"vidette: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


class _Parser(argparse.ArgumentParser):
    """Its complaints repeat what was typed, and end up in the log of a container: a URL may hold a password."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vidette",
        description="Multi-camera RTSP inference: cameras in over REST, detections out over REST and WebSocket.",
        epilog="example: vidette serve --model vidette-demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vidette {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    service.add_serve(commands)
    service.add_demo(commands)
    service.add_doctor(commands)
    models.add_model(commands)
    models.add_build(commands)
    models.add_build_engine(commands)
    measuring.add_bench(commands)
    measuring.add_profile(commands)
    measuring.add_compare(commands)
    cameras.add_export(commands)
    cameras.add_import(commands)
    cameras.add_backup(commands)
    cameras.add_restore(commands)
    cameras.add_rekey(commands)
    tokens.add_token(commands)
    return parser
