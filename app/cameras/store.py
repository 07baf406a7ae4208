"""Registered cameras on disk, for the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from app.cameras.database import CameraDatabase, open_database
from app.cameras.recovery import put_back
from app.cameras.settings import CameraSettings
from app.errors import StoreError

T = TypeVar("T")


class CameraStore:
    """Every camera's settings. One thread of its own does all I/O, so the event loop never waits for a disk.

    A database that is corrupt, from a newer version, or not ours is refused with a sentence and left as it is.
    """

    def __init__(self, data_dir: Path, *, key_file: Path | None = None) -> None:
        self._data_dir = data_dir
        self._key_file = key_file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._database: CameraDatabase | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises `StoreError`, also when another process uses the folder."""
        await self._run(self._open)

    async def all(self) -> list[CameraSettings]:
        """Every stored camera, in the order of registration. Raises `StoreError` for a row that is not a camera."""
        return await self._run(lambda: self._opened.all())

    async def put(self, camera: CameraSettings) -> None:
        """Insert or replace a camera; on disk when this returns."""
        await self._run(lambda: self._in_place().apply(put=[camera]))

    async def delete(self, camera_id: str) -> None:
        await self._run(lambda: self._in_place().apply(delete=[camera_id]))

    async def apply(self, *, put: Sequence[CameraSettings], delete: Sequence[str]) -> None:
        """Insert, replace and delete cameras, all or none; on disk when this returns."""
        await self._run(lambda: self._in_place().apply(put=put, delete=delete))

    async def keep(self) -> None:
        """Put the database back when somebody has removed its file. Raises `StoreError` while it cannot be."""
        await self._run(self._in_place)

    async def close(self) -> None:
        """Close the database and end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (OSError, sqlite3.Error) as exc:  # a folder that is looked at may be what fails: a network disk's, say
            reason = getattr(exc, "strerror", None) or str(exc)
            raise StoreError(f"data_dir: {self._data_dir} cannot be used: {reason}") from exc

    @property
    def _opened(self) -> CameraDatabase:
        assert self._database is not None, "the store is not open"
        return self._database

    def _in_place(self) -> CameraDatabase:
        """The open database, at its path: a change that is written to a file without a name would be lost."""
        if self._database is None:  # it was closed to be put back, and could not be opened
            self._open()
        elif not self._database.in_place:
            lost, self._database = self._database, None
            try:
                self._database = put_back(lost, self._data_dir, key_file=self._key_file)
            finally:
                if self._database is None and not lost.closed:
                    self._database = lost
        return self._opened

    def _open(self) -> None:
        self._database = open_database(self._data_dir, key_file=self._key_file)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
