"""`vidette token`: make, show and revoke tokens. The service may run meanwhile; it notices within a second."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

from app.auth.database import TokenDatabase
from app.auth.known import LOOK_EVERY_S
from app.auth.tokens import Token, new_token, split
from app.cameras.database import FILE_NAME
from app.cameras.lock import in_use
from app.cameras.settings import ID_PATTERN
from app.commands.columns import in_columns
from app.errors import ConfigError, TokenNotFound
from app.results.wire import utc_text
from app.settings import Settings

_LONGEST_NAME = 128
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 100 * 366 * 86400
_LOOK_S = 0.2  # that a service's look at the database may take


def create_token(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print a new token to stdout, and what it may to stderr. 0; raises `ConfigError` (2)."""
    now_utc = time.time()
    cameras = arguments.camera or []
    for camera_id in cameras:
        if not re.fullmatch(ID_PATTERN, camera_id):
            raise ConfigError(f"--camera: {camera_id!r} cannot be a camera's id, which is like gate-1")
    if arguments.name is not None and not (0 < len(arguments.name) <= _LONGEST_NAME and arguments.name.isprintable()):
        raise ConfigError(f"--name: must have 1 to {_LONGEST_NAME} characters that can be printed")
    expires_utc = None if arguments.expires is None else expiry(arguments.expires, now_utc=now_utc)
    token, text = new_token(
        arguments.scope, now_utc=now_utc, cameras=cameras, name=arguments.name, expires_utc=expires_utc
    )
    with closing(TokenDatabase(settings.data_dir, key_file=settings.secrets.key_file)) as database:
        database.add(token)
    if arguments.json:
        print(json.dumps({**_as_json(token, now_utc), "token": text}, indent=2))
        return 0
    print(text)
    seen = "all cameras" if token.cameras is None else ", ".join(sorted(token.cameras))
    until = "" if expires_utc is None else f", until {utc_text(expires_utc)}"
    print(f"token {token.id}: {token.scope}, {seen}{until}. Keep it: it is not shown again.", file=sys.stderr)
    if settings.auth.mode == "none":
        print("vidette: the service asks for tokens once auth.mode is token", file=sys.stderr)
    return 0


def list_tokens(settings: Settings, *, as_json: bool) -> int:
    """Print every token without its secret. 0; raises `ConfigError` (2)."""
    now_utc = time.time()
    tokens: list[Token] = []
    if (settings.data_dir / FILE_NAME).is_file():  # looking makes no folder
        with closing(TokenDatabase(settings.data_dir, key_file=settings.secrets.key_file)) as database:
            tokens = database.all()
    if as_json:
        print(json.dumps([_as_json(token, now_utc) for token in tokens], indent=2))
    elif tokens:
        print(in_columns([("id", "scope", "cameras", "name", "created", "expires", "state"), *map(_row, tokens)]))
    else:
        print("there is no token; `vidette token create` makes one", file=sys.stderr)
    return 0


def revoke_token(settings: Settings, token_id: str, *, as_json: bool) -> int:
    """End a token; a service that runs has noticed by then. 0; raises `TokenNotFound` (1), `ConfigError` (2)."""
    parts = split(token_id)
    token_id = token_id if parts is None else parts[0]  # somebody who has only the token itself
    now_utc = time.time()
    if not (settings.data_dir / FILE_NAME).is_file():
        raise TokenNotFound(token_id)
    with closing(TokenDatabase(settings.data_dir, key_file=settings.secrets.key_file)) as database:
        database.revoke(token_id, now_utc=now_utc)
    if in_use(settings.data_dir):
        time.sleep(LOOK_EVERY_S + _LOOK_S)
    sentence = f"token {token_id} is revoked; a service that runs refuses it"
    print(json.dumps({"id": token_id, "revoked": True}, indent=2) if as_json else sentence)
    return 0


def expiry(text: str, *, now_utc: float) -> float:
    """The Unix time that `--expires` means. Pure. Raises `ConfigError`."""
    lasting = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if lasting is not None:
        at = now_utc + int(lasting[1]) * _UNITS_S[lasting[2]]
    else:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise ConfigError(f"--expires: must be like 30m, 12h, 90d or 2027-01-31, not {text[:64]!r}") from None
        at = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    if not now_utc < at <= now_utc + _LONGEST_S:
        raise ConfigError(f"--expires: {text} is not in the next hundred years")
    return at


def _as_json(token: Token, now_utc: float) -> dict[str, Any]:
    return {
        "id": token.id,
        "scope": token.scope,
        "cameras": None if token.cameras is None else sorted(token.cameras),
        "name": token.name,
        "created_at": utc_text(token.created_utc),
        "expires_at": None if token.expires_utc is None else utc_text(token.expires_utc),
        "revoked_at": None if token.revoked_utc is None else utc_text(token.revoked_utc),
        "state": token.ended(now_utc) or "active",
    }


def _row(token: Token) -> tuple[str, ...]:
    return (
        token.id,
        token.scope,
        "all" if token.cameras is None else ",".join(sorted(token.cameras)),
        token.name or "",
        utc_text(token.created_utc),
        "never" if token.expires_utc is None else utc_text(token.expires_utc),
        token.ended(time.time()) or "active",
    )
