"""Tokens on disk, in the camera database. Blocking; one thread at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.auth.tokens import SCOPES, Token
from app.cameras.database import FILE_NAME, file_identity, open_shared, refusing, transaction
from app.errors import StoreError, TokenNotFound

_COLUMNS = "id, secret_sha256, scope, cameras, name, created_utc, expires_utc, revoked_utc"


class TokenDatabase:
    """The tokens of a data folder. A service may use the folder meanwhile, and notices what is changed here."""

    def __init__(self, data_dir: Path, *, key_file: Path | None = None) -> None:
        """`key_file` is `secrets.key_file`, for a folder that is used for the first time.

        Raises `StoreError`, also for a folder in which an older Vidette is at work.
        """
        self._path = data_dir / FILE_NAME
        self._db = open_shared(data_dir, key_file=key_file)
        self._file = file_identity(self._path)

    def all(self) -> list[Token]:
        """Every token, oldest first, revoked and expired ones too. Raises `StoreError` for a row that is none."""
        with refusing(self._path):
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY created_utc, id").fetchall()
        return [self._token(row) for row in rows]

    def add(self, token: Token) -> None:
        """On disk when this returns."""
        cameras = None if token.cameras is None else json.dumps(sorted(token.cameras))
        row = (
            token.id,
            token.secret_sha256,
            token.scope,
            cameras,
            token.name,
            token.created_utc,
            token.expires_utc,
            token.revoked_utc,
        )
        with refusing(self._path), transaction(self._db):
            self._db.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def revoke(self, token_id: str, *, now_utc: float) -> None:
        """End a token for good; on disk when this returns. Idempotent. Raises `TokenNotFound`."""
        statement = "UPDATE tokens SET revoked_utc = coalesce(revoked_utc, ?) WHERE id = ?"
        with refusing(self._path), transaction(self._db):
            if not self._db.execute(statement, (now_utc, token_id)).rowcount:
                raise TokenNotFound(token_id)

    @property
    def replaced(self) -> bool:
        """Whether another file is at the path now, such as one that was put back."""
        return file_identity(self._path) not in (self._file, None)

    def version(self) -> int:
        """A number that differs from the last one after any other connection has written to the database."""
        with refusing(self._path):
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def _token(self, row: tuple[Any, ...]) -> Token:
        token_id, secret_sha256, scope, cameras, name, created_utc, expires_utc, revoked_utc = row
        try:
            allowed = None if cameras is None else frozenset(json.loads(cameras))
        except (ValueError, TypeError):
            raise StoreError(f"{self._path}: the cameras of the token {token_id!r} cannot be read") from None
        if scope not in SCOPES:
            raise StoreError(f"{self._path}: the scope of the token {token_id!r} is none that there is: {scope!r}")
        return Token(
            id=token_id,
            secret_sha256=secret_sha256,
            scope=scope,
            cameras=allowed,
            name=name,
            created_utc=created_utc,
            expires_utc=expires_utc,
            revoked_utc=revoked_utc,
        )
