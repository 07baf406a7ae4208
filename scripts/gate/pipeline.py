"""The whole service on the device: packets in, serialised results out, measured by `app.measure.workload`.

Cameras are files of H.264 that are demuxed in real time, so no network and no simulator takes part; `over_rtsp` adds
both. A run is saturated when the cameras send more than the service infers: then its rate is the service's limit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import uvloop

from app.backends.select import Choice, choose
from app.logs import configure_logging
from app.measure.observation import ServiceFigures
from app.measure.workload import WorkloadPlan, WorkloadRun, measure_service
from app.service import Service
from app.settings import Settings, load_settings
from app.simulator.process import SimulatorProcess
from scripts.gate.clips import looped, source_clip
from scripts.gate.plan import GatePlan
from scripts.gate.sampler import sampled

CAMERAS = (1, 4, 16, 64)
BATCHES = (1, 4, 8, 16)
RTSP_CAMERAS = 16
_SECONDS = 10.0
_WARM_UP_S = 3.0
# What the cameras send together: more than the slower of NVDEC and the engine does, where those steps have told.
_OVERLOAD = 1.3
_UNTOLD_FPS = 8000.0
_MOST_FPS = 2000.0  # of one camera: more than one NVDEC engine decodes of one stream
_LOAD = 0.7
_SPARE_S = 25.0  # files last this much longer than the measurement: the start, the warm-up, the stop


def by_cameras(plan: GatePlan) -> dict[str, Any]:
    """Saturated with 1, 4, 16 and 64 cameras."""
    runs = [_saturated(plan, cameras=count) for count in CAMERAS]
    best = max(run["inferred_fps"] for run in runs)
    (plan.folder / "limit.txt").write_text(str(best), encoding="utf-8")
    return {"runs": runs, "inferred_fps": best}


def by_batch(plan: GatePlan) -> dict[str, Any]:
    """Saturated with 16 cameras and batches of at most 1, 4, 8 and 16."""
    runs = [_saturated(plan, cameras=16, max_size=size) for size in BATCHES]
    first = runs[0]["inferred_fps"]
    return {"runs": runs, "against_batch_1": {run["max_size"]: run["inferred_fps"] / first for run in runs}}


def at_load(plan: GatePlan) -> dict[str, Any]:
    """64 cameras that together send 70 % of the best rate that `by_cameras` reached."""
    limit = plan.folder / "limit.txt"
    if not limit.is_file():
        return {"failed": "the limit is not known: the pipeline step has no result"}
    offered = _LOAD * float(limit.read_text(encoding="utf-8"))
    run = _files(plan, cameras=64, fps=offered / 64)
    return {"load": _LOAD, "offered_fps": offered, "run": run, "p99_ms": run["latency_ms"]["p99"]}


def over_rtsp(plan: GatePlan) -> dict[str, Any]:
    """16 simulated RTSP cameras at the clip's own rate, in a process of their own."""
    clip = source_clip(plan)
    settings = gate_settings(plan)
    with SimulatorProcess() as simulator:
        urls = {
            f"cam-{number}": simulator.add_camera(f"cam-{number}", clip, phase_s=number / RTSP_CAMERAS)
            for number in range(RTSP_CAMERAS)
        }
        return {
            "cameras": RTSP_CAMERAS,
            **run_service(settings, urls, seconds=plan.seconds(_SECONDS), simulator_pid=simulator.pid),
        }


def _saturated(plan: GatePlan, *, cameras: int, max_size: int | None = None) -> dict[str, Any]:
    return _files(plan, cameras=cameras, fps=min(_MOST_FPS, offered_fps(plan) / cameras), max_size=max_size)


def offered_fps(plan: GatePlan) -> float:
    """What the cameras send together to saturate the service: from the steps that ran before, if they did."""
    told = plan.folder / "outcomes.json"
    outcomes = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else []
    results = {each["name"]: each["result"] for each in outcomes if each["state"] == "ok" and each["result"]}
    limits = [
        results[step][key] for step, key in (("engine", "images_per_second"), ("nvdec", "fps")) if step in results
    ]
    return _OVERLOAD * min(limits) if limits else _UNTOLD_FPS


def _files(plan: GatePlan, *, cameras: int, fps: float, max_size: int | None = None) -> dict[str, Any]:
    seconds = plan.seconds(_SECONDS)
    clip = looped(source_clip(plan), plan.folder, seconds=seconds + _SPARE_S, fps=fps)
    settings = gate_settings(plan, media_dir=clip.parent, max_size=max_size)
    urls = {f"cam-{number}": f"file:{clip.name}" for number in range(cameras)}
    run = run_service(settings, urls, seconds=seconds)
    return {"cameras": cameras, "max_size": settings.batching.max_size, "offered_fps": cameras * fps, **run}


def gate_settings(plan: GatePlan, *, media_dir: Path | None = None, max_size: int | None = None) -> Settings:
    """The service's settings on the device, its data in the gate's folder."""
    overrides: dict[str, Any] = {
        "data_dir": plan.folder / "data",
        "models_dir": plan.models_dir,
        "model": plan.model,
        "media_dir": media_dir,
        "backend": {"device": "cuda", "precision": plan.precision},
    }
    if max_size is not None:
        overrides["batching"] = {"max_size": max_size}
    return load_settings(overrides=overrides, environ={})


def run_service(
    settings: Settings, urls: dict[str, str], *, seconds: float, simulator_pid: int | None = None
) -> dict[str, Any]:
    """Run the service with these cameras, which no earlier run may have left in its database."""
    configure_logging("error")
    for left in settings.data_dir.glob("vidette.db*"):
        left.unlink()
    choice: Choice = choose(settings)
    service = Service(settings, choice=choice)
    plan = WorkloadPlan(urls=urls, warm_up_s=_WARM_UP_S, seconds=seconds, simulator_pid=simulator_pid)
    with sampled(settings.backend.gpu) as sampler:
        run = uvloop.run(measure_service(service, plan))
    return {**_figures(run), "gpu": sampler.means()}


def _figures(run: WorkloadRun) -> dict[str, Any]:
    figures: ServiceFigures = run.figures
    total = figures.latency_ms["total"]
    return {
        "inferred_fps": figures.inferred_fps,
        "decoded_fps": figures.decoded_fps,
        "latency_ms": {"p50": total.p50, "p95": total.p95, "p99": total.p99},
        "stages_p50_ms": {stage: of.p50 for stage, of in figures.latency_ms.items()},
        "cpu_ms_per_frame": figures.cpu_ms_per_frame,
        "cores": figures.usage.process,
        "dropped": figures.dropped,
        "batch_sizes": figures.batch_sizes,
        "ledger_holds": run.ledger.holds,
        "decoders": figures.decoders,
        "picture": f"{figures.codec} {figures.width}x{figures.height}",
    }
