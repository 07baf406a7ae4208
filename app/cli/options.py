"""What the commands' parsers share, and the settings that a command line gives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from annotated_types import Ge, Le

from app.settings import FILE_ONLY, Settings, leaves, load_settings

SHORT = {
    "server.host": "--host",
    "server.port": "--port",
    "data_dir": "--data-dir",
    "models_dir": "--models-dir",
    "media_dir": "--media-dir",
}


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
        names = [f"--{key}", *([SHORT[key]] if key in SHORT else [])]
        default = "none" if field.default in (None, ()) else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        facts = "; ".join(filter(None, (allowed(field), f"default: {default}")))
        description = f"{field.description} ({facts})".replace("%", "%%")
        group.add_argument(*names, dest=f"set:{key}", metavar="VALUE", help=description)


def allowed(field: Any) -> str:
    """The values that a setting may have, in words; empty where anything of its type will do."""
    choices = [value for value in getattr(field.annotation, "__args__", ()) if isinstance(value, str)]
    if choices:
        return " | ".join(choices)
    low = next((m.ge for m in field.metadata if isinstance(m, Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    return "" if low is None or high is None else f"{low} to {high}"


def with_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (default: vidette.yml where it exists)")
    parser.add_argument("--data-dir", "--data_dir", dest="set:data_dir", metavar="DIR", help="default: data_dir")


def models_dir(arguments: argparse.Namespace) -> Path:
    return arguments.models_dir or load_settings().models_dir
