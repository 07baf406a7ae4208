"""The simulator in a process of its own, so that its work is not counted as the service's."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

from app.simulator.auth import AuthScheme
from app.simulator.errors import SimulatorError

_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 30.0  # loading a clip is part of some answers
_STOP_TIMEOUT_S = 5.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """What the child is started with."""

    host: str = "127.0.0.1"
    port: int = 0
    auth: AuthScheme = "none"
    username: str = ""
    password: str = ""
    certificate: Path | None = None  # PEM; with `key` the server speaks RTSPS
    key: Path | None = None
    audio_first: bool = False
    sprop: bool = True
    seed: int = 0

    def arguments(self) -> list[str]:
        arguments = ["--control", "--host", self.host, "--port", str(self.port), "--seed", str(self.seed)]
        if self.auth != "none":
            # With `=`, a password may start with a dash.
            arguments += ["--auth", self.auth, f"--user={self.username}", f"--password={self.password}"]
        if self.certificate is not None and self.key is not None:
            arguments += ["--tls", str(self.certificate.resolve()), str(self.key.resolve())]
        return arguments + ["--audio-first"] * self.audio_first + ["--no-sprop"] * (not self.sprop)


class SimulatorProcess:
    """Runs `python -m app.simulator` while its context is open. Blocking, for one thread at a time.

        with SimulatorProcess([clip], cameras=4) as simulator:
            simulator.set_fault("cam0", "stall")
            watch(simulator.url("cam0"))

    The child ends when its standard input does, so it outlives neither the context nor this process.
    Everything raises `SimulatorError` when the child refuses, is silent for too long, or is gone.
    """

    def __init__(
        self, clips: Sequence[Path] = (), *, cameras: int | None = None, options: ProcessOptions | None = None
    ) -> None:
        self._options = options or ProcessOptions()
        self._command = [sys.executable, "-m", "app.simulator", *self._options.arguments()]
        self._command += ["--cameras", str(cameras)] if cameras is not None else []
        self._command += ["--", *(str(clip.resolve()) for clip in clips)]
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._unread = b""
        self._commands = 0
        self._urls: dict[str, str] = {}
        self.port = 0

    def __enter__(self) -> SimulatorProcess:
        self._errors = tempfile.TemporaryFile()  # a pipe that nobody reads could fill up
        self._child = subprocess.Popen(
            self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        try:
            ready = self._read_message(_START_TIMEOUT_S)
            self.port = int(ready["port"])
            self._urls = dict(ready["urls"])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def urls(self) -> Mapping[str, str]:
        """The URL of every camera, without credentials."""
        return dict(self._urls)

    def url(self, name: str, *, credentials: bool = False) -> str:
        """A camera's URL; with user name and password in it, percent-encoded, if asked."""
        if name not in self._urls:
            raise SimulatorError(f"there is no camera {name}; there are: {', '.join(self._urls) or 'none'}")
        url = self._urls[name]
        if not credentials or self._options.auth == "none":
            return url
        parts = urlsplit(url)
        user = f"{quote(self._options.username, safe='')}:{quote(self._options.password, safe='')}"
        return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))

    def add_camera(
        self, name: str, clip: Path, *, phase_s: float = 0.0, audio_first: bool = False, sprop: bool = True
    ) -> str:
        """Start a camera and return its URL. A clip's file is read once, however many cameras play it."""
        options = {"phase_s": phase_s, "audio_first": audio_first, "sprop": sprop}
        answer = self.command("add", camera=name, clip=str(clip.resolve()), **options)
        self._urls[name] = str(answer["url"])
        return self._urls[name]

    def remove_camera(self, name: str) -> None:
        """Drop a camera's clients and forget it."""
        self.command("remove", camera=name)
        del self._urls[name]

    def load_clip(self, clip: Path) -> str:
        """Load a clip that no camera plays yet; return the NAME for the fault `resolution=NAME`."""
        return str(self.command("load", clip=str(clip.resolve()))["clip"])

    def set_fault(self, name: str, fault: str) -> None:
        """Start a fault (`stall`, `drop=0.05`, ...) of one camera; `ok` ends it."""
        self.command("fault", camera=name, fault=fault)

    def stats(self) -> dict[str, dict[str, Any]]:
        """What each camera has done so far: the fields of `CameraStats`."""
        cameras: dict[str, dict[str, Any]] = self.command("stats")["cameras"]
        return cameras

    def command(self, command: str, *, timeout_s: float = _ANSWER_TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        """Send one command of `app.simulator.control` and return its answer."""
        child = self._running()
        self._commands += 1
        line = json.dumps({"id": self._commands, "command": command, **arguments}) + "\n"
        assert child.stdin is not None
        try:
            child.stdin.write(line.encode())
        except BrokenPipeError:
            raise SimulatorError(self._obituary()) from None
        answer = self._read_message(timeout_s)
        while answer.get("id") != self._commands:  # it came too late for the command that asked for it
            answer = self._read_message(timeout_s)
        if not answer["ok"]:
            raise SimulatorError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the child: by the end of its input, else by SIGTERM, else by SIGKILL. Idempotent."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            for last_resort in (child.terminate, child.kill):
                try:
                    child.wait(_STOP_TIMEOUT_S)
                    break
                except subprocess.TimeoutExpired:
                    last_resort()
            child.wait()
            child.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise SimulatorError("the simulator process is not running")
        return self._child

    def _read_message(self, timeout_s: float) -> dict[str, Any]:
        """Read one line of JSON from the child, or fail at the deadline."""
        stdout = self._running().stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise SimulatorError(f"the simulator process did not answer within {timeout_s:g} s")
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    raise SimulatorError(self._obituary())
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _obituary(self) -> str:
        """Say why the child ended: its own last words, where it left any."""
        try:
            code = self._running().wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "the simulator process has closed its output, but has not ended"
        assert self._errors is not None
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        return words or f"the simulator process ended with code {code}"
