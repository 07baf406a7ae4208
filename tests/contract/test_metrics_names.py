"""Prometheus: the names, types and labels that dashboards rely on."""

from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.errors import EngineError
from tests.support.app import API, RunningApp, StartApp, on_shared
from tests.support.fakes import GpuBackend, make_gpu
from tests.support.wait import wait_until

# name: (type, labels). Counters carry `_total` in the exposition, histograms `_bucket`, `_count` and `_sum`.
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "vidette_camera_up": ("gauge", {"camera"}),
    "vidette_camera_state": ("gauge", {"camera", "state"}),
    "vidette_camera_fps": ("gauge", {"camera", "kind"}),
    "vidette_camera_expected_fps": ("gauge", {"camera"}),
    "vidette_camera_degradation_level": ("gauge", {"camera"}),
    "vidette_camera_restarts_total": ("counter", {"camera", "code"}),
    "vidette_camera_last_frame_timestamp_seconds": ("gauge", {"camera"}),
    "vidette_frames_decoded_total": ("counter", {"camera"}),
    "vidette_frames_published_total": ("counter", {"camera"}),
    "vidette_frames_dropped_total": ("counter", {"camera", "reason"}),
    "vidette_detections_total": ("counter", {"camera", "label"}),
    "vidette_stage_duration_seconds": ("histogram", {"stage"}),
    "vidette_end_to_end_latency_seconds": ("histogram", {"camera"}),
    "vidette_batch_size": ("histogram", set()),
    "vidette_batch_close_total": ("counter", {"reason"}),
    "vidette_contexts_busy": ("gauge", set()),
    "vidette_contexts": ("gauge", set()),
    "vidette_engine_capacity_fps": ("gauge", set()),
    "vidette_decode_cores_busy": ("gauge", set()),
    "vidette_cores": ("gauge", set()),
    "vidette_auth_failures_total": ("counter", {"reason"}),
    "vidette_model_info": ("gauge", {"model", "sha256", "precision", "backend"}),
    "vidette_camera_readers_ending": ("gauge", set()),
    "vidette_metrics_errors_total": ("counter", set()),
    "vidette_http_connections": ("gauge", set()),
    "vidette_http_connections_ended_total": ("counter", {"reason"}),
    "vidette_event_loop_stalls_total": ("counter", set()),
    "vidette_event_loop_lag_seconds": ("gauge", set()),
    "vidette_ws_clients": ("gauge", set()),
    "vidette_ws_messages_sent_total": ("counter", set()),
    "vidette_ws_messages_dropped_total": ("counter", {"reason"}),
    "vidette_ws_closed_total": ("counter", {"code"}),
    "vidette_ws_delivery_share_ratio": ("gauge", set()),
}


async def scrape(running: RunningApp) -> dict[str, Metric]:
    response = await running.http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(response.text):
        found[f"{family.name}_total" if family.type == "counter" else family.name] = family
    return found


def values(family: Metric, label: str) -> set[str]:
    return {sample.labels[label] for sample in family.samples if label in sample.labels}


async def test_every_series_has_its_name_type_and_labels_and_there_is_no_other(start_app: StartApp) -> None:
    detector = SyntheticDetector()
    running = await start_app(SyntheticBackend(detector))
    await running.register("gate-1", "fps=100&after=20&fail=end_of_stream")
    await running.register("door", "fps=100")
    await running.wait_published("door", 3)
    await running.wait_published("gate-1", 1)
    await running.wait_state("gate-1", "retrying")
    detector.fail_next = EngineError("once")
    await wait_until(lambda: running.parts.batcher.stats.failed_batches == 1)
    found = await scrape(running)
    ours = {name: family for name, family in found.items() if name.startswith("vidette_")}
    assert set(ours) == set(CONTRACT)
    for name, (kind, labels) in CONTRACT.items():
        assert ours[name].type == kind, name
        assert ours[name].documentation, name
        assert ours[name].samples, name
        for sample in ours[name].samples:
            assert set(sample.labels) - {"le"} == labels, sample


