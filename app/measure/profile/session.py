"""A whole profile: a model opened on a device, and one measurement of it after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import av

from app.backends.select import choose
from app.cameras.source import SourceRequest
from app.cores import available_cores
from app.errors import BackendUnavailable
from app.measure.profile.binding import Facts, find_binding
from app.measure.profile.devices import SWEEP, Device, open_cpu
from app.measure.profile.load import MOST_FPS, OVERLOAD, SPARE_S, WARM_UP_S, LoadPlan, LoadRun, measure_load
from app.measure.profile.memory import MemoryTimeline
from app.measure.profile.report import Components
from app.measure.profile.spans import Recorder
from app.measure.profile.stages import StageCost, cpu_ms_per_frame, stage_costs
from app.measure.profile.sweep import SweepRow, sweep
from app.measure.profile.walk import FPS, WalkPlan, WalkRun, walk
from app.measure.retime import looped
from app.measure.workload import run_on_loop
from app.settings import Settings
from app.types import Frame

USUAL_CAMERAS = 4
_WALK_CLIP_S = 0.4  # at 2000 fps: 800 pictures
_SWEEP_SHARE = 0.25  # of the seconds, for each batch size
_LEAST_LOAD_S = 1.0


class OpenDevice(Protocol):
    """Opens what is measured; see `open_cpu` and `open_cuda`."""

    def __call__(self, settings: Settings, recorder: Recorder, batch: int | None) -> AbstractContextManager[Device]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user asked for. None: what the measurement of the engine chose."""

    clip: Path
    folder: Path  # for clips that are made along the way; the settings' media_dir
    seconds: float
    budget_ms: float
    cameras: int | None = None
    batch: int | None = None
    frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What was measured, and the spans that it comes from, by measurement."""

    components: Components
    recorders: Mapping[str, Recorder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was measured while the device was open."""

    device: Device
    plan: WalkPlan
    run: WalkRun
    costs: tuple[StageCost, ...]
    cpu_ms: float
    rows: tuple[SweepRow, ...]


class Steps(Protocol):
    """Who is told how far it is: `app.commands.progress.Progress`."""

    def step(self, text: str, total: float | None = None) -> None: ...

    def done(self, amount: float) -> None: ...


def device_for(settings: Settings) -> OpenDevice:
    """How to open the device that the settings mean. Raises `BackendUnavailable` as `vidette serve` does."""
    name = choose(settings).backend.name
    if name == "cpu":
        return open_cpu
    if name == "cuda":
        from app.measure.profile.cuda import open_cuda

        return open_cuda
    raise BackendUnavailable(name, "profiles are taken of the cpu and the cuda backend")


def measure(
    settings: Settings,
    wishes: Wishes,
    steps: Steps,
    *,
    open_device: OpenDevice,
    run: Callable[[Any], Any] = run_on_loop,
) -> Session:
    """Components, batch sizes, the service under load, in this order. Blocking. Raises `AppError` of many kinds."""
    walked, loaded = Recorder(process_clock=time.process_time), Recorder()
    with MemoryTimeline() as memory:
        opened = measure_device(settings, wishes, steps, memory, walked, open_device)
        with memory.step("service"):
            load = _measure_load(settings, wishes, steps, opened, loaded, run)
    facts = Facts(
        device=opened.device.name,
        cores=available_cores(),
        load=load,
        component_cpu_ms=opened.cpu_ms,
        rows=opened.rows,
    )
    components = Components(
        device=opened.device.name,
        engine=opened.device.engine,
        clip=wishes.clip.name,
        plan=opened.plan,
        walk=opened.run,
        costs=opened.costs,
        cpu_ms_per_frame=opened.cpu_ms,
        rows=opened.rows,
        budget_ms=wishes.budget_ms,
        load=load,
        binding=find_binding(facts),
        memory=tuple(memory.samples),
    )
    return Session(components=components, recorders={"components": walked, "service": loaded})


