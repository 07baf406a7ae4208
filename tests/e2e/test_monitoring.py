"""A real Prometheus scrapes a real service with simulated cameras: dashboards show data, alerts fire and resolve."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from app.commands.clips import render_clip
from app.metrics import CONTENT_TYPE, GPU_METRICS, _gpu_metrics, _throttle_metrics
from app.simulator.process import SimulatorProcess
from tests.support.dashboards import names_in, queries
from tests.support.fakes import make_gpu
from tests.support.prometheus import (
    PrometheusProcess,
    load_rules,
    needs_prometheus,
    promtool,
    shipped_config,
)
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = needs_prometheus

TOKEN = "a-token-of-the-tests"
CAMERAS = ("gate", "door", "yard")
DYING, FLAPPED = "door", "yard"
GPU_NAMES = {*GPU_METRICS, "vidette_gpu_throttled"}


class _Gpus(Collector):
    def collect(self) -> Iterator[Metric]:
        gpus = [make_gpu(0, throttle_reasons=("hw_thermal_slowdown",))]
        yield from _gpu_metrics(gpus)
        yield from _throttle_metrics(gpus)


def gpu_exposition() -> bytes:
    """What the service's own code exposes for a GPU that the tests make up: this machine need not have one."""
    registry = CollectorRegistry()
    registry.register(_Gpus())
    return generate_latest(registry)


@pytest.fixture(scope="module")
def gpu_target() -> Iterator[str]:
    """A second target for Prometheus, with the series of a GPU alone."""
    body = gpu_exposition()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="gpu-target", daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    simulator: SimulatorProcess
    service: ServeProcess
    prometheus: PrometheusProcess
    clip: Path
    gpu: str

    @property
    def instance(self) -> str:
        return self.service.url.removeprefix("http://")

    def variables(self) -> dict[str, str]:
        """What Grafana would put in place of the dashboards' variables."""
        return {"instance": f"({self.instance}|{self.gpu})", "camera": FLAPPED, "__rate_interval": "5s"}

    def state(self, camera: str) -> str:
        state: str = self.service.get(f"/api/v1/cameras/{camera}")["status"]["state"]
        return state


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, gpu_target: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "prometheus").mkdir()
    clip = render_clip(folder / "street.mp4", "street", seconds=4)
    options = ("--cameras.backoff_max_s", "1")
    environ = {**SETTLED, "VIDETTE_METRICS__TOKEN": TOKEN}
    with (
        SimulatorProcess() as simulator,
        ServeProcess(folder / "data", *options, environ=environ) as service,
    ):
        for name in CAMERAS:
            service.register(id=name, url=simulator.add_camera(name, clip))
        service.wait_running(*CAMERAS)
        targets = [service.url.removeprefix("http://"), gpu_target]
        config = shipped_config(folder / "prometheus", targets=targets, token=TOKEN, waits={"CameraDown": "3s"})
        promtool("check", "config", str(config))
        with PrometheusProcess(config) as prometheus:
            stack = Stack(simulator=simulator, service=service, prometheus=prometheus, clip=clip, gpu=gpu_target)
            wait_in_thread(
                lambda: len(prometheus.query("vidette_camera_up == 1")) == len(CAMERAS),
                timeout_s=60,
                what="Prometheus has scraped every camera",
                every_s=0.1,
            )
            simulator.set_fault(FLAPPED, "close")
            wait_in_thread(
                lambda: (
                    prometheus.query(f'vidette_camera_restarts_total{{camera="{FLAPPED}"}} > 0')
                    and stack.state(FLAPPED) == "running"
                ),
                timeout_s=60,
                what="the camera that lost its connection runs again, and its restart was scraped",
                every_s=0.1,
            )
            yield stack


def test_the_scrape_needs_the_token_and_has_it(stack: Stack) -> None:
    assert httpx.get(f"{stack.service.url}/metrics", trust_env=False).status_code == 401
    up = f'up{{instance="{stack.instance}"}} == 1'  # a scrape that took more than a second counts as none
    assert wait_in_thread(lambda: stack.prometheus.query(up), timeout_s=60, what="a scrape succeeds", every_s=0.2)


