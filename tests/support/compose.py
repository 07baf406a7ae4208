"""A compose file as docker compose reads it: variables filled in, merges done, profiles chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::-(?P<default>[^}]*))?\}")


def variables(text: str) -> dict[str, set[str]]:
    """Every variable that a compose file takes from the environment, with its defaults."""
    found: dict[str, set[str]] = {}
    for match in _VARIABLE.finditer(text):
        found.setdefault(match["name"], set()).add(match["default"] or "")
    return found


def read_compose(path: Path, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file as nested mappings, with `environ` filled in where it is not empty."""
    given = environ or {}
    text = _VARIABLE.sub(lambda match: given.get(match["name"]) or match["default"] or "", path.read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def read_env(path: Path) -> dict[str, str]:
    """The variables of an env file."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))


def started(document: Mapping[str, Any], profiles: Iterable[str]) -> set[str]:
    """The services that `docker compose up` starts under these profiles."""
    chosen = set(profiles)
    services: Mapping[str, Any] = document["services"]
    return {
        name for name, service in services.items() if not service.get("profiles") or chosen & set(service["profiles"])
    }
