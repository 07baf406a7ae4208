"""What the commands' parsers share, and the settings that a command line gives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.settings import FILE_ONLY, Settings, leaves, load_settings

SHORT = {"server.host": "--host", "server.port": "--port", "model": "--model", "data_dir": "--data-dir"}


def settings_from(arguments: argparse.Namespace, **defaults: Any) -> Settings:
    """The settings that a command line gives; `defaults` are nested values that it may override."""
    overrides: dict[str, Any] = {}
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    for key, value in {**defaults, **given}.items():
        if not key.startswith("set:"):
            continue
        *path, leaf = key.removeprefix("set:").split(".")
        section = overrides
        for part in path:
            section = section.setdefault(part, {})
        section[leaf] = value
    return load_settings(overrides=overrides, config=arguments.config)


def command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def with_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (default: vidette.yml where it exists)")
    group = parser.add_argument_group("settings", "each also in the file and as VIDETTE_ variable")
    for key, field in leaves(Settings):
        if key in FILE_ONLY:
            continue
        names = [f"--{key}", *([SHORT[key]] if key in SHORT and SHORT[key] != f"--{key}" else [])]
        default = "none" if field.default is None else field.default
        description = f"{field.description} (default: {default})".replace("%", "%%")
        group.add_argument(*names, dest=f"set:{key}", metavar="VALUE", help=description)


def with_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (default: vidette.yml where it exists)")
    parser.add_argument("--data-dir", dest="set:data_dir", metavar="DIR", help="default: data_dir")


def models_dir(arguments: argparse.Namespace) -> Path:
    return arguments.models_dir or load_settings().models_dir
