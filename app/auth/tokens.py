"""Bearer tokens: their text, what is kept of them, and how one is recognised. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Scope: TypeAlias = Literal["read", "operate", "admin"]
# Each includes those before it.
SCOPES: tuple[Scope, ...] = get_args(Scope)
ID_BYTES, SECRET_BYTES = 6, 32
_TEXT = re.compile(r"vdt_([a-z0-9]{1,32})_([0-9a-f]{64})")
_IN_TEXT = re.compile(r"(vdt_[a-z0-9]{1,32}_)[0-9A-Za-z%_-]{8,}")

Failure: TypeAlias = Literal["missing", "malformed", "unknown", "expired", "revoked"]
FAILURES: tuple[Failure, ...] = get_args(Failure)
# Whoever shows a token that was good once, or none, does not guess; only these count towards the limit of failures.
GUESSES: frozenset[Failure] = frozenset({"malformed", "unknown"})
SENTENCES: Mapping[Failure, str] = {
    "missing": "a bearer token is needed: send the header Authorization: Bearer vdt_...",
    "malformed": "the bearer token is not one of Vidette's: those look like vdt_<id>_<secret>",
    "unknown": "the bearer token is wrong",
    "expired": "the bearer token has expired",
    "revoked": "the bearer token was revoked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is kept of a token: never its secret. Times are Unix seconds."""

    id: str
    secret_sha256: bytes
    scope: Scope
    cameras: frozenset[str] | None = None  # None: all; an id need not be registered
    name: str | None = None
    created_utc: float = 0.0
    expires_utc: float | None = None
    revoked_utc: float | None = None

    def ended(self, now_utc: float) -> Failure | None:
        """Why it is good no more; None while it is."""
        if self.revoked_utc is not None:
            return "revoked"
        return "expired" if self.expires_utc is not None and now_utc >= self.expires_utc else None


def new_token(
    scope: Scope,
    *,
    now_utc: float,
    cameras: Collection[str] = (),
    name: str | None = None,
    expires_utc: float | None = None,
) -> tuple[Token, str]:
    """A token and its text, which is known to nobody else and cannot be had again. No `cameras` means all."""
    token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    token = Token(
        id=token_id,
        secret_sha256=secret_sha256(secret),
        scope=scope,
        cameras=frozenset(cameras) or None,
        name=name,
        created_utc=now_utc,
        expires_utc=expires_utc,
    )
    return token, f"vdt_{token_id}_{secret}"


def secret_sha256(secret: str) -> bytes:
    """What is stored of a secret.

    A plain hash is enough: slow ones (bcrypt, Argon2) and salts make up for passwords that people choose, which can be
    guessed. Nobody tries 2^256 secrets, whatever a try costs, and a slow hash would be paid by every request.
    """
    return hashlib.sha256(secret.encode()).digest()


def split(text: str) -> tuple[str, str] | None:
    """The id and the secret of a token's text; None when it is not one."""
    found = _TEXT.fullmatch(text)
    return None if found is None else (found[1], found[2])


def recognise(text: str | None, known: Mapping[str, Token], *, now_utc: float) -> Token | Failure:
    """The token that a client shows, by its text, or why it is refused.

    That a token is over is told only to who knows its secret, which is compared in constant time.
    """
    if text is None:
        return "missing"
    parts = split(text)
    if parts is None:
        return "malformed"
    token = known.get(parts[0])
    if token is None or not hmac.compare_digest(token.secret_sha256, secret_sha256(parts[1])):
        return "unknown"
    return token.ended(now_utc) or token


def bearer(text: str | None) -> dict[str, str]:
    """The header by which a client shows a token."""
    return {} if text is None else {"Authorization": f"Bearer {text}"}


def without_secrets(text: str) -> str:
    """The text with the secret of every token in it replaced: `vdt_1a2b_***`."""
    return _IN_TEXT.sub(r"\1***", text) if "vdt_" in text else text
