"""A real Prometheus, with the project's own configuration and rules, for as long as a test needs it."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
import yaml

from tests.support.ports import free_port
from tests.support.wait import wait_in_thread

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((SHIPPED / "rules").glob("*.yml"))
INTERVAL = "1s"  # instead of the shipped ones, so that a test sees in seconds what a server sees in minutes

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed (on Debian: apt install prometheus)",
)


def promtool(*arguments: str, text: str | None = None) -> None:
    """Run promtool and fail with its words when it complains."""
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}"


def load_rules(name: str) -> list[dict[str, Any]]:
    """All rules of deploy/prometheus/rules/NAME, in the order of the file."""
    document = yaml.safe_load((SHIPPED / "rules" / name).read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def shipped_config(folder: Path, *, targets: Sequence[str], token: str, waits: Mapping[str, str] | None = None) -> Path:
    """deploy/prometheus as a configuration in `folder`: its job and rules, with other targets, token and intervals.

    `waits` gives alerts another `for:`, by name. Everything else is as it ships.
    """
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    (job,) = [each for each in config["scrape_configs"] if each["job_name"] == "vidette"]
    job["static_configs"] = [{"targets": list(targets)}]
    (folder / "token").write_text(token, encoding="utf-8")
    job["authorization"]["credentials_file"] = str(folder / "token")
    config["scrape_configs"] = [job]
    (folder / "rules").mkdir()
    for path in RULE_FILES:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            if rule.get("alert") in (waits or {}):
                rule["for"] = (waits or {})[rule["alert"]]
        (folder / "rules" / path.name).write_text(yaml.safe_dump(document), encoding="utf-8")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    labels: dict[str, str]
    value: float


class PrometheusProcess:
    """`prometheus` on loopback while its context is open; its data and its log lie beside its configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._log_path = config.with_name("prometheus.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(trust_env=False, timeout=10)
        self.url = ""

    def __enter__(self) -> PrometheusProcess:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._config.with_name('tsdb')}",
                    f"--web.listen-address={address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_in_thread(self._ready, timeout_s=30, what="Prometheus is ready", every_s=0.1)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process: SIGTERM, else SIGKILL. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._http.close()

    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def query(self, expr: str) -> list[Sample]:
        """What an instant query gives now, without NaN. Fails with Prometheus' own words when it refuses the query."""
        answer = self._get("query", query=expr)
        samples = [Sample(labels=each["metric"], value=float(each["value"][1])) for each in answer["result"]]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def history(self, selector: str) -> list[tuple[dict[str, str], list[float]]]:
        """(labels, times of its samples) of every series that a range selector finds."""
        answer = self._get("query", query=selector)
        return [(each["metric"], [float(at) for at, _ in each["values"]]) for each in answer["result"]]

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """The alerts of this name that are pending or firing."""
        alerts: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"]["alertname"] == name]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer['error']}"
        return answer["data"]

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Prometheus ended with {self._process.returncode}:\n{self.log()}"
        try:
            return self._http.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False
