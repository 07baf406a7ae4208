"""How far a long piece of work is: one sentence for readers, a quiet log, and a way to give the work up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from app.errors import Cancelled

LOG_EVERY_S = 1.0


class Progress:
    """Takes the sentences of a piece of work, as often as it likes to tell them. Any thread.

    The newest one is shown at once; the log gets one a second at most, and always the last. Once cancelled, the next
    sentence raises `Cancelled` where the work is done, which is how the work learns of it.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()  # only threads that work take it, never a reader
        self._newest: str | None = None
        self._logged: str | None = None
        self._log_at = clock()
        self._cancelled = False

    @property
    def newest(self) -> str | None:
        """What is being done, or None when nothing is."""
        return self._newest

    def __call__(self, sentence: str) -> None:
        if self._cancelled:
            raise Cancelled(f"the work was given up; it was at: {sentence}")
        with self._lock:
            self._newest = sentence
            if sentence != self._logged and self._clock() >= self._log_at:
                self._log()

    def cancel(self) -> None:
        """Have the next sentence raise `Cancelled`. Returns at once."""
        self._cancelled = True

    def finish(self) -> None:
        """The work is over, one way or the other: log the last sentence if it is not yet, and show none. Idempotent."""
        if self._newest != self._logged:
            self._log()
        self._newest = None
        self._logged = None

    def _log(self) -> None:
        self._logger.info("%s", self._newest)
        self._logged, self._log_at = self._newest, self._clock() + LOG_EVERY_S
