"""A process of ours that answers commands: one line of JSON each way."""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from app.errors import AppError

_ROOT = Path(__file__).resolve().parents[3]
_ANSWER_S = 60.0
_STOP_S = 15.0


class Child:
    """Runs `python -m MODULE JOB` while its context is open. Blocking, for one thread at a time.

    The child ends when its standard input does. Raises `AppError` when it is silent for too long, or is gone.
    """

    def __init__(self, module: str, job: dict[str, Any]) -> None:
        self._module = module
        self._command = [sys.executable, "-m", module, json.dumps(job)]
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> Child:
        self._process = subprocess.Popen(
            self._command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the child was not started"
        return self._process

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise AppError(f"{self._module} ended with code {self.process.wait(_STOP_S)}") from None
        return self.answer()

    def answer(self, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """The next line that the child says."""
        stdout, deadline = self.process.stdout, time.monotonic() + timeout_s
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AppError(f"{self._module} did not answer within {timeout_s:g} s")
                data = stdout.read(1 << 20)
                if not data:
                    raise AppError(f"{self._module} ended with code {self.process.wait(_STOP_S)}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


def say(answer: dict[str, Any]) -> None:
    """In the child: answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