def test_promtool_finds_no_fault_with_the_exposition(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    text = httpx.get(f"{stack.service.url}/metrics", headers=headers, trust_env=False).raise_for_status().text
    assert "vidette_camera_up" in text
    promtool("check", "metrics", text=text)
    promtool("check", "metrics", text=gpu_exposition().decode())


def test_every_query_of_every_panel_returns_data(stack: Stack) -> None:
    asked = list(queries())
    exprs = {query.with_values(stack.variables()): query for query in asked}
    assert len(asked) > 80
    without_data = dict(exprs)

    def all_answered() -> bool:
        for expr in list(without_data):
            if stack.prometheus.query(expr):
                del without_data[expr]
        return not without_data

    try:
        wait_in_thread(all_answered, timeout_s=60, what="every query has returned data", every_s=0.5)
    except AssertionError:
        told = "\n".join(f"{query.dashboard}/{query.panel}: {expr}" for expr, query in without_data.items())
        pytest.fail(f"no data for {len(without_data)} of {len(exprs)} queries:\n{told}")
    seen = {name for query in asked for name in names_in(query.expr)}
    assert seen >= GPU_NAMES


def test_every_rule_works_and_every_record_is_made(stack: Stack) -> None:
    evaluated = wait_in_thread(
        lambda: (
            [] if any(rule["health"] == "unknown" for rule in stack.prometheus.rules()) else stack.prometheus.rules()
        ),
        timeout_s=60,
        what="every rule was evaluated",
        every_s=0.2,
    )
    assert {rule["name"]: rule.get("lastError", "") for rule in evaluated if rule["health"] != "ok"} == {}
    records = {rule["record"] for rule in load_rules("recording.yml")}
    wait_in_thread(
        lambda: all(stack.prometheus.query(record) for record in records),
        timeout_s=60,
        what="every recording rule made a series",
        every_s=0.5,
    )
    shares = stack.prometheus.query("instance:vidette_capacity_left:ratio")
    assert {share.labels["part"] for share in shares} == {"inference", "decode", "nvdec"}
    assert all(0 <= share.value <= 1 for share in shares)


def test_prometheus_shows_what_the_api_shows(stack: Stack) -> None:
    for name in CAMERAS:
        before = stack.service.frames()[name]["decoded"]
        series = f'vidette_frames_decoded_total{{camera="{name}"}}'
        (decoded,) = wait_in_thread(
            partial(stack.prometheus.query, f"{series} >= {before}"),
            timeout_s=60,
            what="the next scrape is there",
            every_s=0.2,
        )
        assert decoded.value <= stack.service.frames()[name]["decoded"]
        (expected,) = stack.prometheus.query(f'last_over_time(vidette_camera_expected_fps{{camera="{name}"}}[1m])')
        assert expected.value == 15


def test_a_camera_that_dies_raises_an_alert_which_ends_when_it_is_back(stack: Stack) -> None:
    prometheus = stack.prometheus
    # Another camera was away for a moment while the stack started.
    wait_in_thread(lambda: not prometheus.alerts("CameraDown"), timeout_s=60, what="no camera is down", every_s=0.2)
    stack.simulator.set_fault(DYING, "missing")

    def firing() -> list[dict[str, object]]:
        return [alert for alert in prometheus.alerts("CameraDown") if alert["state"] == "firing"]

    (alert,) = wait_in_thread(firing, timeout_s=60, what="CameraDown fires", every_s=0.2)
    assert alert["labels"] == {
        "alertname": "CameraDown",
        "camera": DYING,
        "instance": stack.instance,
        "job": "vidette",
        "severity": "critical",
    }
    assert alert["annotations"] == {
        "summary": f"camera {DYING} is down",
        "description": f"Camera {DYING} of {stack.instance} is enabled and has given no frame for a minute.",
        "runbook_url": "docs/runbook.md#cameradown",
        "dashboard": f"/d/vidette-camera?var-instance={stack.instance}&var-camera={DYING}",
    }

    stack.simulator.set_fault(DYING, "ok")
    wait_in_thread(lambda: not prometheus.alerts("CameraDown"), timeout_s=60, what="CameraDown ends", every_s=0.2)
    series = f'ALERTS{{alertname="CameraDown", camera="{DYING}"}}'
    wait_in_thread(lambda: not prometheus.query(series), timeout_s=60, what="its series has ended", every_s=0.2)
    times = {labels["alertstate"]: at for labels, at in prometheus.history(f"{series}[2m]")}
    assert times.keys() == {"pending", "firing"}
    assert max(times["pending"]) < min(times["firing"])
    assert stack.state(DYING) == "running"
