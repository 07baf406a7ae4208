"""What runs here: models, backends, capacity, and the camera doctor."""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app import __version__
from app.api.common import PartsDep, ServiceDep, problems
from app.cameras.capacity import Load, Room, refusal, room_for, rooms
from app.cameras.doctor import diagnose
from app.cameras.ladder import LevelName
from app.cameras.settings import Fields, Password, Url, Username
from app.results.wire import utc_text
from app.service import Service

router = APIRouter(prefix="/api/v1", tags=["system"])


class ModelView(BaseModel):
    name: str
    sha256: str
    family: str
    input_width: int
    input_height: int
    classes: list[str]
    precision: str
    backend: str
    device: str
    batch_sizes: list[int] = Field(description="smallest and largest batch that the engine takes")
    best_batch: int = Field(description="largest batch that is formed, chosen by measurement at start-up")
    contexts: int
    notes: list[str]


class AvailabilityView(BaseModel):
    name: str
    available: bool
    reason: str


class BackendView(BaseModel):
    name: str
    reason: str


class GpuView(BaseModel):
    """A reading of at most some seconds ago. Null is what the GPU or its driver does not tell."""

    index: int = Field(description="NVML's number, as nvidia-smi shows it; the label of the gpu series in /metrics")
    name: str | None
    uuid: str | None
    utilization_ratio: float | None
    decoder_utilization_ratio: float | None = Field(description="NVDEC, all its engines together")
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_watts: float | None
    temperature_celsius: float | None
    sm_clock_mhz: float | None
    throttle_reasons: list[str] | None = Field(description="what slows the clocks down; empty: nothing does")


class EventLoopView(BaseModel):
    lag_ms: float = Field(description="until the event loop did what it was last asked to; asked twice a second")
    stalls: int = Field(description="times that it stood still for over a second, since the start")
    longest_stall_s: float


class SystemView(BaseModel):
    name: str = "vidette"
    version: str
    state: str
    progress: str | None = Field(description="what is being done before the service is ready; null once it is")
    started_at: str
    uptime_s: float
    python: str
    platform: str
    backend: BackendView | None
    backends: list[AvailabilityView]
    gpus: list[GpuView]
    event_loop: EventLoopView
    notes: list[str]


class DecodeView(BaseModel):
    cores: int
    used_cores: float = Field(description="by cameras that were measured, and expected of those that were not yet")
    left_cores: float
    needed_cores: float = Field(description="what one more camera is expected to take")
    measured: str


class InferenceView(BaseModel):
    capacity_fps: float | None
    used_fps: float
    left_fps: float | None
    needed_fps: float = Field(description="what one more camera must be left with")
    measured: str


class MemoryView(BaseModel):
    used_bytes: int
    free_bytes: int
    left_bytes: int = Field(description="of what is free, without what is kept spare")
    needed_bytes: int = Field(description="what one more camera is expected to take")
    measured: str = (
        "used: resident set of this process; free: what the system calls available, at most what the cgroup allows; "
        "needed: growth of this process a camera, at least eight pictures of it"
    )


class NvdecView(BaseModel):
    """The GPU's decoders, as shares of what they can do."""

    used: float
    left: float
    needed: float
    measured: str = "used: by NVML; needed: used, divided by the cameras that are decoded there"


class OverloadView(BaseModel):
    """How far the degradation ladder has gone."""

    ladder: Literal["auto", "off"] = Field(description="the setting overload.ladder")
    level: int = Field(description="of the cameras with the lowest priority; 0: nothing gives way")
    name: LevelName
    reason: str | None
    cameras: int = Field(description="cameras above level 0")


class CapacityView(BaseModel):
    cameras: int
    room_for: int = Field(description="more cameras like the present ones")
    least_fps: float = Field(description="inferred frames a second under which a camera is refused")
    refusal: str | None = Field(description="why one more camera would be refused now")
    decode: DecodeView
    inference: InferenceView
    memory: MemoryView
    nvdec: NvdecView | None
    overload: OverloadView
    gpus: list[GpuView]


class StepView(BaseModel):
    step: str
    state: Literal["ok", "failed", "skipped"]
    ms: float | None
    code: str | None
    message: str | None


class DiagnosisView(BaseModel):
    ok: bool
    code: str | None
    message: str
    steps: list[StepView]


class DiagnoseBody(Fields):
    """A camera that need not be registered."""

    model_config = ConfigDict(str_strip_whitespace=True)

    url: Annotated[Url, Field(repr=False)]  # it may hold credentials still
    username: Username | None = None
    password: Password | None = None
    transport: Literal["auto", "tcp", "udp"] = "auto"
    timeout_s: float = Field(15, ge=1, le=60, allow_inf_nan=False)


@router.get("/models", responses=problems(503))
async def models(parts: PartsDep) -> list[ModelView]:
    """The loaded model."""
    info = parts.engine
    view = ModelView(
        name=info.model,
        sha256=info.sha256,
        family=info.family,
        input_width=info.input_width,
        input_height=info.input_height,
        classes=list(info.classes),
        precision=info.precision,
        backend=info.backend,
        device=info.device,
        batch_sizes=[1, info.max_batch],
        best_batch=info.best_batch,
        contexts=info.contexts,
        notes=list(info.notes),
    )
    return [view]


