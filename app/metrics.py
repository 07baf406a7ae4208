"""Prometheus: reads snapshots when scraped, keeps nothing of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.auth.failures import FailureLimit
from app.batching.batcher import BatcherStats
from app.cameras.camera import Camera, CameraStatus
from app.cameras.registry import Registry
from app.connections import ConnectionStats
from app.cores import available_cores
from app.logs import RepeatFilter
from app.results.hub import ResultHub
from app.service import Parts
from app.types import EngineInfo, GpuSnapshot
from app.watchdog import LoopStats

logger = logging.getLogger("vidette.metrics")
logger.addFilter(RepeatFilter())
STATES = ("connecting", "running", "retrying", "disabled")
BATCH_BOUNDS = (1, 2, 4, 8, 12, 16)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServiceCollector(Collector):
    """Turns the running service's snapshots into metric families; yields nothing while there is no service."""

    def __init__(self, parts: Callable[[], Parts | None], failures: FailureLimit, *, cores: int) -> None:
        self._parts = parts
        self._failures = failures
        self._cores = cores
        self._failed = 0

    def collect(self) -> Iterable[Metric]:
        parts = self._parts()
        if parts is None:
            return
        yield _failure_metrics(self._failures)
        cameras: list[Camera[Any]] = parts.registry.cameras()
        groups: tuple[Callable[[], Iterable[Metric]], ...] = (
            lambda: _camera_metrics(cameras),
            lambda: _frame_metrics(cameras),
            lambda: _reader_metrics(parts.registry),
            lambda: _stage_metrics(parts.hub),
            lambda: _batch_metrics(parts.batcher.stats),
            lambda: _subscriber_metrics(parts.hub),
            lambda: _connection_metrics(parts.connections.stats),
            lambda: _loop_metrics(parts.watchdog.stats),
            lambda: _gpu_metrics(parts.samples.gpus),
            lambda: _throttle_metrics(parts.samples.gpus),
            lambda: _capacity_metrics(parts.engine, parts.samples.decode_cores, self._cores),
            lambda: _model_metrics(parts.engine),
        )
        for group in groups:
            yield from self._read(group)
        yield CounterMetricFamily(
            "vidette_metrics_errors", "Groups of series that a scrape had to leave out.", value=self._failed
        )

    def _read(self, group: Callable[[], Iterable[Metric]]) -> list[Metric]:
        """What cannot be read is left out; the rest of the scrape is whole."""
        try:
            return list(group())
        except Exception as exc:
            self._failed += 1
            logger.error("some metrics cannot be read", exc_info=exc)
            return []


# Metric: (help, what it reads).
GPU_METRICS: dict[str, tuple[str, Callable[[GpuSnapshot], float | None]]] = {
    "vidette_gpu_utilization_ratio": ("Share of time in which a kernel ran.", lambda gpu: gpu.utilization_ratio),
    "vidette_gpu_decoder_utilization_ratio": (
        "Share of time in which NVDEC decoded.",
        lambda gpu: gpu.decoder_utilization_ratio,
    ),
    "vidette_gpu_memory_used_bytes": ("GPU memory that all processes use.", lambda gpu: gpu.memory_used_bytes),
    "vidette_gpu_memory_total_bytes": ("GPU memory.", lambda gpu: gpu.memory_total_bytes),
    "vidette_gpu_power_watts": ("Power that the GPU draws.", lambda gpu: gpu.power_watts),
    "vidette_gpu_temperature_celsius": ("Temperature of the GPU.", lambda gpu: gpu.temperature_celsius),
}
_INFO = ["model", "sha256", "precision", "backend"]


class Metrics:
    """One application's metrics; a registry of its own, so that two applications in a process do not collide."""

    def __init__(self, parts: Callable[[], Parts | None], failures: FailureLimit) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        # Counted once: it reads the cgroup's file, and a scrape does no I/O of its own.
        self._registry.register(ServiceCollector(parts, failures, cores=available_cores()))

    def text(self) -> bytes:
        """The exposition. The process's own figures are read from /proc: call it from a worker thread."""
        return generate_latest(self._registry)


def _failure_metrics(failures: FailureLimit) -> Metric:
    family = CounterMetricFamily(
        "vidette_auth_failures", "Requests and WebSockets without a good token, by reason.", labels=["reason"]
    )
    for reason, count in failures.counts.items():
        family.add_metric([reason], count)
    return family


