"""Tokens, made as `vidette token` makes them, and an application that asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from app.auth.database import TokenDatabase
from app.auth.tokens import Scope, bearer, new_token
from tests.support.app import RunningApp, make_settings, running_app


class Tokens:
    """Tokens of a running application, made as `vidette token` makes them."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._made: dict[tuple[str, tuple[str, ...]], str] = {}

    def text(self, scope: Scope, *cameras: str) -> str:
        """One token for each scope and list of cameras; blocking only when it is new."""
        if (scope, cameras) not in self._made:
            self._made[scope, cameras] = self.make(scope, *cameras)[1]
        return self._made[scope, cameras]

    def make(self, scope: Scope, *cameras: str, **fields: Any) -> tuple[str, str]:
        """(id, text)"""
        token, text = new_token(scope, cameras=cameras, now_utc=time.time(), **fields)
        self._with(lambda database: database.add(token))
        return token.id, text

    def revoke(self, token_id: str) -> None:
        self._with(lambda database: database.revoke(token_id, now_utc=time.time()))

    def _with(self, work: Callable[[TokenDatabase], None]) -> None:
        with closing(TokenDatabase(self._data_dir)) as database:
            work(database)


class Guarded:
    """A running application that asks for tokens, with a camera of our own and a foreign one."""

    def __init__(self, running: RunningApp, tokens: Tokens) -> None:
        self.running = running
        self.tokens = tokens

    def forget_failures(self) -> None:
        """As if no wrong token had been shown yet."""
        self.running.service.failures._failed_at.clear()

    async def ask(self, text: str | None, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.running.http.request(method, path, headers=bearer(text), **options)

    async def close_of(self, query: str = "", **headers: str) -> tuple[int, str]:
        """The code and reason with which a WebSocket is closed."""
        async with self.running.socket(query, additional_headers=headers) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    await asyncio.wait_for(socket.recv(), 20)
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code, caught.value.rcvd.reason


@asynccontextmanager
async def guarded_app(data_dir: Path, **sections: Any) -> AsyncIterator[Guarded]:
    """An application that asks for tokens."""
    settings = await asyncio.to_thread(make_settings, data_dir, auth={"mode": "token"}, **sections)
    async with running_app(settings) as running:
        yield Guarded(running, Tokens(data_dir))
