"""Vidette as a contestant: the whole service in a process of its own, with one subscriber to everything.

    python -m app.measure.peers.vidette JOB

Then, without the service, the limit of the same decoders and execution contexts, and their average precision. Options:
`precision`: fp32, or auto for what the service chooses itself; `engines_dir`: where built engines lie; `phases_s`: of
the limit's cameras; `limit_s`: how long it is measured, 0 not; `images`: a folder with labels, or none.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from app.backends.cpu.backend import CpuBackend
from app.backends.cpu.detector import CpuDetector, open_runners
from app.backends.cpu.runner import BatchRunner
from app.backends.ffmpeg.surface import HostSurface
from app.backends.select import Choice
from app.cameras.settings import CameraRegistration
from app.errors import ConfigError
from app.inference.average_precision import Claims, Truth, average_precision
from app.inference.labelled import claims_of, read_labelled
from app.logs import configure_logging
from app.measure.limit import LimitPlan, measure_limit
from app.measure.peers.job import Answer, Job, Seen
from app.measure.peers.recording import rows
from app.measure.workload import OpenedBackend, run_on_loop, running, subscriber
from app.results.hub import ResultHub
from app.results.wire import Result
from app.service import Service
from app.settings import Settings, load_settings
from app.types import EngineInfo, Frame, FrameTimes

_TAKE_S = 0.1
_AP_MIN_SCORE = 0.001  # COCO's AP counts what a detector would rather not say, too
_NO_TIMES = FrameTimes(arrived_at=0.0, decoded_at=0.0, decode_s=0.0, captured_utc=0.0, clock="arrival")


def main() -> None:
    configure_logging("error")
    job = Job.from_arguments()
    with tempfile.TemporaryDirectory(prefix="vidette-peers-") as folder:
        settings = _settings(job, Path(folder))
        info, runners = _open(settings, Path(job.options["engines_dir"]))
        service = Service(settings, choice=_choice(settings, info, runners))
        results = run_on_loop(_serve(service, job))
        limit_fps = _limit_fps(job, settings, info, runners) if job.options["limit_s"] else None
    images = job.options["images"]
    ap = None if images is None else _average_precision(Path(images), info, runners[0])
    engine = asdict(info)
    del engine["classes"]
    Answer(list(_seen(results)), {"engine": engine, "limit_fps": limit_fps, "ap": ap}).write(job.answer)


def _settings(job: Job, data_dir: Path) -> Settings:
    return load_settings(
        overrides={
            "data_dir": data_dir,
            "model": job.model,
            "min_score": job.min_score,
            "iou": job.iou,
            "backend": {"device": "cpu", "precision": job.options["precision"]},
            "cameras": {"declared": ()},
        }
    )


def _open(settings: Settings, engines_dir: Path) -> tuple[EngineInfo, list[BatchRunner]]:
    """What the cpu backend opens, kept in our hands: the limit is measured with the same execution contexts."""
    contexts, precision, engine = settings.backend.contexts, settings.backend.precision, settings.backend.engine
    return open_runners(
        settings.model,
        settings.models_dir,
        max_batch=settings.batching.max_size,
        iou=settings.iou,
        contexts=None if contexts == "auto" else contexts,
        precision=None if precision == "auto" else precision,
        engine=None if engine == "auto" else engine,
        engines_dir=engines_dir,
    )


def _choice(settings: Settings, info: EngineInfo, runners: list[BatchRunner]) -> Choice:
    backend = OpenedBackend(CpuBackend(settings), lambda: CpuDetector(info, runners, name="cpu-detector"))
    return Choice(backend=backend, reason="measured", availability=())


async def _serve(service: Service, job: Job) -> list[Result]:
    """Run until our standard input ends; every result."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(ended,), name="peers:end", daemon=True).start()
    taken: list[Result] = []
    newest = dict.fromkeys(job.cameras, 0)
    async with running(service) as parts, subscriber(parts.hub):
        for name, url in job.cameras.items():
            await parts.registry.add(CameraRegistration(id=name, url=url))
        while not ended.is_set():
            await asyncio.sleep(_TAKE_S)
            if service.fatal is not None:
                raise service.fatal
            waiting = not all(newest.values())
            _take(parts.hub, newest, taken)
            if waiting and all(newest.values()):
                job.running.touch()
    return taken


def _wait_for_the_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _take(hub: ResultHub[Any], newest: dict[str, int], taken: list[Result]) -> None:
    history = hub.history
    for camera, seq in newest.items():
        found = history.newest(camera, limit=history.size, since_seq=seq)
        if found:
            taken += found
            newest[camera] = found[-1].seq


def _seen(results: Iterable[Result]) -> Iterable[Seen]:
    to_monotonic = time.monotonic() - time.time()
    for result in results:
        found = result.detections
        captured_at = found.times.captured_utc + to_monotonic if found.times.clock == "rtcp" else None
        boxes = rows(found.boxes, found.scores, found.class_ids)
        yield Seen(result.camera_id, result.published_at, None, captured_at, boxes)


def _limit_fps(job: Job, settings: Settings, info: EngineInfo, runners: list[BatchRunner]) -> float:
    batch = min(info.best_batch, settings.batching.max_size, len(job.cameras))
    run = measure_limit(
        LimitPlan(clip=Path(job.clip), phases_s=tuple(job.options["phases_s"]), batch=batch),
        open_source=CpuBackend(settings).open_source,
        runs=[runner.run for runner in runners],
        seconds=job.options["limit_s"],
    )
    return run.inferred_fps


def _average_precision(folder: Path, info: EngineInfo, runner: BatchRunner) -> float:
    """COCO AP of exactly what has just run, through its own preprocessing and suppression."""
    labelled = read_labelled(folder)
    categories = labelled.categories(info.classes)
    pairs: list[tuple[Truth, Claims]] = []
    for image in labelled.images:
        pixels = cv2.imread(str(image.path))
        if pixels is None:
            raise ConfigError(f"image {image.path} cannot be read")
        surface = HostSurface.from_bgr(np.asarray(pixels, dtype=np.uint8))
        frame = Frame(camera_id=image.path.name, seq=1, pts_s=None, times=_NO_TIMES, surface=surface)
        (found,) = runner.run([frame], [_AP_MIN_SCORE])
        pairs.append((image.truth, claims_of(found, categories)))
    return average_precision(pairs, categories.values()).ap


if __name__ == "__main__":
    main()
