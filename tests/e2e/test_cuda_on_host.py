"""The main job through the CUDA backend, without a GPU: only the device, TensorRT and NVDEC are stood in for.

Cameras over RTSP, the demuxer, the rings, the kernels (compiled for the host), the contexts with their graphs, the
batcher and the WebSocket are what runs on a GPU too.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.simulator.process import SimulatorProcess
from tests.e2e.test_real_models import best_alignment, clip
from tests.support.app import RunningApp, StartApp, make_settings
from tests.support.host_backend import host_backend
from tests.support.host_driver import HostDriver
from tests.support.reference import Reference, pictures
from tests.support.wait import wait_until

__all__ = ["clip"]  # the fixture

pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(
        "VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS names no folder of models and videos"
    ),
]
ASSETS = Path(os.environ.get("VIDETTE_ASSETS", "."))
MODEL = "yolox_nano_416"
WANTED_FRAMES = 20


@pytest.fixture
def simulator(clip: Path) -> Iterator[SimulatorProcess]:
    with SimulatorProcess([clip], cameras=2) as simulator:
        yield simulator


async def results(running: RunningApp, camera_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with running.socket(f"?camera={camera_id}&mode=all&min_score=0.25") as stream:
        while len(found) < WANTED_FRAMES:
            message = json.loads(await asyncio.wait_for(stream.recv(), 20))
            if message["type"] == "detections" and message["pts_s"] is not None:
                found.append(message)
    return found


@pytest.mark.parametrize("decoder", ["nvdec", "software"])
async def test_boxes_over_websocket_match_the_reference(
    decoder: str, data_dir: Path, start_app: StartApp, clip: Path, simulator: SimulatorProcess
) -> None:
    sections: dict[str, Any] = {
        "model": str(ASSETS / f"models/{MODEL}.onnx"),
        "batching": {"max_size": 4, "max_age_ms": 60_000},
    }
    driver = HostDriver()
    cuda = {"device": "cuda", "decoder": decoder, "contexts": 2}
    backend = host_backend(await asyncio.to_thread(make_settings, data_dir, backend=cuda, **sections), driver)
    running = await start_app(backend, **sections)
    for camera_id in ("one", "two"):
        body = {"id": camera_id, "url": simulator.url(f"cam{0 if camera_id == 'one' else 1}")}
        assert (await running.http.post("/api/v1/cameras", json=body)).status_code == 201
    messages = await results(running, "one")
    status = (await running.camera("two"))["status"]
    assert (status["state"], status["decoder"]) == ("running", decoder)
    (model,) = (await running.http.get("/api/v1/models")).json()
    assert model["backend"] == "tensorrt" and model["contexts"] == 2
    snapshot = await running.http.get("/api/v1/cameras/two/snapshot.jpg")
    assert snapshot.status_code == 200 and snapshot.content.startswith(b"\xff\xd8")
    await running.stop()
    await wait_until(lambda: not driver.left_open, what="every block, stream and graph of the device is closed")

    reference = await asyncio.to_thread(Reference, ASSETS / f"models/{MODEL}.onnx")
    wanted = [reference.detect(picture, min_score=0.4) for _, picture in pictures(clip, 10_000)]
    hits, total = best_alignment(messages, wanted, fps=15)
    assert total > WANTED_FRAMES, "the reference sees too little for the comparison to mean anything"
    assert hits / total >= 0.95, f"{hits} of {total} boxes"