@on_shared
async def test_labels_take_the_values_of_the_contract(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&after=5&fail=read_timeout")
    await shared.wait_state("gate-1", "retrying")
    found = await scrape(shared)
    assert values(found["vidette_camera_state"], "state") == {"connecting", "running", "retrying", "disabled"}
    assert values(found["vidette_camera_fps"], "kind") == {"measured", "inferred"}
    assert values(found["vidette_camera_restarts_total"], "code") == {"read_timeout"}
    assert values(found["vidette_frames_dropped_total"], "reason") == {
        "rate_limit",
        "still",
        "degraded",
        "replaced",
        "stale",
        "infer_failed",
        "publish_failed",
        "shutdown",
    }
    assert values(found["vidette_stage_duration_seconds"], "stage") == {
        "decode",
        "queue",
        "preprocess",
        "infer",
        "postprocess",
        "publish",
    }
    assert values(found["vidette_batch_close_total"], "reason") == {"full", "context_free", "delay", "drain"}
    assert values(found["vidette_ws_messages_dropped_total"], "reason") == {"slow_consumer", "failed"}


@on_shared
async def test_values_are_those_of_the_api(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&after=30&hang=1")
    await wait_until(lambda: shared.parts.registry.get("gate-1").lane.counts().decoded == 30)
    await wait_until(lambda: shared.parts.registry.get("gate-1").lane.counts().in_flight == 0)
    frames = (await shared.camera("gate-1"))["status"]["frames"]
    async with shared.socket():
        await wait_until(lambda: shared.parts.hub.stats.subscribers == 1)
        found = await scrape(shared)

    def value(name: str, **labels: str) -> float:
        family = found[name]
        (sample,) = [s for s in family.samples if s.labels == labels and not s.name.endswith("_created")]
        return float(sample.value)

    assert value("vidette_frames_decoded_total", camera="gate-1") == 30
    assert value("vidette_frames_published_total", camera="gate-1") == frames["published"]
    assert value("vidette_frames_dropped_total", camera="gate-1", reason="replaced") == frames["dropped"]["replaced"]
    assert value("vidette_detections_total", camera="gate-1", label="person") == frames["published"]
    assert value("vidette_camera_state", camera="gate-1", state="running") == 1
    assert value("vidette_camera_state", camera="gate-1", state="retrying") == 0
    assert value("vidette_camera_up", camera="gate-1") == 1
    assert value("vidette_ws_clients") == 1
    assert value("vidette_contexts") == 2
    assert value("vidette_contexts_busy") == 0
    buckets = {s.labels.get("le"): s.value for s in found["vidette_batch_size"].samples if s.name.endswith("_bucket")}
    assert list(buckets) == ["1.0", "2.0", "4.0", "8.0", "12.0", "16.0", "+Inf"]
    latency = found["vidette_end_to_end_latency_seconds"].samples
    assert [s.value for s in latency if s.name.endswith("_count")] == [frames["published"]]


@on_shared
async def test_a_camera_is_expected_to_deliver_what_it_declares_and_its_max_fps_at_most(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50")
    await shared.register("door", "fps=50", max_fps=10)
    await shared.register("yard", "fail=connection_refused")
    await shared.wait_published("gate-1")
    await shared.wait_published("door")
    await shared.wait_state("yard", "retrying")
    family = (await scrape(shared))["vidette_camera_expected_fps"]
    assert {sample.labels["camera"]: sample.value for sample in family.samples} == {"gate-1": 50, "door": 10}


GPU_SERIES = {
    "vidette_gpu_utilization_ratio": 0.75,
    "vidette_gpu_decoder_utilization_ratio": 0.5,
    "vidette_gpu_memory_used_bytes": 3 << 30,
    "vidette_gpu_memory_total_bytes": 24 << 30,
    "vidette_gpu_power_watts": 61.25,
    "vidette_gpu_temperature_celsius": 58.0,
}


async def test_a_gpu_has_its_series_and_what_it_does_not_tell_is_absent(start_app: StartApp) -> None:
    backend = GpuBackend(make_gpu(0), make_gpu(3, power_watts=None, temperature_celsius=0.0, throttle_reasons=()))
    running = await start_app(backend)
    await wait_until(lambda: len(running.service.samples.gpus) == 2)
    found = {name: family for name, family in (await scrape(running)).items() if "gpu" in name}
    throttled = found.pop("vidette_gpu_throttled")
    assert [(s.labels, s.value) for s in throttled.samples] == [({"gpu": "0", "reason": "sw_power_cap"}, 1)]
    assert set(found) == set(GPU_SERIES)
    for name, family in found.items():
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        assert [set(sample.labels) for sample in family.samples] == [{"gpu"}] * len(family.samples)
        assert {sample.labels["gpu"]: sample.value for sample in family.samples}["0"] == GPU_SERIES[name]
    assert values(found["vidette_gpu_power_watts"], "gpu") == {"0"}
    assert {s.labels["gpu"]: s.value for s in found["vidette_gpu_temperature_celsius"].samples}["3"] == 0.0


async def test_a_scrape_reads_no_gpu_and_the_event_loop_does_not_either(start_app: StartApp) -> None:
    backend = GpuBackend(make_gpu())
    running = await start_app(backend)
    await wait_until(lambda: len(running.service.samples.gpus) == 1)
    await running.metrics()
    await running.http.get(f"{API}/system")
    assert backend.read_by == {"gpus"}


@on_shared
async def test_there_are_no_gpu_series_without_a_gpu(shared: RunningApp) -> None:
    assert not [name for name in await scrape(shared) if "gpu" in name]


@on_shared
async def test_the_process_s_own_series_are_there(shared: RunningApp) -> None:
    found = await scrape(shared)
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(found)
    assert any(name.startswith("python_gc_") for name in found)


@on_shared
async def test_a_removed_camera_s_series_vanish(shared: RunningApp) -> None:
    await shared.register("gate-1")
    await shared.register("door")
    await shared.wait_published("gate-1")
    assert "gate-1" in await shared.metrics()
    await shared.remove("gate-1")
    text = await shared.metrics()
    assert "gate-1" not in text
    assert 'camera="door"' in text


@on_shared
async def test_no_label_carries_a_url(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&after=2&fail=read_timeout")
    await shared.wait_state("gate-1", "retrying")
    assert "camera.test" not in await shared.metrics()


async def test_a_scrape_while_the_service_starts_is_no_error(start_app: StartApp) -> None:
    from tests.support.fakes import SlowOpeningBackend

    backend = SlowOpeningBackend()
    running = await start_app(backend, wait_ready=False)
    try:
        text = await running.metrics()
        assert "vidette_camera_up" not in text
        assert "process_cpu_seconds_total" in text
    finally:
        backend.go_on.set()
