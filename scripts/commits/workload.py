"""What `compare_commits.py` runs on each of two checkouts: CPU time of a frame in the core, the decoder, the detector.

Runs in a process of its own, with the checkout to be measured first on the path, so it uses only what both commits
have. Prints one line of JSON: microseconds by part, and for a part that this checkout cannot run, why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app.backends.cpu.detector import open_cpu_detector
from app.backends.ffmpeg.source import PyavSource
from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.lane import Lane
from app.cameras.source import SourceRequest
from app.errors import SourceError
from app.results.history import History
from app.results.hub import ResultHub
from app.results.subscription import Interest
from app.types import Detections, Frame, FrameTimes, SourceFrame, StageTimes

CAMERAS = 16
BATCH = 4
# Each part is measured in some pieces, of which the quickest counts: what else a machine does only ever adds.
PIECES = 6
CORE_ROUNDS = 50  # of a frame of each camera, in a piece
BATCHES = 4  # in a piece
STAGES = StageTimes(preprocess_s=0.0005, infer_s=0.004, postprocess_s=0.0002)


def main(clip: Path, model: str, models_dir: Path) -> None:
    parts: dict[str, Callable[[], float]] = {
        "core": lambda: asyncio.run(core()),
        "decode": lambda: decode(clip),
        "detect": lambda: asyncio.run(detect(clip, model, models_dir)),
    }
    print(json.dumps({name: _attempt(part) for name, part in parts.items()}), flush=True)
    # Everything is measured, and a commit that frees its contexts late would abort once in a while as it ends.
    os._exit(0)


def _attempt(part: Callable[[], float]) -> float | str:
    try:
        return part()
    except Exception as exc:  # whatever a commit of another time does not have
        return f"{type(exc).__name__}: {exc}"


async def core() -> float:
    """Mailbox, order, hub and one subscriber to everything: all that the event loop does with a frame."""
    hub: ResultHub[SyntheticSurface] = ResultHub(model="workload", classes=("object",), history=History(64))
    mailbox: Mailbox[SyntheticSurface] = Mailbox(BatchPolicy(), on_frame=lambda: None, contexts=2)
    lanes = [Lane(f"cam-{number}") for number in range(CAMERAS)]
    for lane in lanes:
        mailbox.add(lane)
    with hub.subscribed(Interest(mode="all")) as subscription:

        async def once() -> None:
            for lane in lanes:
                now = time.monotonic()
                mailbox.offer(lane, _synthetic(lane, now), now)
            batch, _ = mailbox.take(time.monotonic())
            assert batch is not None
            for frame, lane in zip(batch.frames, batch.lanes, strict=True):
                hub.started(lane, frame.seq)
            for frame, lane in zip(batch.frames, batch.lanes, strict=True):
                hub.finished(lane, frame, _found(frame), batch)
            for _ in batch.frames:
                await subscription.next()

        for _ in range(20):
            await once()
        pieces = []
        for _ in range(PIECES):
            began = time.process_time()
            for _ in range(CORE_ROUNDS):
                await once()
            pieces.append(time.process_time() - began)
    hub.snapshots.close()
    return 1e6 * min(pieces) / (CORE_ROUNDS * CAMERAS)


def decode(clip: Path) -> float:
    """From a file to released pictures."""
    pieces = []
    for _ in range(PIECES):
        began, count = time.process_time(), 0
        for frame in _decoded(clip):
            frame.surface.release()
            count += 1
        pieces.append((time.process_time() - began) / count)
    return 1e6 * min(pieces)


async def detect(clip: Path, model: str, models_dir: Path) -> float:
    """Scale, infer in one context in FP32, postprocess; without the start-up measurement."""
    loop = asyncio.get_running_loop()

    def opened() -> Any:
        return open_cpu_detector(model, models_dir, max_batch=BATCH, contexts=1, precision="fp32", tune=False)

    detector = await loop.run_in_executor(None, opened)
    frames = [
        Frame(camera_id=str(number), seq=1, pts_s=frame.pts_s, times=frame.times, surface=frame.surface)
        for number, frame in zip(range(BATCH), _decoded(clip), strict=False)
    ]
    try:
        for _ in range(3):
            await detector.detect(frames, min_scores=[0.25] * BATCH)
        pieces = []
        for _ in range(PIECES):
            began = time.process_time()
            for _ in range(BATCHES):
                await detector.detect(frames, min_scores=[0.25] * BATCH)
            pieces.append(time.process_time() - began)
        return 1e6 * min(pieces) / (BATCHES * BATCH)
    finally:
        await detector.aclose()


def _decoded(clip: Path) -> Iterator[SourceFrame[Any]]:
    request = SourceRequest(camera_id="workload", url=f"file:{clip.name}", media_dir=clip.parent)
    with contextlib.closing(PyavSource(request)) as source, contextlib.suppress(SourceError):  # the end of the file
        yield from source.frames()


def _synthetic(lane: Lane, now: float) -> Frame[SyntheticSurface]:
    times = FrameTimes(arrived_at=now, decoded_at=now, decode_s=0.001, captured_utc=1.8e9, clock="arrival")
    seq = lane.ledger.decoded()
    return Frame(camera_id=lane.camera_id, seq=seq, pts_s=now, times=times, surface=SyntheticSurface(640, 360, now))


def _found(frame: Frame[SyntheticSurface]) -> Detections:
    return Detections(
        camera_id=frame.camera_id,
        seq=frame.seq,
        pts_s=frame.pts_s,
        width=640,
        height=360,
        times=frame.times,
        stages=STAGES,
        boxes=np.array([[10, 20, 110, 220], [30, 40, 130, 240]], dtype=np.float32),
        scores=np.array([0.9, 0.6], dtype=np.float32),
        class_ids=np.zeros(2, dtype=np.int32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
