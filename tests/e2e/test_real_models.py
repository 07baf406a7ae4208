"""The main job on real input: video over RTSP, real models, boxes over WebSocket against an independent reference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from websockets.sync.client import connect

from app.simulator.process import SimulatorProcess
from tests.support.reference import RECIPES, Found, Reference, overlap, pictures
from tests.support.serve_process import ServeProcess

pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(
        "VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS names no folder of models and videos"
    ),
]
ASSETS = Path(os.environ.get("VIDETTE_ASSETS", "."))
CLIP_S = 4.0
WANTED_FRAMES = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first seconds of the shop, cut before a keyframe and not encoded again."""
    path = tmp_path_factory.mktemp("clips") / "shop.mp4"
    with av.open(str(ASSETS / "videos/retail02_720p15_h264.mp4")) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        packets = source.demux(video)
        for packet in packets:
            if packet.dts is None or (packet.is_keyframe and float(packet.pts * packet.time_base) >= CLIP_S):
                break
            packet.stream = copy
            target.mux(packet)
        packets.close()
    return path


@pytest.fixture(scope="module")
def simulator(clip: Path) -> Iterator[SimulatorProcess]:
    with SimulatorProcess([clip], cameras=1) as simulator:
        yield simulator


def results(service: ServeProcess, camera_id: str, count: int) -> list[dict[str, Any]]:
    """The next `count` results of a camera, as a client sees them."""
    found: list[dict[str, Any]] = []
    with connect(f"{service.ws_url}?camera={camera_id}&mode=all&min_score=0.25") as stream:
        while len(found) < count:
            message = json.loads(stream.recv(timeout=20))
            if message["type"] == "detections" and message["pts_s"] is not None:
                found.append(message)
    return found


def matched(message: dict[str, Any], wanted: Found) -> int:
    """How many of the wanted boxes the message has: same class, IoU of at least 0.9."""
    return sum(
        any(one["class_id"] == class_id and overlap(one["box"], box) >= 0.9 for one in message["detections"])
        for class_id, _, box in wanted
    )


def best_alignment(messages: list[dict[str, Any]], reference: list[Found], fps: float) -> tuple[int, int]:
    """(matched, wanted) boxes for the place in the looping clip where the messages fit best.

    The stream's clock tells how far apart frames are, not where in the clip the first one was.
    """
    steps = [round((message["pts_s"] - messages[0]["pts_s"]) * fps) for message in messages]
    best = (0, 1)
    for start in range(len(reference)):
        wanted = [reference[(start + step) % len(reference)] for step in steps]
        hits = sum(matched(message, boxes) for message, boxes in zip(messages, wanted, strict=True))
        total = sum(map(len, wanted))
        if hits / max(1, total) > best[0] / best[1]:
            best = (hits, total)
    return best


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_boxes_over_websocket_match_the_reference(
    model: str, tmp_path: Path, clip: Path, simulator: SimulatorProcess
) -> None:
    path = ASSETS / f"models/{model}.onnx"
    with ServeProcess(tmp_path / "data", "--model", str(path)) as service:
        service.register(id="shop", url=simulator.url("cam0"))
        messages = results(service, "shop", WANTED_FRAMES)
        assert service.terminate() == 0
    assert {(message["width"], message["height"]) for message in messages} == {(1280, 720)}
    reference = Reference(path)
    wanted = [reference.detect(picture, min_score=0.4) for _, picture in pictures(clip, 10_000)]
    hits, total = best_alignment(messages, wanted, fps=15)
    assert total > WANTED_FRAMES, "the reference sees too little for the comparison to mean anything"
    assert hits / total >= 0.95, f"{hits} of {total} boxes"
