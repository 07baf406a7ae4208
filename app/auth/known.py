"""The tokens as the running service knows them: in memory, and at most a second behind the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from app.auth.database import TokenDatabase
from app.auth.tokens import Failure, Token, recognise
from app.errors import StoreError

logger = logging.getLogger("vidette.auth")
LOOK_EVERY_S = 0.5
# A token that nobody knows may have been made a moment ago. All who show one wait for one look, this often at most.
LOOK_AGAIN_S = 0.1


class KnownTokens:
    """Answers without a disk. One thread of its own watches the database for what `vidette token` does to it.

    Event loop only. `fixed` are tokens that are not in the database.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        key_file: Path | None = None,
        fixed: Sequence[Token] = (),
        clock_utc: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = data_dir
        self._key_file = key_file
        self._fixed = {token.id: token for token in fixed}
        self._clock_utc = clock_utc
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store:tokens")
        self._database: TokenDatabase | None = None
        self._version = -1
        self._tokens = dict(self._fixed)
        self._looked_at = time.monotonic()
        self._one_look = asyncio.Lock()
        self._sessions: dict[str, list[Callable[[], None]]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._failing = False

    def __len__(self) -> int:
        """How many there are that are still good."""
        now_utc = self._clock_utc()
        return sum(token.ended(now_utc) is None for token in self._tokens.values())

    async def open(self) -> None:
        """Read them, and watch from now on. Raises `StoreError`."""
        await self._in_thread(self._open)
        self._watching = asyncio.create_task(self._watch(), name="tokens")

    async def recognise(self, text: str | None) -> Token | Failure:
        """The token that a client shows, or why it is refused."""
        found = recognise(text, self._tokens, now_utc=self._clock_utc())
        if found == "unknown":
            await self._look_once_more()
            found = recognise(text, self._tokens, now_utc=self._clock_utc())
        return found

    @contextmanager
    def session(self, token: Token | None, on_end: Callable[[], None]) -> Iterator[None]:
        """Within it `on_end` is called once the token is good no more; for connections that outlive their check."""
        if token is None:
            yield
            return
        sessions = self._sessions.setdefault(token.id, [])
        sessions.append(on_end)
        try:
            yield
        finally:
            sessions.remove(on_end)
            if not sessions and self._sessions.get(token.id) is sessions:
                del self._sessions[token.id]

    async def close(self) -> None:
        """Stop watching and end the thread. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if self._database is not None:
            await self._in_thread(self._database.close)
            self._database = None
        self._thread.shutdown(wait=False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            async with self._one_look:
                await self._look()
            now_utc = self._clock_utc()
            for token_id, sessions in list(self._sessions.items()):
                token = self._tokens.get(token_id)
                if token is None or token.ended(now_utc) is not None:
                    for on_end in list(sessions):
                        on_end()

    async def _look_once_more(self) -> None:
        asked_at = time.monotonic()
        async with self._one_look:
            if self._looked_at >= asked_at:  # somebody before us in the queue did
                return
            await asyncio.sleep(self._looked_at + LOOK_AGAIN_S - time.monotonic())
            await self._look()

    async def _look(self) -> None:
        """Read the tokens anew when the database has changed. While that fails, those that are known stay."""
        self._looked_at = time.monotonic()
        try:
            await self._in_thread(self._read)
            self._failing = False
        except (StoreError, OSError) as exc:  # the latter of a folder that cannot even be looked at
            if not self._failing:
                logger.error("new and revoked tokens go unnoticed: %s", exc)
            self._failing = True

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        self._database = TokenDatabase(self._data_dir, key_file=self._key_file)
        self._read()

    def _read(self) -> None:
        database = self._database
        if database is None:
            return
        if database.replaced:
            database.close()
            database = self._database = TokenDatabase(self._data_dir, key_file=self._key_file)
            self._version = -1
        version = database.version()  # before the rows: what changes in between is read the next time
        if version != self._version:
            self._tokens = {**{token.id: token for token in database.all()}, **self._fixed}
            self._version = version
