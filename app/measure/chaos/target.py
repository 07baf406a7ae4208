"""The service under test: `vidette serve` as a user starts it, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from app.errors import AppError
from app.settings import ENV_PREFIX

_ROOT = Path(__file__).resolve().parents[3]
_START_S, _STOP_S, _ANSWER_S = 60.0, 15.0, 10.0
_POLL_S = 0.05
_WAITING_MESSAGES = 100_000  # far more than come between two looks
_API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the service's process holds."""

    threads: int
    fds: int
    rss_bytes: int
    anonymous_bytes: int  # of them, without mapped files, whose pages come and go with the machine's other processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A WebSocket message and when it came: `at` monotonic, `utc` Unix time."""

    at: float
    utc: float
    message: Mapping[str, Any]


class ServedService:
    """`python -m app serve` on a free port while its context is open; it never outlives it.

    One thread at a time. Everything raises `AppError` when the service is gone or does not answer.
    """

    def __init__(self, folder: Path, *, stall_timeout_s: float, backoff_max_s: float) -> None:
        self._log = folder / "serve.log"
        self._config = folder / "vidette.yml"  # empty: the user's own service may ask for tokens or deny loopback
        options = {
            "config": str(self._config),
            "server.port": "0",
            "data_dir": str(folder / "data"),
            "cameras.stall_timeout_s": f"{stall_timeout_s:g}",
            "cameras.backoff_max_s": f"{backoff_max_s:g}",
            # Nothing is left to be measured at the start, and a core is left to the cameras.
            "backend.device": "cpu",
            "backend.engine": "openvino",
            "backend.precision": "fp32",
            "backend.contexts": "1",
            "model": "vidette-demo",
            "models_dir": str(_ROOT / "models"),
        }
        given = [text for key, value in options.items() for text in (f"--{key}", value)]
        self._command = [sys.executable, "-m", "app", "serve", *given]
        self._child: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None
        self._url = ""

    def __enter__(self) -> ServedService:
        self._config.touch()
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command,
                cwd=_ROOT,
                env=_plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._running().pid

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def cameras(self) -> list[dict[str, Any]]:
        """Every camera as `GET /cameras` shows it."""
        cameras: list[dict[str, Any]] = self._ask("GET", "/cameras").json()
        return cameras

    def register(self, **camera: Any) -> None:
        self._ask("POST", "/cameras?force=true", json=camera)

    def change(self, camera_id: str, **fields: Any) -> None:
        self._ask("PATCH", f"/cameras/{camera_id}", json=fields)

    def remove(self, camera_id: str) -> None:
        self._ask("DELETE", f"/cameras/{camera_id}")

    def look_around(self) -> None:
        """What a dashboard asks for, so that its cost and its leaks are there as well."""
        for path in (f"{_API}/capacity", f"{_API}/system", f"{_API}/detections/latest", "/metrics", "/readyz"):
            self._get(path)

    def subscribe(self, query: str = "?mode=all", *, keep: bool = True) -> Subscriber:
        return Subscriber(self._url.replace("http", "ws", 1) + f"{_API}/ws/detections{query}", keep=keep)

    def resources(self) -> Resources:
        process = psutil.Process(self.pid)
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        anonymous = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        rss_bytes = int(process.memory_info().rss)
        return Resources(
            threads=process.num_threads(),
            fds=process.num_fds(),
            rss_bytes=rss_bytes,
            anonymous_bytes=1024 * int(anonymous[1]) if anonymous else rss_bytes,
        )

    def stop(self) -> int:
        """SIGTERM; the exit code. Raises `AppError` when it takes too long."""
        child = self._running()
        child.send_signal(signal.SIGTERM)
        try:
            return child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise AppError(f"the service did not end within {_STOP_S:g} s of SIGTERM") from None

    def close(self) -> None:
        """Kill what still runs. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise AppError("the service was not started")
        return self._child

    def _wait_ready(self) -> None:
        ends_at = time.monotonic() + _START_S
        while time.monotonic() < ends_at:
            if self._running().poll() is not None:
                raise AppError(f"the service ended at its start: {self.log()[-2000:]}")
            found = re.search(r"listening on (http://\S+)", self.log())
            if found:
                self._url = found[1]
                self._client = self._client or httpx.Client(base_url=self._url, timeout=_ANSWER_S, trust_env=False)
                if self._is_ready():
                    return
            time.sleep(_POLL_S)
        raise AppError(f"the service was not ready after {_START_S:g} s: {self.log()[-2000:]}")

    def _is_ready(self) -> bool:
        try:
            return self._get("/readyz").status_code == 200
        except AppError:
            return False

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._request(method, _API + path, **options)
        if response.is_error:
            raise AppError(f"{method} {path} was answered with {response.status_code}: {response.text[:500]}")
        return response

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        assert self._client is not None
        try:
            return self._client.request(method, path, **options)
        except httpx.TransportError as exc:
            code = self._running().poll()
            gone = "" if code is None else f"; it ended with code {code}"
            raise AppError(f"the service did not answer {method} {path}: {exc or type(exc).__name__}{gone}") from exc


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)}


class Subscriber:
    """Takes every message of one WebSocket in a thread of its own, until `close`."""

    def __init__(self, url: str, *, keep: bool = True) -> None:
        """Connects. `keep`: for `messages`; else what comes is forgotten. Raises `AppError` when it cannot."""
        self._keep = keep
        self._open = contextlib.ExitStack()
        try:
            connecting = connect(url, proxy=None, open_timeout=_ANSWER_S, close_timeout=1.0)
            self._socket: ClientConnection = self._open.enter_context(connecting)
        except (OSError, WebSocketException) as exc:
            raise AppError(f"the WebSocket cannot be opened: {exc}") from exc
        self._messages: queue.Queue[Received] = queue.Queue(_WAITING_MESSAGES)
        self.closed: str | None = None  # why, once it is
        self._thread = threading.Thread(target=self._take, name="chaos:subscriber", daemon=True)
        self._thread.start()

    def messages(self) -> Iterator[Received]:
        """Everything that has come since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._messages.get_nowait()

    def close(self) -> None:
        self._open.close()
        self._thread.join(_ANSWER_S)

    def _take(self) -> None:
        try:
            for text in self._socket:
                if not self._keep:
                    continue
                received = Received(at=time.monotonic(), utc=time.time(), message=json.loads(text))
                self._messages.put(received, timeout=_ANSWER_S)
        except (ConnectionClosed, queue.Full) as exc:
            self.closed = str(exc) or type(exc).__name__
        else:
            self.closed = "closed"