def measure_device(
    settings: Settings,
    wishes: Wishes,
    steps: Steps,
    memory: MemoryTimeline,
    recorder: Recorder,
    open_device: OpenDevice,
) -> Opened:
    """Open the device, measure its components and batch sizes, close it. Blocking."""
    steps.step("opening the engine")
    with memory.step("open"):
        opening = open_device(settings, recorder, wishes.batch)
        device = opening.__enter__()
    try:
        memory.device = device.memory
        with device.bound():
            plan = _walk_plan(wishes, device)
            steps.step("measuring the components, one after the other", total=plan.frames or plan.seconds)
            with memory.step("components"):
                run = walk(plan, device, recorder, on_tick=steps.done)
            steps.step("measuring batch sizes", total=len(SWEEP))
            with memory.step("batch sweep"):
                rows = _sweep(plan, device, steps)
    finally:
        memory.device = lambda: None
        opening.__exit__(None, None, None)
    return Opened(
        device=device,
        plan=plan,
        run=run,
        costs=stage_costs(recorder.spans, frames=run.frames, moved=run.moved, device=device.name),
        cpu_ms=cpu_ms_per_frame(recorder.spans, run.frames),
        rows=rows,
    )


def _walk_plan(wishes: Wishes, device: Device) -> WalkPlan:
    wanted = wishes.batch or device.engine.best_batch
    cameras = wishes.cameras or max(USUAL_CAMERAS, wanted)
    clip = looped(wishes.clip, wishes.folder / "components.mp4", seconds=_WALK_CLIP_S, fps=FPS)
    return WalkPlan(
        clip=clip,
        packet_bytes=mean_packet_bytes(wishes.clip),
        cameras=cameras,
        batch=min(wanted, cameras),
        seconds=wishes.seconds,
        frames=wishes.frames,
    )


def _sweep(plan: WalkPlan, device: Device, steps: Steps) -> tuple[SweepRow, ...]:
    seconds = _SWEEP_SHARE * plan.seconds
    with held_frames(device, plan.clip, SWEEP[-1]) as frames, device.sweep_contexts() as runs:
        return sweep(
            runs,
            frames,
            SWEEP,
            seconds=seconds,
            in_thread=device.bound,
            gpu_busy=device.gpu_busy,
            on_tick=steps.done,
        )


def _measure_load(
    settings: Settings,
    wishes: Wishes,
    steps: Steps,
    opened: Opened,
    recorder: Recorder,
    run: Callable[[Any], Any],
) -> LoadRun:
    cameras, seconds = opened.plan.cameras, max(_LEAST_LOAD_S, wishes.seconds)
    offered = OVERLOAD * min(1e3 * available_cores() / opened.cpu_ms, max(row.fps for row in opened.rows))
    fps = min(MOST_FPS, offered / cameras)
    clip = looped(wishes.clip, wishes.folder / "service.mp4", seconds=WARM_UP_S + seconds + SPARE_S, fps=fps)
    plan = LoadPlan(clip=clip, cameras=cameras, fps=fps, seconds=seconds)
    # The backend keeps the user's data_dir, where engines lie; the service must not find the user's cameras there.
    changes: dict[str, Any] = {"data_dir": wishes.folder / "data"}
    if wishes.batch is not None:
        changes["batching"] = settings.batching.model_copy(update={"max_size": wishes.batch})
    settings = settings.model_copy(update=changes)
    steps.step("measuring the service under load", total=seconds)
    return measure_load(plan, settings, opened.device.make_backend(), recorder, run=run, on_tick=steps.done)


@contextmanager
def held_frames(device: Device, clip: Path, count: int) -> Iterator[list[Frame[Any]]]:
    """So many decoded pictures of a clip, released in the end. Inside `device.bound()`."""
    source = device.open_source(SourceRequest(camera_id="sweep", url=f"file:{clip.name}", media_dir=clip.parent))
    held: list[Frame[Any]] = []
    try:
        for number, found in enumerate(islice(source.frames(), count)):
            held.append(
                Frame(camera_id=f"cam-{number}", seq=1, pts_s=found.pts_s, times=found.times, surface=found.surface)
            )
        yield held
    finally:
        for frame in held:
            frame.surface.release()
        source.close()


def mean_packet_bytes(clip: Path) -> float:
    """Of a clip's video. Blocking; nothing is decoded."""
    with av.open(str(clip)) as container:
        sizes = [packet.size for packet in container.demux(container.streams.video[0]) if packet.size]
    return sum(sizes) / len(sizes) if sizes else 0.0
