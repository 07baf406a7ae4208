"""Every row of the contract's REST table, over real HTTP, with synthetic cameras."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from app import __version__
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import CLASSES, SyntheticDetector
from tests.support.app import API, RunningApp, StartApp, on_shared
from tests.support.fakes import GpuBackend, SlowOpeningBackend, make_gpu
from tests.support.wait import wait_until

CAMERA_FIELDS = {
    "id",
    "name",
    "url",
    "username",
    "password_set",
    "enabled",
    "transport",
    "max_fps",
    "motion",
    "priority",
    "min_score",
    "classes",
    "labels",
    "declared",
    "status",
}
STATUS_FIELDS = {
    "state",
    "since",
    "retry_in_s",
    "error",
    "decoder",
    "decoder_reason",
    "codec",
    "width",
    "height",
    "declared_fps",
    "measured_fps",
    "inferred_fps",
    "restarts",
    "last_frame_at",
    "degradation",
    "motion",
    "frames",
}
RESULT_FIELDS = {
    "type",
    "version",
    "camera_id",
    "seq",
    "pts_s",
    "captured_at",
    "clock",
    "timing_ms",
    "width",
    "height",
    "model",
    "batch_size",
    "detections",
}


# Cameras: list, register, read


@on_shared
async def test_a_registered_camera_is_answered_with_its_place_and_connects_at_once(shared: RunningApp) -> None:
    body = {"name": "Gate 1", "url": "rtsp://camera.test/1?fps=50"}
    response = await shared.http.post(f"{API}/cameras", json=body)
    assert response.status_code == 201
    assert response.headers["location"] == f"{API}/cameras/gate-1"
    camera = response.json()
    assert set(camera) == CAMERA_FIELDS
    assert set(camera["status"]) == STATUS_FIELDS
    assert camera["status"]["state"] in ("connecting", "running")
    assert (await shared.http.get(response.headers["location"])).json()["id"] == "gate-1"
    await shared.wait_state("gate-1", "running")


@on_shared
async def test_a_camera_shows_what_was_registered_and_its_defaults(shared: RunningApp) -> None:
    plain = await shared.register("plain", enabled=False)
    assert {key: plain[key] for key in CAMERA_FIELDS - {"status", "url", "id"}} == {
        "name": "plain",
        "username": None,
        "password_set": False,
        "enabled": False,
        "transport": "auto",
        "max_fps": None,
        "motion": None,
        "priority": 5,
        "min_score": None,
        "classes": None,
        "labels": {},
        "declared": False,
    }
    given: dict[str, Any] = {
        "name": "Südtor",
        "username": "admin",
        "enabled": False,
        "transport": "udp",
        "max_fps": 2.5,
        "motion": {"sensitivity": 0.75, "heartbeat_s": 60.0, "hold_s": 0.0},
        "priority": 10,
        "min_score": 0.5,
        "classes": ["car"],
        "labels": {"floor": "2", "ö": "✓"},
    }
    full = await shared.register("full", password="hunter2", **given)
    assert {key: full[key] for key in given} == given
    assert full["password_set"] is True
    assert "password" not in full


@on_shared
async def test_a_running_camera_s_status_is_complete(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50&width=640&height=360")
    await shared.wait_published("gate-1", 5)

    async def measured() -> Any:
        status = (await shared.camera("gate-1"))["status"]
        return status if status["measured_fps"] == pytest.approx(50, rel=0.3) else None

    # A busy machine adds some jitter.
    status: Any = await wait_until(measured, what="its 50 frames a second are measured")
    assert status["state"] == "running"
    assert (status["error"], status["retry_in_s"], status["restarts"]) == (None, None, 0)
    assert (status["decoder"], status["codec"], status["width"], status["height"]) == (
        "synthetic",
        "synthetic",
        640,
        360,
    )
    assert status["declared_fps"] == 50
    assert status["inferred_fps"] > 0
    assert status["since"] <= status["last_frame_at"]
    assert status["since"].endswith("Z")
    frames = status["frames"]
    assert set(frames["dropped"]) == {
        "rate_limit",
        "still",
        "degraded",
        "replaced",
        "stale",
        "infer_failed",
        "publish_failed",
        "shutdown",
    }
    assert frames["decoded"] == frames["published"] + sum(frames["dropped"].values()) + frames["in_flight"]


@on_shared
@pytest.mark.parametrize("code", ["auth_failed", "unsupported_codec", "end_of_stream"])
async def test_a_failing_camera_says_why_and_when_it_tries_again(shared: RunningApp, code: str) -> None:
    await shared.register("gate-1", f"fail={code}")
    status = (await shared.wait_state("gate-1", "retrying"))["status"]
    assert status["error"]["code"] == code
    assert status["error"]["message"]
    assert 0 <= status["retry_in_s"] <= 4
    assert status["restarts"] >= 1
    assert status["measured_fps"] == status["inferred_fps"] == 0


@on_shared
async def test_a_disabled_camera_is_not_watched(shared: RunningApp) -> None:
    camera = await shared.register("gate-1", enabled=False)
    assert camera["status"]["state"] == "disabled"
    assert camera["status"]["frames"]["decoded"] == 0


@on_shared
async def test_the_list_is_an_array_in_the_order_of_registration(shared: RunningApp) -> None:
    assert (await shared.http.get(f"{API}/cameras")).json() == []
    for name in ("b", "a", "c"):
        await shared.register(name, enabled=False)
    listed = (await shared.http.get(f"{API}/cameras")).json()
    assert [camera["id"] for camera in listed] == ["b", "a", "c"]
    assert set(listed[0]) == CAMERA_FIELDS


# Change


@on_shared
async def test_min_score_takes_effect_with_the_next_frame_and_without_a_reconnect(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50")
    await shared.wait_published("gate-1")
    before = (await shared.wait_state("gate-1", "running"))["status"]
    await shared.patch("gate-1", min_score=0.95)  # the synthetic object's score is 0.9
    assert await _next(shared, "gate-1") == []
    await shared.patch("gate-1", min_score=0.5)
    assert len(await _next(shared, "gate-1")) == 1
    after = (await shared.camera("gate-1"))["status"]
    assert (after["state"], after["since"], after["restarts"]) == ("running", before["since"], 0)


@on_shared
async def test_classes_take_effect_with_the_next_frame_and_without_a_reconnect(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50")
    await shared.wait_published("gate-1")
    before = (await shared.wait_state("gate-1", "running"))["status"]
    await shared.patch("gate-1", classes=["car"])
    assert await _next(shared, "gate-1") == []
    await shared.patch("gate-1", classes=None)
    assert len(await _next(shared, "gate-1")) == 1
    after = (await shared.camera("gate-1"))["status"]
    assert (after["since"], after["restarts"]) == (before["since"], 0)


async def _next(running: RunningApp, camera_id: str) -> Any:
    """What is found in the first frame that comes from now on."""
    decoded, history = running.parts.registry.get(camera_id).lane.counts().decoded, running.parts.hub.history

    def later() -> list[Any]:
        return [each.message["detections"] for each in history.newest(camera_id, limit=1000) if each.seq > decoded]

    return (await wait_until(later, what="a frame comes"))[0]


@on_shared
async def test_a_rate_limit_takes_effect_without_a_reconnect(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100")
    since = (await shared.wait_state("gate-1", "running"))["status"]["since"]
    await shared.patch("gate-1", max_fps=5)
    lane = shared.parts.registry.get("gate-1").lane
    await wait_until(lambda: lane.counts().dropped["rate_limit"] > 20)
    assert (await shared.camera("gate-1"))["status"]["since"] == since


@on_shared
async def test_the_motion_gate_takes_effect_without_a_reconnect_and_shows_in_the_status(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&still=1")
    before = (await shared.wait_state("gate-1", "running"))["status"]
    assert before["motion"] is None
    changed = await shared.patch("gate-1", motion={"hold_s": 0})
    assert changed["motion"] == {"sensitivity": 0.5, "heartbeat_s": 5.0, "hold_s": 0.0}
    lane = shared.parts.registry.get("gate-1").lane
    await wait_until(lambda: lane.counts().dropped["still"] > 20)
    after = (await shared.camera("gate-1"))["status"]
    assert after["since"] == before["since"] <= after["motion"]["since"]
    assert after["motion"]["still"] is True
    assert (await shared.patch("gate-1", motion=None))["motion"] is None
    await wait_until(lambda: lane.motion is None)
    dropped = lane.counts().dropped["still"]
    published = lane.counts().published
    await wait_until(lambda: lane.counts().published > published + 20)
    assert lane.counts().dropped["still"] == dropped


@on_shared
async def test_a_moving_scene_passes_the_motion_gate_whole(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100", motion={})
    await shared.wait_published("gate-1", 150)
    status = (await shared.camera("gate-1"))["status"]
    assert status["frames"]["dropped"]["still"] == 0
    assert status["motion"]["still"] is False


@on_shared
async def test_a_new_url_reconnects_and_counts_on(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50&width=640&height=360")
    await shared.wait_published("gate-1", 3)
    before = (await shared.camera("gate-1"))["status"]
    changed = await shared.patch("gate-1", url="rtsp://camera.test/2?fps=50&width=320&height=200")
    assert changed["url"] == "rtsp://camera.test/2?fps=50&width=320&height=200"
    assert changed["status"]["state"] == "connecting"
    after = (await shared.wait_state("gate-1", "running"))["status"]
    assert after["since"] > before["since"]
    assert (after["width"], after["height"]) == (320, 200)
    assert after["frames"]["decoded"] >= before["frames"]["decoded"]
    assert after["restarts"] == 0


@on_shared
async def test_a_patch_leaves_alone_what_it_does_not_mention(shared: RunningApp) -> None:
    before = await shared.register("gate-1", enabled=False, priority=9, labels={"a": "b"}, password="hunter2")
    after = await shared.patch("gate-1", name="New")
    assert {**after, "status": None, "name": "gate-1"} == {**before, "status": None}
    assert (await shared.patch("gate-1"))["name"] == "New"
    assert (await shared.patch("gate-1", labels={"c": "d"}))["labels"] == {"c": "d"}
    assert (await shared.patch("gate-1", password=None))["password_set"] is False


@on_shared
async def test_a_replacement_resets_what_it_does_not_mention_but_keeps_the_password(shared: RunningApp) -> None:
    await shared.register("gate-1", enabled=False, priority=9, labels={"a": "b"}, password="hunter2", username="admin")
    body = {"url": "rtsp://camera.test/2", "enabled": False}
    response = await shared.http.put(f"{API}/cameras/gate-1", json=body)
    assert response.status_code == 200
    replaced = response.json()
    assert (replaced["priority"], replaced["labels"], replaced["username"]) == (5, {}, None)
    assert replaced["url"] == "rtsp://camera.test/2"
    assert replaced["password_set"] is True
    assert shared.parts.registry.request(shared.parts.registry.get("gate-1").settings).password == "hunter2"
    response = await shared.http.put(f"{API}/cameras/gate-1", json={**body, "password": None})
    assert response.json()["password_set"] is False


@on_shared
async def test_a_camera_is_switched_off_and_on(shared: RunningApp) -> None:
    await shared.register("gate-1")
    await shared.wait_state("gate-1", "running")
    assert (await shared.patch("gate-1", enabled=False))["status"]["state"] == "disabled"
    assert (await shared.patch("gate-1", enabled=True))["status"]["state"] == "connecting"
    await shared.wait_state("gate-1", "running")


@on_shared
async def test_restart_reconnects_now(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=50&after=2&fail=auth_failed")
    lane = shared.parts.registry.get("gate-1").lane
    for number in range(1, 4):
        await shared.wait_state("gate-1", "retrying")
        response = await shared.http.post(f"{API}/cameras/gate-1/restart")
        assert response.status_code == 200
        assert response.json()["status"]["state"] == "connecting"
        await wait_until(lambda number=number: lane.counts().decoded >= 2 * (number + 1))  # type: ignore[misc]


@on_shared
async def test_a_removed_camera_is_gone_everywhere(shared: RunningApp) -> None:
    await shared.register("gate-1")
    await shared.wait_published("gate-1")
    camera = shared.parts.registry.get("gate-1")
    response = await shared.http.delete(f"{API}/cameras/gate-1")
    assert (response.status_code, response.content) == (204, b"")
    for path in ("", "/detections", "/snapshot.jpg"):
        assert (await shared.http.get(f"{API}/cameras/gate-1{path}")).status_code == 404
    assert (await shared.http.get(f"{API}/detections/latest")).json() == []
    assert "gate-1" not in await shared.metrics()
    await asyncio.wait_for(camera.ended.wait(), 10)
    assert camera.lane.counts().in_flight == 0


@on_shared
async def test_a_camera_that_comes_back_under_its_old_name_starts_anew(shared: RunningApp) -> None:
    await shared.register("gate-1")
    await shared.wait_published("gate-1", 10)
    await shared.remove("gate-1")
    again = await shared.register("gate-1", "after=1&hang=1")
    assert again["status"]["frames"]["decoded"] <= 1
    await shared.wait_published("gate-1")
    kept = (await shared.http.get(f"{API}/cameras/gate-1/detections")).json()
    assert [result["seq"] for result in kept] == [1]


# Results


@on_shared
async def test_results_have_the_shape_of_the_websocket_message(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&width=640&height=360")
    await shared.wait_published("gate-1", 5)
    results = (await shared.http.get(f"{API}/cameras/gate-1/detections")).json()
    assert all(set(result) == RESULT_FIELDS for result in results)
    result = results[-1]
    assert (result["type"], result["version"], result["camera_id"], result["clock"]) == (
        "detections",
        1,
        "gate-1",
        "arrival",
    )
    assert set(result["timing_ms"]) == {"decode", "queue", "preprocess", "infer", "postprocess", "total"}
    assert result["timing_ms"]["total"] >= result["timing_ms"]["infer"] > 0
    (found,) = result["detections"]
    assert set(found) == {"box", "score", "class_id", "label", "track_id"}
    x1, y1, x2, y2 = found["box"]
    assert 0 <= x1 < x2 <= 640
    assert 0 <= y1 < y2 <= 360
    assert (found["label"], found["track_id"]) == ("person", None)


async def test_the_newest_results_come_oldest_first_with_a_limit_and_a_start(start_app: StartApp) -> None:
    running = await start_app(history={"size": 8})
    await running.register("gate-1", "fps=100")
    await running.wait_published("gate-1", 10)
    await running.patch("gate-1", enabled=False)
    camera = running.parts.registry.get("gate-1")
    await wait_until(lambda: camera.ended.is_set() and camera.lane.counts().in_flight == 0)

    async def seqs(query: str = "") -> list[int]:
        response = await running.http.get(f"{API}/cameras/gate-1/detections{query}")
        assert response.status_code == 200
        return [result["seq"] for result in response.json()]

    every = await seqs()
    assert every == sorted(every)
    assert len(every) == 8
    assert await seqs("?limit=3") == every[-3:]
    assert await seqs(f"?since_seq={every[4]}") == every[5:]
    assert await seqs(f"?since_seq={every[1]}&limit=2") == every[-2:]
    assert await seqs(f"?since_seq={every[-1]}") == []
    assert await seqs("?since_seq=0") == every
    assert await seqs(f"?since_seq={10**30}") == []


@on_shared
async def test_latest_gives_the_newest_of_every_camera_that_has_one(shared: RunningApp) -> None:
    assert (await shared.http.get(f"{API}/detections/latest")).json() == []
    await shared.register("b")
    await shared.register("a")
    await shared.register("dead", "fail=dns_failed")
    await shared.wait_published("a")
    await shared.wait_published("b")
    response = await shared.http.get(f"{API}/detections/latest")
    assert response.headers["content-type"] == "application/json"
    assert [result["camera_id"] for result in response.json()] == ["b", "a"]


@on_shared
async def test_a_snapshot_is_a_jpeg_with_boxes_unless_unwanted(shared: RunningApp) -> None:
    await shared.register("gate-1", "fps=100&after=3&hang=1&width=320&height=200")
    lane = shared.parts.registry.get("gate-1").lane
    await wait_until(lambda: lane.counts().decoded == 3 and lane.counts().in_flight == 0)
    response = await shared.http.get(f"{API}/cameras/gate-1/snapshot.jpg")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["cache-control"] == "no-store"
    assert int(response.headers["x-frame-seq"]) >= 1
    assert response.headers["x-captured-at"].endswith("Z")
    bare = await shared.http.get(f"{API}/cameras/gate-1/snapshot.jpg?overlay=false")

    def pixels(data: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    drawn, plain = pixels(response.content), pixels(bare.content)
    assert drawn.shape == plain.shape == (200, 320, 3)
    assert (np.abs(drawn.astype(int) - plain) > 60).any()


@on_shared
async def test_a_camera_without_a_picture_is_not_ready(shared: RunningApp) -> None:
    await shared.register("gate-1", "fail=dns_failed")
    response = await shared.http.get(f"{API}/cameras/gate-1/snapshot.jpg")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")


# What runs here


@on_shared
async def test_models_describes_the_loaded_model(shared: RunningApp) -> None:
    (model,) = (await shared.http.get(f"{API}/models")).json()
    assert model["name"] == "synthetic"
    assert len(model["sha256"]) == 64
    assert (model["family"], model["precision"], model["backend"]) == ("synthetic", "none", "synthetic")
    assert (model["input_width"], model["input_height"]) == (640, 640)
    assert model["classes"] == list(CLASSES)
    assert model["batch_sizes"] == [1, 16]


@on_shared
async def test_system_says_what_runs_and_why_and_what_every_other_backend_lacks(shared: RunningApp) -> None:
    system = (await shared.http.get(f"{API}/system")).json()
    assert (system["version"], system["state"]) == (__version__, "ready")
    assert system["backend"] == {"name": "synthetic", "reason": "backend.device is synthetic"}
    assert {backend["name"] for backend in system["backends"]} == {"cuda", "cpu", "synthetic"}
    assert all(backend["reason"] for backend in system["backends"])
    assert system["uptime_s"] >= 0


async def test_system_and_capacity_show_the_newest_reading_of_each_gpu(start_app: StartApp) -> None:
    running = await start_app(GpuBackend(make_gpu(0, power_watts=None), make_gpu(1)))
    await wait_until(lambda: len(running.service.samples.gpus) == 2)
    for path in ("system", "capacity"):
        gpus = (await running.http.get(f"{API}/{path}")).json()["gpus"]
        assert [gpu["index"] for gpu in gpus] == [0, 1]
        assert gpus[0] == {
            "index": 0,
            "name": "NVIDIA L4",
            "uuid": "GPU-0",
            "utilization_ratio": 0.75,
            "decoder_utilization_ratio": 0.5,
            "memory_used_bytes": 3 << 30,
            "memory_total_bytes": 24 << 30,
            "power_watts": None,
            "temperature_celsius": 58.0,
            "sm_clock_mhz": 1905.0,
            "throttle_reasons": ["sw_power_cap"],
        }


@on_shared
async def test_a_backend_without_a_gpu_shows_none(shared: RunningApp) -> None:
    for path in ("system", "capacity"):
        assert (await shared.http.get(f"{API}/{path}")).json()["gpus"] == []


async def test_capacity_says_what_is_used_and_left_and_how_it_was_measured(start_app: StartApp) -> None:
    running = await start_app(SyntheticBackend(SyntheticDetector(contexts=1, max_batch=4, base_s=0.1, frame_s=0.1)))
    await running.register("off", enabled=False)
    await running.register("gate-1", "fps=5")
    await running.wait_published("gate-1", 2)
    capacity = (await running.http.get(f"{API}/capacity")).json()
    assert capacity["cameras"] == 1
    assert capacity["inference"]["capacity_fps"] == 8.0
    assert capacity["inference"]["left_fps"] == pytest.approx(8 - capacity["inference"]["used_fps"], abs=0.11)
    assert capacity["room_for"] == 7
    assert (capacity["least_fps"], capacity["refusal"]) == (1.0, None)
    assert capacity["decode"]["cores"] >= 1
    assert capacity["memory"]["used_bytes"] > 1e6
    assert all(capacity[part]["measured"] for part in ("decode", "inference", "memory"))


@on_shared
async def test_probes_page_and_documentation_are_there(shared: RunningApp) -> None:
    assert (await shared.http.get("/livez")).json() == {"status": "ok"}
    assert (await shared.http.get("/readyz")).json() == {"status": "ready"}
    for path in ("/", "/docs"):
        response = await shared.http.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")


@on_shared
async def test_readiness_does_not_wait_for_cameras(shared: RunningApp) -> None:
    await shared.register("dead", "fail=connect_timeout")
    await shared.wait_state("dead", "retrying")
    assert (await shared.http.get("/readyz")).status_code == 200


async def test_until_the_engine_is_warm_only_the_process_answers(start_app: StartApp) -> None:
    backend = SlowOpeningBackend()
    running = await start_app(backend, wait_ready=False)
    try:
        assert (await running.http.get("/livez")).status_code == 200
        for path in ("/readyz", f"{API}/cameras", f"{API}/capacity", f"{API}/models", f"{API}/detections/latest"):
            response = await running.http.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready"), path
            assert response.headers["retry-after"] == "2"
        assert (await running.http.get(f"{API}/system")).json()["state"] == "starting"
    finally:
        backend.go_on.set()
    await wait_until(lambda: running.service.state == "ready")
    assert (await running.http.get("/readyz")).status_code == 200


@on_shared
async def test_the_openapi_document_names_every_route_and_shape(shared: RunningApp) -> None:
    document = (await shared.http.get("/openapi.json")).json()
    assert {
        f"{API}/cameras": {"get", "post"},
        f"{API}/cameras/{{camera_id}}": {"get", "put", "patch", "delete"},
        f"{API}/cameras/{{camera_id}}/restart": {"post"},
        f"{API}/cameras/{{camera_id}}/detections": {"get"},
        f"{API}/cameras/{{camera_id}}/snapshot.jpg": {"get"},
        f"{API}/detections/latest": {"get"},
        f"{API}/diagnose": {"post"},
        f"{API}/capacity": {"get"},
        f"{API}/models": {"get"},
        f"{API}/system": {"get"},
        "/livez": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    } == {path: set(operations) for path, operations in document["paths"].items()}
    schemas = document["components"]["schemas"]
    assert set(schemas["CameraView"]["properties"]) == CAMERA_FIELDS
    assert set(schemas["StatusView"]["properties"]) == STATUS_FIELDS
    assert set(schemas["ResultView"]["properties"]) == RESULT_FIELDS
    problem = document["paths"][f"{API}/cameras"]["post"]["responses"]["409"]["content"]
    assert list(problem) == ["application/problem+json"]


# Many cameras, one after another


@on_shared
async def test_a_hundred_cameras_come_and_go_without_a_trace(shared: RunningApp) -> None:
    process = psutil.Process()
    registry = shared.parts.registry

    async def cycle(number: int) -> None:
        await shared.register("gate-1", "fps=200", password=f"secret-{number}", labels={"n": str(number)})
        camera = registry.get("gate-1")
        await wait_until(lambda: camera.lane.counts().published >= 1)
        await shared.remove("gate-1")
        await asyncio.wait_for(camera.ended.wait(), 10)

    def measure() -> tuple[int, int, int]:
        return process.num_threads(), process.num_fds(), process.memory_info().rss

    for number in range(10):  # pools and caches fill up once
        await cycle(number)
    threads, fds, memory = await asyncio.to_thread(measure)
    for number in range(100):
        await cycle(number)

    async def as_before() -> Any:
        threads_after, fds_after, _ = await asyncio.to_thread(measure)
        return threads_after <= threads + 1 and fds_after <= fds + 1  # a pool may still be growing

    await wait_until(as_before, what=f"there are {threads} threads and {fds} descriptors again")
    assert (await asyncio.to_thread(measure))[2] - memory < 6e6


@on_shared
async def test_registering_cameras_does_not_disturb_one_that_runs(shared: RunningApp) -> None:
    await shared.register("steady", "fps=50")
    await shared.wait_published("steady", 10)
    before = (await shared.camera("steady"))["status"]
    await asyncio.gather(*(shared.register(f"other-{n}", "fail=auth_failed") for n in range(20)))
    await shared.remove(*(f"other-{n}" for n in range(20)))
    after = (await shared.camera("steady"))["status"]
    assert (after["since"], after["restarts"]) == (before["since"], 0)
    await shared.wait_published("steady", after["frames"]["published"] + 5)


async def test_cameras_survive_a_restart_of_the_service(data_dir: Path, start_app: StartApp) -> None:
    first = await start_app()
    await first.register("gate-1", "fps=50", password="hunter2", classes=["person"], max_fps=7)
    await first.register("off", enabled=False)
    expected = [await first.camera("gate-1"), await first.camera("off")]
    await first.stop()
    second = await start_app()
    listed = (await second.http.get(f"{API}/cameras")).json()
    assert [{**camera, "status": None} for camera in listed] == [{**camera, "status": None} for camera in expected]
    await second.wait_state("gate-1", "running")


@on_shared
async def test_bodies_are_json_in_utf_8_whatever_the_environment(shared: RunningApp) -> None:
    body = json.dumps({"url": "rtsp://camera.test/1", "name": "Tür", "enabled": False}, ensure_ascii=False).encode()
    response = await shared.http.post(f"{API}/cameras", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 201
    assert response.json()["name"] == "Tür"
    assert response.json()["id"] == "tur"
