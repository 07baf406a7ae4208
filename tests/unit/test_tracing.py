"""Spans of batches and connections: what is in them, what never is, and what tracing costs where nobody wants it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.cameras.source import SourceRequest
from app.errors import ConfigError, DeviceLost, EngineError, SourceError, SourceErrorCode
from app.settings import otel_variables
from app.tracing import BATCH, CLOSE_S, CONNECT, Tracing, default_sampler, open_tracing
from tests.support.app import StartApp
from tests.support.fakes import ManualDetector, ScriptedSource, make_frame, make_source_frame
from tests.support.wait import wait_in_thread, wait_until

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
REQUEST = SourceRequest(camera_id="gate-1", url="rtsp://camera.test/1", username="admin", password="hunter2")
ROOT = Path(__file__).resolve().parents[2]


class Spans:
    """Tracing whose spans stay in memory."""

    def __init__(self) -> None:
        trace = pytest.importorskip(
            "opentelemetry.sdk.trace", reason="the packages of the extra otel are not installed"
        )
        export = import_module("opentelemetry.sdk.trace.export")
        self._exporter = import_module(f"{export.__name__}.in_memory_span_exporter").InMemorySpanExporter()
        provider = trace.TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(export.SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def named(self, name: str) -> list[Any]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def text(self) -> str:
        return " ".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Spans:
    return Spans()


# Nobody wants it


def never(module: str) -> Any:
    raise AssertionError(f"{module} was imported")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "vidette"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_no_variable_asks_for_traces_nothing_is_imported(variables: dict[str, str]) -> None:
    assert open_tracing(variables, load=never) is None


def test_the_application_loads_no_sdk_and_no_exporter_of_opentelemetry() -> None:
    # The API by itself does nothing; FastAPI loads it where it finds it.
    code = (
        "import sys, app.main, app.server, app.cli; "
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_missing_packages_are_a_warning_and_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}")

    assert open_tracing(ENDPOINT, load=missing) is None
    assert "pip install 'vidette[otel]'" in caplog.text
    caplog.clear()
    assert open_tracing({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, load=missing) is None
    assert "pip install 'opentelemetry-exporter-otlp-proto-grpc'" in caplog.text


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: must be otlp, console or none, not 'zipkin'"),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf or grpc, not 'http/json'",
        ),
    ],
)
def test_a_variable_that_means_nothing_stops_the_start(variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_tracing(variables, load=never)
    assert str(caught.value) == sentence


def test_the_variables_are_opentelemetry_s_own() -> None:
    environ = {**ENDPOINT, "PATH": "/bin", "VIDETTE_IOU": "0.5"}
    assert otel_variables(environ) == ENDPOINT


# Batches


async def test_a_batch_is_a_span_that_tells_its_cameras_and_stages(spans: Spans) -> None:
    detector = ManualDetector()
    traced = spans.tracing.detector(detector)
    assert traced.info is detector.info
    frames = [make_frame("gate-1"), make_frame("door")]
    batch = asyncio.create_task(traced.detect(frames, min_scores=[0.5, 0.5]))
    await wait_until(lambda: detector.calls)
    detector.calls[0].finish()
    found = await batch
    (span,) = spans.named(BATCH)
    assert span.attributes["vidette.batch_size"] == 2
    assert span.attributes["vidette.cameras"] == ("gate-1", "door")
    assert span.attributes["vidette.detections"] == sum(map(len, found))
    assert span.attributes["vidette.infer_s"] == found[0].stages.infer_s
    assert span.status.is_ok
    await traced.aclose()


@pytest.mark.parametrize("error", [EngineError("out of memory"), DeviceLost("the GPU is gone"), ValueError("hunter2")])
async def test_a_batch_that_fails_is_a_span_with_its_error(spans: Spans, error: Exception) -> None:
    detector = ManualDetector()
    traced = spans.tracing.detector(detector)
    batch = asyncio.create_task(traced.detect([make_frame()], min_scores=[0.5]))
    await wait_until(lambda: detector.calls)
    detector.calls[0].fail(error)
    with pytest.raises(type(error)):
        await batch
    (span,) = spans.named(BATCH)
    assert not span.status.is_ok
    assert span.attributes["error.type"] == type(error).__name__
    # Of an error that is not ours only the kind is told: nobody knows what is in its text.
    assert span.status.description == (str(error) if isinstance(error, EngineError) else "ValueError")
    assert "hunter2" not in spans.text()


# Connections


def test_a_connection_is_a_span_up_to_the_first_frame(spans: Spans) -> None:
    source = ScriptedSource([make_source_frame(0), make_source_frame(1)])
    traced = spans.tracing.sources(lambda request: source)(REQUEST)
    frames = traced.frames()
    next(frames)
    (span,) = spans.named(CONNECT)
    assert span.status.is_ok
    assert span.attributes["vidette.camera"] == "gate-1"
    assert span.attributes["vidette.codec"] == "h264"
    assert traced.info == source.info
    assert len(list(frames)) == 1
    traced.pace(5.0)
    traced.close()
    assert (source.paces, source.closed) == ([5.0], 1)
    assert len(spans.named(CONNECT)) == 1
    assert "hunter2" not in spans.text()
    assert "camera.test" not in spans.text()


def test_a_connection_that_fails_is_a_span_with_the_camera_s_error_code(spans: Spans) -> None:
    error = SourceError(SourceErrorCode.AUTH_FAILED, "the camera refused the credentials")
    traced = spans.tracing.sources(lambda request: ScriptedSource([error]))(REQUEST)
    with pytest.raises(SourceError):
        next(traced.frames())
    traced.close()
    (span,) = spans.named(CONNECT)
    assert span.attributes["error.type"] == "auth_failed"
    assert span.status.description == "the camera refused the credentials"


def test_a_source_that_cannot_even_be_opened_ends_its_span(spans: Spans) -> None:
    def refuse(request: SourceRequest) -> ScriptedSource:
        raise SourceError(SourceErrorCode.FORBIDDEN_URL, "url: not this one")

    with pytest.raises(SourceError):
        spans.tracing.sources(refuse)(REQUEST)
    (span,) = spans.named(CONNECT)
    assert span.attributes["error.type"] == "forbidden_url"


def test_a_connection_that_is_given_up_ends_its_span_without_an_error(spans: Spans) -> None:
    source = ScriptedSource([threading.Event()])
    traced = spans.tracing.sources(lambda request: source)(REQUEST)
    traced.interrupt()
    assert list(traced.frames()) == []
    traced.close()
    never_asked = spans.tracing.sources(lambda request: ScriptedSource([]))(REQUEST)
    never_asked.close()
    assert [span.status.is_ok for span in spans.named(CONNECT)] == [True, True]


async def test_the_running_service_makes_spans_and_runs_as_ever(spans: Spans, start_app: StartApp) -> None:
    running = await start_app(options={"tracing": spans.tracing})
    await running.register("gate-1", username="admin", password="hunter2")
    await running.register("broken", script="fail=auth_failed")
    await running.wait_published("gate-1", 5)
    await running.wait_state("broken", "retrying")
    await running.stop()
    assert len(spans.named(BATCH)) >= 5
    codes = {span.attributes["vidette.camera"]: span.attributes.get("error.type") for span in spans.named(CONNECT)}
    assert codes == {"gate-1": None, "broken": "auth_failed"}
    assert "hunter2" not in spans.text()


# Sampling


def test_one_batch_in_a_hundred_is_kept_and_every_connection() -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason="the packages of the extra otel are not installed")
    sampler = default_sampler()
    trace_ids = [number * (2**64 // 1000) for number in range(1001)]
    kept = {name: sum(_kept(sampler, each, name) for each in trace_ids) for name in (BATCH, CONNECT)}
    assert kept == {BATCH: 11, CONNECT: 1001}  # both ends of the row are in


def _kept(sampler: Any, trace_id: int, name: str) -> bool:
    return bool(sampler.should_sample(None, trace_id, name).decision.is_sampled())


def test_a_span_that_is_not_kept_computes_no_attributes(spans: Spans) -> None:
    sdk, sampling = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.sampling")
    tracing = Tracing(sdk.TracerProvider(sampler=sampling.ALWAYS_OFF, shutdown_on_exit=False))

    class Infoless(ManualDetector):
        async def detect(self, frames: Any, *, min_scores: Any) -> list[Any]:
            return []  # whose stages nobody could read

    assert asyncio.run(tracing.detector(Infoless()).detect([], min_scores=[])) == []


# The collector


class Collector:
    """An OTLP collector over HTTP: keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.paths.append(self.path)
                collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Collector]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="collector")
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def resources(self) -> list[dict[str, str]]:
        wire = import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        requests = [wire.ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            {pair.key: pair.value.string_value for pair in each.resource.attributes}
            for request in requests
            for each in request.resource_spans
        ]