@router.get("/system")
async def system(service: ServiceDep) -> SystemView:
    """Version, state, the backend and why it was chosen, and every other backend with its reason."""
    parts = service.running_parts
    return SystemView(
        version=__version__,
        state=service.state,
        progress=service.progress.newest,
        started_at=utc_text(service.started_utc),
        uptime_s=round(time.time() - service.started_utc, 1),
        python=platform.python_version(),
        # Not platform.platform(): it starts a process and reads files.
        platform=f"{platform.system()}-{platform.release()}-{platform.machine()}",
        backend=BackendView(name=parts.choice.backend.name, reason=parts.choice.reason) if parts else None,
        backends=[
            AvailabilityView(name=each.name, available=each.available, reason=each.reason)
            for each in service.availability
        ],
        gpus=_gpus(service),
        event_loop=_event_loop(service),
        notes=list(parts.engine.notes) if parts else [],
    )


@router.post("/diagnose", responses=problems(413, 422, 429, 503))
async def diagnose_camera(body: DiagnoseBody, service: ServiceDep) -> DiagnosisView:
    """Go the whole way from a camera's name to its first picture, and say where the way ends."""
    parts = service.parts
    request = await asyncio.to_thread(
        parts.registry.unregistered,
        url=body.url,
        username=body.username,
        password=None if body.password is None else body.password.get_secret_value(),
        transport=body.transport,
    )
    with service.diagnoses.place():
        diagnosis = await diagnose(request, open_source=parts.choice.backend.open_source, timeout_s=body.timeout_s)
    steps = [
        StepView(
            step=step.step,
            state=step.state,
            ms=step.ms,
            code=None if step.code is None else step.code.value,
            message=step.message,
        )
        for step in diagnosis.steps
    ]
    code = None if diagnosis.code is None else diagnosis.code.value
    return DiagnosisView(ok=diagnosis.ok, code=code, message=diagnosis.message, steps=steps)


@router.get("/capacity", responses=problems(503))
async def capacity(service: ServiceDep) -> CapacityView:
    """What is used and what is left, what one more camera needs, and how that was measured."""
    load = service.load()
    left = {room.resource: room for room in rooms(load)}
    return CapacityView(
        cameras=load.cameras,
        room_for=room_for(load),
        least_fps=load.least_fps,
        refusal=refusal(load),
        decode=_decode_view(load, left["decode"]),
        inference=_inference_view(load, observed=service.parts.meter.rate.observed),
        memory=MemoryView(
            used_bytes=load.memory_used_bytes,
            free_bytes=load.memory_free_bytes,
            left_bytes=max(0, int(left["memory"].left * 2**20)),
            needed_bytes=load.needed_bytes,
        ),
        nvdec=_nvdec_view(load, left["nvdec"]) if "nvdec" in left else None,
        overload=_overload_view(service),
        gpus=_gpus(service),
    )


def _decode_view(load: Load, room: Room) -> DecodeView:
    decode = load.decode
    measured = f"CPU time of the threads of {decode.measured} cameras that run, over the last seconds"
    if decode.measured < load.cameras:
        measured += f"; {load.cameras - decode.measured} are not measured yet and count with what the others take"
    return DecodeView(
        cores=load.cores,
        used_cores=round(decode.used_cores + decode.expected_cores, 3),
        left_cores=round(max(0.0, room.left), 3),
        needed_cores=round(room.needed, 4),
        measured=measured,
    )


def _inference_view(load: Load, *, observed: bool) -> InferenceView:
    capacity_fps = load.capacity_fps
    how = "as seen under load" if observed else "the engine alone, on this machine, at start-up"
    return InferenceView(
        capacity_fps=None if capacity_fps is None else round(capacity_fps, 1),
        used_fps=round(load.inferred_fps, 1),
        left_fps=None if capacity_fps is None else round(max(0.0, capacity_fps - load.inferred_fps), 1),
        needed_fps=load.least_fps,
        measured=f"capacity: {how}; used: results of the last second; needed: overload.least_fps",
    )


def _nvdec_view(load: Load, room: Room) -> NvdecView:
    return NvdecView(used=round(load.nvdec_load or 0.0, 3), left=round(room.left, 3), needed=round(room.needed, 4))


def _overload_view(service: Service) -> OverloadView:
    state = service.parts.overload.state
    ladder = service.settings.overload.ladder
    return OverloadView(ladder=ladder, level=state.level, name=state.name, reason=state.reason, cameras=state.degraded)


def _gpus(service: Service) -> list[GpuView]:
    return [GpuView.model_validate(asdict(gpu)) for gpu in service.samples.gpus]


def _event_loop(service: Service) -> EventLoopView:
    stats = service.watchdog.stats
    return EventLoopView(
        lag_ms=round(stats.lag_s * 1e3, 3), stalls=stats.stalls, longest_stall_s=round(stats.longest_stall_s, 1)
    )