def _camera_metrics(cameras: Iterable[Camera[Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("vidette_camera_up", "1 while frames come.", labels=["camera"])
    state = GaugeMetricFamily("vidette_camera_state", "1 for the state it is in.", labels=["camera", "state"])
    fps = GaugeMetricFamily("vidette_camera_fps", "Frames a second over 5 s.", labels=["camera", "kind"])
    restarts = CounterMetricFamily(
        "vidette_camera_restarts", "Connections that ended, by reason.", labels=["camera", "code"]
    )
    expected = GaugeMetricFamily(
        "vidette_camera_expected_fps",
        "Frames a second that its stream declares, its max_fps at most.",
        labels=["camera"],
    )
    last = GaugeMetricFamily(
        "vidette_camera_last_frame_timestamp_seconds", "Unix time of the newest frame.", labels=["camera"]
    )
    level = GaugeMetricFamily(
        "vidette_camera_degradation_level",
        "What gives way under overload: 0 nothing, 1 thinned out, 2 to 4 decoded with less and less work.",
        labels=["camera"],
    )
    for camera in cameras:
        status = camera.status
        name = status.camera_id
        level.add_metric([name], 0 if status.degradation is None else status.degradation.level)
        up.add_metric([name], 1 if status.state == "running" else 0)
        for each in STATES:
            state.add_metric([name, each], 1 if status.state == each else 0)
        fps.add_metric([name, "measured"], status.measured_fps)
        fps.add_metric([name, "inferred"], status.inferred_fps)
        wanted = _expected_fps(status, camera.lane.settings.max_fps)
        if wanted is not None:
            expected.add_metric([name], wanted)
        for code, count in status.restarts.items():
            restarts.add_metric([name, code], count)
        if status.last_frame_utc is not None:
            last.add_metric([name], status.last_frame_utc)
    yield from (up, state, fps, expected, restarts, last, level)


def _expected_fps(status: CameraStatus, max_fps: float | None) -> float | None:
    """None while the stream declares nothing: what a camera should deliver is then not known."""
    declared = None if status.info is None else status.info.declared_fps
    if declared is None or max_fps is None:
        return declared
    return min(declared, max_fps)


def _frame_metrics(cameras: Iterable[Camera[Any]]) -> Iterator[Metric]:
    decoded = CounterMetricFamily("vidette_frames_decoded", "Frames that came out of the decoder.", labels=["camera"])
    published = CounterMetricFamily("vidette_frames_published", "Frames whose result went out.", labels=["camera"])
    dropped = CounterMetricFamily(
        "vidette_frames_dropped", "Frames that ended without a result.", labels=["camera", "reason"]
    )
    found = CounterMetricFamily("vidette_detections", "Objects found.", labels=["camera", "label"])
    latency = HistogramMetricFamily(
        "vidette_end_to_end_latency_seconds", "From a packet's arrival to its result's message.", labels=["camera"]
    )
    for camera in cameras:
        lane = camera.lane
        name, counts = lane.camera_id, lane.counts()
        decoded.add_metric([name], counts.decoded)
        published.add_metric([name], counts.published)
        for reason, count in counts.dropped.items():
            dropped.add_metric([name, reason], count)
        for label, count in dict(lane.found).items():  # a copy: the event loop adds labels meanwhile
            found.add_metric([name, label], count)
        buckets, total = lane.latency.cumulative()
        latency.add_metric([name], buckets, total)
    yield from (decoded, published, dropped, found, latency)


def _reader_metrics(registry: Registry[Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "vidette_camera_readers_ending",
        "Threads of cameras that were told to end and have not.",
        value=registry.readers_ending,
    )


def _model_metrics(engine: EngineInfo) -> Iterator[Metric]:
    info = GaugeMetricFamily("vidette_model_info", "The loaded model.", labels=_INFO)
    info.add_metric([engine.model, engine.sha256, engine.precision, engine.backend], 1)
    yield info


def _stage_metrics(hub: ResultHub[Any]) -> Iterator[Metric]:
    stages = HistogramMetricFamily("vidette_stage_duration_seconds", "Time a frame spent in a stage.", labels=["stage"])
    for stage, histogram in hub.stages.items():
        buckets, total = histogram.cumulative()
        stages.add_metric([stage], buckets, total)
    yield stages


def _batch_metrics(stats: BatcherStats) -> Iterator[Metric]:
    buckets = [
        (str(float(bound)), float(sum(n for size, n in stats.batch_sizes.items() if size <= bound)))
        for bound in BATCH_BOUNDS
    ]
    buckets.append(("+Inf", float(sum(stats.batch_sizes.values()))))
    sizes = HistogramMetricFamily("vidette_batch_size", "Frames in a batch.")
    sizes.add_metric([], buckets, float(sum(size * n for size, n in stats.batch_sizes.items())))
    closed = CounterMetricFamily("vidette_batch_close", "Batches, by what closed them.", labels=["reason"])
    for reason in ("full", "context_free", "delay", "drain"):
        closed.add_metric([reason], stats.close_reasons.get(reason, 0))
    yield sizes
    yield closed
    yield GaugeMetricFamily("vidette_contexts_busy", "Contexts with a batch in flight.", value=stats.contexts_busy)
    yield GaugeMetricFamily("vidette_contexts", "Contexts of the engine.", value=stats.contexts)


def _capacity_metrics(engine: EngineInfo, decode_cores: float, cores: int) -> Iterator[Metric]:
    if engine.capacity_fps is not None:
        yield GaugeMetricFamily(
            "vidette_engine_capacity_fps",
            "Frames a second that the engine alone infers, measured at start-up.",
            value=engine.capacity_fps,
        )
    yield GaugeMetricFamily(
        "vidette_decode_cores_busy", "Processor cores that decoding keeps busy.", value=decode_cores
    )
    yield GaugeMetricFamily("vidette_cores", "Processor cores that this process may use.", value=cores)


def _subscriber_metrics(hub: ResultHub[Any]) -> Iterator[Metric]:
    stats = hub.stats
    yield GaugeMetricFamily("vidette_ws_clients", "Connected WebSocket clients.", value=stats.subscribers)
    yield CounterMetricFamily("vidette_ws_messages_sent", "WebSocket messages sent.", value=stats.messages_sent)
    dropped = CounterMetricFamily("vidette_ws_messages_dropped", "Messages a client missed.", labels=["reason"])
    for reason, count in stats.messages_dropped.items():
        dropped.add_metric([reason], count)
    yield dropped
    closed = CounterMetricFamily(
        "vidette_ws_closed", "WebSocket connections that the service ended, by close code.", labels=["code"]
    )
    for code, count in stats.closed.items():
        closed.add_metric([str(code)], count)
    yield closed
    yield GaugeMetricFamily(
        "vidette_ws_delivery_share_ratio",
        "Share of the event loop's time that delivery may take; less while frames are shed.",
        value=stats.delivery_share,
    )


def _connection_metrics(connections: ConnectionStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("vidette_http_connections", "Open connections, WebSockets too.", value=connections.open)
    ended = CounterMetricFamily(
        "vidette_http_connections_ended", "Connections that were refused or cut off.", labels=["reason"]
    )
    for reason, count in connections.ended.items():
        ended.add_metric([reason], count)
    yield ended


def _loop_metrics(loop: LoopStats) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "vidette_event_loop_stalls", "Times that the event loop stood still for over a second.", value=loop.stalls
    )
    yield GaugeMetricFamily(
        "vidette_event_loop_lag_seconds", "Until the event loop did what it was last asked to.", value=loop.lag_s
    )


def _gpu_metrics(gpus: Iterable[GpuSnapshot]) -> Iterator[Metric]:
    """What NVML told. A series that nobody can measure is absent, and so is a family without series."""
    for name, (documentation, read) in GPU_METRICS.items():
        family = GaugeMetricFamily(name, documentation, labels=["gpu"])
        for gpu in gpus:
            value = read(gpu)
            if value is not None:
                family.add_metric([str(gpu.index)], value)
        if family.samples:
            yield family


def _throttle_metrics(gpus: Iterable[GpuSnapshot]) -> Iterator[Metric]:
    throttled = GaugeMetricFamily(
        "vidette_gpu_throttled", "1 for each reason that slows the GPU's clocks down now.", labels=["gpu", "reason"]
    )
    for gpu in gpus:
        for reason in gpu.throttle_reasons or ():
            throttled.add_metric([str(gpu.index), reason], 1)
    if throttled.samples:
        yield throttled
