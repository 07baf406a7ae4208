"""The token of `auth.admin_token_file`: for a deployment that is to be usable before anybody could make a token."""

from __future__ import annotations

from pathlib import Path

from app.auth.tokens import Token, secret_sha256, split
from app.errors import ConfigError

_LONGEST = 4096


def read_admin_token(path: Path) -> Token:
    """The token whose text is in the file, with the scope admin. Blocking. Raises `ConfigError`."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST).strip()
    except OSError as exc:
        raise ConfigError(f"auth.admin_token_file: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"auth.admin_token_file: {path} is not a text file") from None
    parts = split(text)
    if parts is None:
        raise ConfigError(
            f"auth.admin_token_file: {path} must hold one token, vdt_<id>_<64 hexadecimal digits>, "
            'such as "vdt_setup_$(openssl rand -hex 32)" makes'
        )
    return Token(id=parts[0], secret_sha256=secret_sha256(parts[1]), scope="admin", name="auth.admin_token_file")
