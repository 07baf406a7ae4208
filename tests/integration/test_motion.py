"""The motion gate on RTSP cameras that are decoded in software, and on real videos."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from app.backends.ffmpeg.source import PyavSource
from app.backends.ffmpeg.surface import HostSurface
from app.backends.synthetic.backend import SyntheticBackend
from app.cameras.motion import MotionGate
from app.cameras.settings import MotionSettings
from app.cameras.source import SourceRequest
from app.measure.still import still_clip
from app.simulator.clip import load_clip
from app.simulator.server import RtspServer
from app.types import SourceFrame
from tests.support.app import API, StartApp
from tests.support.clips import write_test_clip
from tests.support.fakes import CrowdDetector, make_times
from tests.support.wait import wait_until

pytestmark = pytest.mark.alone  # it counts what a busy camera gets through

FPS = 25
ASSETS = Path(os.environ.get("VIDETTE_ASSETS", ""))


class SoftwareCameras(SyntheticBackend):
    """Cameras as on the CPU; a detector that finds something in every frame that it is given."""

    def __init__(self) -> None:
        super().__init__(CrowdDetector(count=1))

    def open_source(self, request: SourceRequest) -> Any:
        return PyavSource(request)


async def test_a_still_camera_publishes_heartbeats_and_a_moving_one_everything(
    start_app: StartApp, tmp_path: Path
) -> None:
    moving = await asyncio.to_thread(write_test_clip, tmp_path / "moving.mp4", fps=FPS, gop=FPS)
    still = await asyncio.to_thread(still_clip, moving, tmp_path / "still.mp4")
    clips = [await asyncio.to_thread(load_clip, path) for path in (moving, still)]
    running = await start_app(SoftwareCameras())
    async with RtspServer() as server:
        for clip in clips:
            server.add_camera(clip.name, clip)
            body = {"id": clip.name, "url": server.url(clip.name), "motion": {"heartbeat_s": 1.0, "hold_s": 0.5}}
            assert (await running.http.post(f"{API}/cameras", json=body)).status_code == 201
        lanes = {clip.name: running.parts.registry.get(clip.name).lane for clip in clips}
        await wait_until(lambda: lanes["still"].counts().dropped["still"] > 0)
        before = lanes["still"].counts()
        await wait_until(lambda: lanes["still"].counts().dropped["still"] > 5 * FPS)
        after, all_of_it = lanes["still"].counts(), lanes["moving"].counts()
        seen = {clip.name: (await running.camera(clip.name))["status"]["motion"]["still"] for clip in clips}
        await running.clear()
    assert after.published - before.published in range(4, 8)
    assert all_of_it.dropped["still"] == 0 and all_of_it.published > 5 * FPS
    assert seen == {"still": True, "moving": False}
    for lane in lanes.values():
        ended = lane.counts()
        assert ended.decoded == ended.published + sum(ended.dropped.values())


def frames_of(path: Path) -> Iterator[SourceFrame[HostSurface]]:
    """A video's frames as a source gives them, dated by its own clock."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        video.codec_context.copy_opaque = True
        for packet in container.demux(video):
            packet.opaque = (packet.size, packet.is_keyframe)
            for picture in packet.decode():
                size, is_key = picture.opaque if isinstance(picture.opaque, tuple) else (0, False)
                yield SourceFrame(
                    pts_s=picture.time,
                    times=make_times(picture.time or 0.0),
                    surface=HostSurface(picture),
                    packet_bytes=size,
                    is_key=is_key,
                )


@pytest.mark.assets
@pytest.mark.skipif("VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS is not set")
@pytest.mark.parametrize(
    ("name", "most"), [("intel_one-by-one-person-detection.mp4", 0.99), ("retail02_720p15_h264.mp4", 1.0)]
)
def test_no_frame_with_a_person_is_held_back(name: str, most: float) -> None:
    reference = json.loads((ASSETS / "reference" / f"{name}.yolox_nano_416.json").read_text(encoding="utf-8"))
    gate, settings = MotionGate(), MotionSettings()
    passed = [gate.admits(frame, settings) for frame in frames_of(ASSETS / "videos" / name)]
    people = [any(label == "person" for label, *_ in frame["dets"]) for frame in reference["frames"]]
    assert len(passed) == len(people)
    assert not [number for number, (went, person) in enumerate(zip(passed, people, strict=True)) if person and not went]
    assert sum(passed) <= most * len(passed)
