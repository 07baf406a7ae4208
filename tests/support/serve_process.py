"""The real service in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from app.auth.tokens import bearer

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
# For tests of something else: nothing is left to be measured at the start, which takes seconds.
SETTLED = {
    "VIDETTE_BACKEND__ENGINE": "openvino",
    "VIDETTE_BACKEND__PRECISION": "fp32",
    "VIDETTE_BACKEND__CONTEXTS": "2",
    "VIDETTE_BATCHING__MAX_SIZE": "8",
}


class ServeProcess:
    """`python -m app serve` on a free port while its context is open; it never outlives the test."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        environ: Mapping[str, str] | None = None,
        token: str | None = None,
        cwd: Path = ROOT,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """`token` and `verify` are for its own requests."""
        self._headers = bearer(token)
        self._verify = verify
        self._cwd = cwd
        self._log_path = data_dir.parent / f"{data_dir.name}-serve-{time.monotonic_ns()}.log"
        self._arguments = ["serve", "--port", "0", "--data_dir", str(data_dir), *options]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDETTE_")}
        self._environ = {**clean, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> ServeProcess:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", *self._arguments],
                cwd=self._cwd,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the service ended with {self.process.returncode}:\n{self.log()}"
            found = re.search(r'listening on (https?://[^\s"]+)', self.log())
            if found:
                self.url = found[1]
                try:
                    if httpx.get(f"{self.url}/readyz", timeout=5, verify=self._verify).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
            time.sleep(0.05)
        raise AssertionError(f"the service was not ready after {START_S:g} s:\n{self.log()}")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was not started"
        return self._process

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/api/v1/ws/detections"

    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", headers=self._headers, timeout=10).raise_for_status().json()

    def register(self, **camera: Any) -> Any:
        answer = httpx.post(f"{self.url}/api/v1/cameras", json=camera, headers=self._headers, timeout=10)
        return answer.raise_for_status().json()

    def frames(self) -> dict[str, dict[str, Any]]:
        """Every camera's drop ledger."""
        return {camera["id"]: camera["status"]["frames"] for camera in self.get("/api/v1/cameras")}

    def wait_running(self, *camera_ids: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        states: dict[str, str] = {}
        while time.monotonic() < deadline:
            states = {camera["id"]: camera["status"]["state"] for camera in self.get("/api/v1/cameras")}
            if all(states.get(camera_id) == "running" for camera_id in camera_ids):
                return
            time.sleep(0.1)
        raise AssertionError(f"not running after {timeout_s:g} s: {states}\n{self.log()}")

    def memory_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def terminate(self, timeout_s: float = 10.0) -> int:
        """SIGTERM, and the exit code; fails when the service takes longer."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)
