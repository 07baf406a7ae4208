"""Makes the secrets of docker-compose.yml on the first start and prints them, once. Standard library only.

A file that is there is left alone, so own secrets may be put into the volumes beforehand. Every user inside a container
can read the files, since each image has its own: which containers mount the volume decides who may read them.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PASSWORD_BYTES = 18
TOKEN_BYTES = 32
READABLE = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One file, and what it is for in words of the one line that is printed."""

    path: str
    make: Callable[[], str]
    purpose: str


SECRETS = (
    Secret(
        path="api/admin_token",
        make=lambda: f"vdt_setup_{secrets.token_hex(TOKEN_BYTES)}",
        purpose="Vidette's token of the scope admin, for the console and the API",
    ),
    Secret(
        path="metrics/vidette_metrics__token",
        make=lambda: secrets.token_urlsafe(TOKEN_BYTES),
        purpose="bearer token of /metrics, for Prometheus",
    ),
    Secret(
        path="grafana/admin_password",
        make=lambda: secrets.token_urlsafe(PASSWORD_BYTES),
        purpose="Grafana's password of the user admin",
    ),
)


def make_secrets(root: Path) -> list[str]:
    """Write each secret that is not there below `root`; the lines to print, with the values, for those alone."""
    lines = []
    for secret in SECRETS:
        path = root / secret.path
        value = secret.make()
        if _write_new(path, value):
            lines.append(f"{secret.purpose}: {value}")
    return lines


def _write_new(path: Path, value: str) -> bool:
    """Write the file whole or not at all; False when it is there and not empty."""
    if path.exists() and path.stat().st_size:
        return False
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with part.open("x", encoding="ascii") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    part.chmod(READABLE)
    part.replace(path)
    return True


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("first_start: name the folder that holds the secrets' volumes", file=sys.stderr)
        return 2
    try:
        lines = make_secrets(Path(arguments[0]))
    except OSError as exc:
        print(f"first_start: the secrets cannot be written: {exc}", file=sys.stderr)
        return 1
    if lines:
        print(
            "first start: these are shown this once, and kept in the volumes secret-api, secret-metrics, secret-grafana"
        )
        print("\n".join(f"  {line}" for line in lines), flush=True)
    else:
        print("the secrets of the first start are kept", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
