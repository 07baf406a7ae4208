"""Which camera is being opened on NVDEC right now, written down so that the next process knows whom to blame.

A CUDA driver error inside NVIDIA's decoder library ends the process. So the camera's id is on disk, fsynced, from
before its decoder is made until its first picture has come out, and one decoder is made at a time. What a new process
finds there died: that camera is opened last and in software, for a day or until its URL or codec changes, and then it
is tried once more. If the process dies a second time, it stays in software until the file's entry is removed by hand.

The file holds ids, codecs, counts and times; never a URL. A file that cannot be read or written is a warning.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

FILE_NAME = "nvdec-openings.json"
EXPIRES_AFTER_S = 24 * 3600.0
# A suspect is opened when the others have been quiet for so long, but waits no longer than the second.
QUIET_S = 2.0
LONGEST_WAIT_S = 30.0
_MOST_DEATHS = 2

_log = logging.getLogger("vidette.cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    codec: str
    opening: bool  # its decoder is being made, or was when the process died
    deaths: int
    since_utc: float  # of the opening, or of the last death's discovery


class Opening:
    """One camera's way from no decoder to its first picture. Belongs to one thread."""

    def __init__(self, guard: OpeningGuard, camera_id: str) -> None:
        self._guard = guard
        self._camera_id = camera_id
        self._made = self._done = False

    def made(self) -> None:
        """The decoder exists and took its first packet: the next camera may be opened. Idempotent."""
        if not self._made:
            self._made = True
            self._guard.unlock()

    def done(self) -> None:
        """A picture came out, or the opening failed without harm: take the camera's mark away. Idempotent."""
        if not self._done:
            self._done = True
            self._guard.unmark(self._camera_id)
        self.made()


class Turn(Protocol):
    """Whose turn it is to open: a lock."""

    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> None: ...


class OpeningGuard:
    """Remembers openings across the death of the process. Any thread."""

    def __init__(
        self,
        path: Path,
        *,
        utc: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = 10.0,
        turn: Turn | None = None,
    ) -> None:
        """Read the file at `path`, which need not exist. Blocking. `open` waits `patience_s` for any one opening.

        `turn` is a lock, or what a test puts in its place.
        """
        self._path = path
        self._patience_s = patience_s
        self._utc = utc
        self._clock = clock
        self._turn: Turn = turn or threading.Lock()  # one at a time
        self._turns = 0  # that are over; belongs to whoever's turn it is
        self._lock = threading.Lock()  # of what follows, and of the file
        self._urls: dict[str, str] = {}  # of suspects, as this process saw them first
        self._opened_at = clock()
        self._entries = self._blame(self._read())
        if self._entries:
            self._write()

    def suspicion(self, camera_id: str, *, codec: str | None = None) -> str | None:
        """Why this camera must not be opened on NVDEC, None when it may. Without `codec`: whatever codec it has."""
        with self._lock:
            entry = self._entries.get(camera_id)
            if entry is None or not entry.deaths:
                return None
            if codec is not None and codec != entry.codec:
                self._forget(camera_id)
                return None
            if entry.deaths >= _MOST_DEATHS:
                return (
                    f"the process died {entry.deaths} times while opening it on NVDEC; "
                    f"remove {camera_id} from {self._path.name} to try again"
                )
            if self._utc() - entry.since_utc >= EXPIRES_AFTER_S:
                return None
            return "the process died while opening it on NVDEC"

    def connecting(self, camera_id: str, url: str) -> None:
        """Take note of the URL that a camera is opened with: a suspect with a new one is a suspect no more."""
        with self._lock:
            if camera_id in self._entries and self._urls.setdefault(camera_id, url) != url:
                self._forget(camera_id)

    def wait_turn(self, wait: Callable[[float], bool]) -> bool:
        """Let the other cameras go first. `wait` sleeps and says whether it was interrupted; False when it was."""
        deadline = self._clock() + LONGEST_WAIT_S
        while (left_s := min(self._opened_at + QUIET_S, deadline) - self._clock()) > 0:
            if wait(left_s):
                return False
        return True

    def open(self, camera_id: str, *, codec: str) -> Opening | None:
        """Mark a camera, once no other one is being opened; None when one of them takes too long. Blocking."""
        before = self._turns
        while not self._turn.acquire(timeout=self._patience_s):
            if self._turns == before:
                return None
            before = self._turns  # many cameras that start together take longer than any one of them
        with self._lock:
            self._opened_at = self._clock()
            known = self._entries.get(camera_id)
            deaths = 0 if known is None else known.deaths
            self._entries[camera_id] = _Entry(codec=codec, opening=True, deaths=deaths, since_utc=self._utc())
            self._write()
        return Opening(self, camera_id)

    def unmark(self, camera_id: str) -> None:
        """For `Opening`: this camera did no harm."""
        with self._lock:
            self._opened_at = self._clock()
            self._forget(camera_id)

    def unlock(self) -> None:
        """For `Opening`: the next camera may be opened."""
        self._turns += 1
        self._turn.release()

    def _forget(self, camera_id: str) -> None:
        if self._entries.pop(camera_id, None) is not None:
            self._urls.pop(camera_id, None)
            self._write()

    def _blame(self, found: Mapping[str, _Entry]) -> dict[str, _Entry]:
        entries = {}
        for camera_id, entry in found.items():
            if entry.opening:
                entry = replace(entry, opening=False, deaths=entry.deaths + 1, since_utc=self._utc())
                _log.warning("the process died while opening camera %s on NVDEC", camera_id)
            if entry.deaths:
                entries[camera_id] = entry
        return entries

    def _read(self) -> dict[str, _Entry]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as exc:
            _log.warning("%s cannot be read, no camera is known to be harmful: %s", self._path, exc)
            return {}
        try:
            return {str(camera_id): _entry(fields) for camera_id, fields in json.loads(text)["cameras"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            _log.warning("%s is damaged, no camera is known to be harmful: %r", self._path, exc)
            return {}

    def _write(self) -> None:
        cameras = {camera_id: asdict(entry) for camera_id, entry in self._entries.items()}
        text = json.dumps({"version": 1, "cameras": cameras}, indent=1)
        try:
            _replace_file(self._path, text)
        except OSError as exc:
            _log.warning("%s cannot be written, so a death of the process will not be remembered: %s", self._path, exc)


def _entry(fields: Mapping[str, object]) -> _Entry:
    opening, deaths, since_utc = fields["opening"], fields["deaths"], fields["since_utc"]
    if not isinstance(opening, bool) or not isinstance(deaths, int) or not isinstance(since_utc, (int, float)):
        raise ValueError(f"not an entry: {fields!r}")
    return _Entry(codec=str(fields["codec"]), opening=opening, deaths=max(0, deaths), since_utc=float(since_utc))


def _replace_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    with open(written, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
