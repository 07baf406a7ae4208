"""File descriptor 2, kept free of secrets: native libraries write there, past every logger of ours.

What they write goes through a pipe and is redacted line by line. Our own log is redacted already and goes straight to
the real descriptor, as do faulthandler's stacks, which hold no values: both are complete however the process ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO, cast

STDERR = 2
_PATIENCE_S = 0.2  # with the rest of a line
_LONGEST_LINE = 64 * 1024
_LAST_WORDS_S = 1.0
_TAKE_S = 0.2  # for whoever reads our stderr to take something; who took nothing before gets no time at all
_CHUNK = 4096  # a pipe that can be written to takes so much without a wait (PIPE_BUF)
logger = logging.getLogger("vidette.service")


class PatientStream(io.TextIOBase):
    """Text into a descriptor that somebody may have stopped to read. Any thread; a write waits for `_TAKE_S` at most.

    What is not taken is left out and counted: a log that nobody reads must stop neither the event loop nor its end.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._stuck = False
        self._left_out = 0

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        with self._lock:
            if self._left_out and self._takes(0):
                told, self._left_out = self._left_out, 0
                self._put(f"nobody read this log: {told} writes were left out\n".encode())
            if not self._put(data):
                self._left_out += 1

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)

    def _put(self, data: bytes) -> bool:
        while data:
            if not self._takes(0 if self._stuck else _TAKE_S):
                self._stuck = True
                return False
            self._stuck = False
            data = data[os.write(self._descriptor, data[:_CHUNK]) :]
        return True

    def _takes(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))  # an error counts: the write tells of it


class StderrPipe:
    """In front of fd 2 from when it is made until it is closed. `real` writes past it; any thread may."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._real = os.dup(STDERR)
        self.real = PatientStream(os.dup(self._real))
        self._pipe, write = os.pipe()
        sys.stderr.flush()
        os.dup2(write, STDERR)
        os.close(write)
        self._thread = threading.Thread(target=self._copy, name="stderr", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give fd 2 back, when what was written to it has arrived. Idempotent."""
        sys.stderr.flush()
        os.dup2(self._real, STDERR)  # the pipe's last writer, unless a child has it: then its reader is left behind
        self._thread.join(_LAST_WORDS_S)
        self.real.close()

    def _copy(self) -> None:
        held = b""
        while True:
            # A line that was not ended, such as a prompt, is shown after a while all the same.
            if held and not select.select([self._pipe], [], [], _PATIENCE_S)[0]:
                self._show(held)
                held = b""
            data = os.read(self._pipe, _LONGEST_LINE)
            lines, newline, held = (held + data).rpartition(b"\n")
            self._show(lines + newline)
            if not data or len(held) > _LONGEST_LINE:
                self._show(held)
                held = b""
            if not data:
                os.close(self._pipe)
                return

    def _show(self, data: bytes) -> None:
        left = self._redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        # Whoever read our stderr may be gone; those who write to it must not be stopped by that.
        with contextlib.suppress(OSError, ValueError):
            self.real.write_bytes(left)


@contextmanager
def guarded_stderr(redact: Callable[[str], str]) -> Iterator[TextIO]:
    """Guard fd 2 while the context lasts; yields the stream that our log writes to.

    Crashes of Python and of native code still leave their stacks: the first are logged from now on, the second are
    faulthandler's. Where `sys.stderr` is not fd 2, somebody else catches what we say, and nothing is changed.
    """
    if not _writes_to_fd_2(sys.stderr):
        yield sys.stderr
        return
    enabled = faulthandler.is_enabled()
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    pipe = StderrPipe(redact)
    faulthandler.enable(file=pipe.real.fileno(), all_threads=True)
    try:
        yield cast("TextIO", pipe.real)
    finally:
        faulthandler.disable()
        if enabled:
            faulthandler.enable(file=STDERR)
        pipe.close()


def _writes_to_fd_2(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == STDERR
    except (OSError, ValueError):  # no file at all, or a closed one
        return False


def _log_crash(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    logger.critical("an unexpected error ended the process", exc_info=(kind, exc, trace))


def _log_thread_crash(arguments: threading.ExceptHookArgs) -> None:
    name = "a thread" if arguments.thread is None else f"the thread {arguments.thread.name}"
    if arguments.exc_value is not None:
        logger.error(
            "%s ended with an unexpected error",
            name,
            exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback),
        )