def opened(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> Tracing:
    pytest.importorskip("opentelemetry.sdk.trace", reason="the packages of the extra otel are not installed")
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER": "always_on", **variables}
    for name, value in given.items():
        monkeypatch.setenv(name, value)  # the SDK reads them by itself
    tracing = open_tracing(otel_variables())
    assert tracing is not None
    return tracing


@pytest.mark.parametrize(("name", "shown"), [(None, "vidette"), ("gates", "gates")])
async def test_spans_reach_a_collector_and_the_last_ones_at_the_end(
    monkeypatch: pytest.MonkeyPatch, name: str | None, shown: str
) -> None:
    collector = Collector()
    with collector.running():
        variables = {} if name is None else {"OTEL_SERVICE_NAME": name}
        tracing = await asyncio.to_thread(lambda: opened(monkeypatch, collector.url, **variables))
        tracing.sources(lambda request: ScriptedSource([]))(REQUEST).close()
        await tracing.aclose()
    assert set(collector.paths) == {"/v1/traces"}
    assert [resource["service.name"] for resource in collector.resources()] == [shown]


async def test_a_collector_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # Long enough to be cut off, short enough to be waited for below.
        tracing = await asyncio.to_thread(lambda: opened(monkeypatch, url, OTEL_EXPORTER_OTLP_TIMEOUT="4"))
        tracing.sources(lambda request: ScriptedSource([]))(REQUEST).close()
        began_at = time.monotonic()
        await tracing.aclose()
        assert CLOSE_S - 0.1 < time.monotonic() - began_at < 3.9  # the exporter's own time-out is 4 s
        assert "the last spans could not be sent" in caplog.text
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    # It gives up once the socket is gone.
    ours = ("tracing", "OtelBatchSpanRecordProcessor")
    wait_in_thread(lambda: not [each for each in threading.enumerate() if each.name in ours], 20)


def test_surfaces_pass_through_untouched(spans: Spans) -> None:
    frame = make_source_frame(0)
    traced = spans.tracing.sources(lambda request: ScriptedSource([frame]))(REQUEST)
    (only,) = list(traced.frames())
    assert only is frame
    assert isinstance(only.surface, SyntheticSurface)
    assert only.surface.released == 0
