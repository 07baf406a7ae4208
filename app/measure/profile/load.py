"""The whole service under a load that it cannot keep up with: who is busy, who waits, who works for what."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.backends.base import Backend
from app.backends.select import Choice
from app.errors import AppError
from app.measure.observation import ServiceFigures
from app.measure.profile.spans import Recorder, Span
from app.measure.profile.stages import DECODE, INFER, POSTPROCESS, PREPROCESS, PUBLISH
from app.measure.workload import WorkloadPlan, measure_service
from app.service import Service
from app.settings import Settings
from app.types import GpuSnapshot

OVERLOAD = 1.25  # what the cameras send, over what the components say that can be done
MOST_FPS = 2000.0  # of one camera
SPARE_S = 25.0  # the cameras' clip lasts this much longer than the measurement: the start, the warm-up, the stop
WARM_UP_S = 1.5
REST = "the rest"
PYTHON_STAGES = (DECODE, PREPROCESS, POSTPROCESS, PUBLISH)
_BATCH_STAGES = (PREPROCESS, INFER, POSTPROCESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """`cameras` files that send `fps` pictures a second each, in real time."""

    clip: Path
    cameras: int
    fps: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRun:
    """What the service did, and what its threads did for it."""

    offered_fps: float
    figures: ServiceFigures
    contexts: int
    contexts_busy: float  # share of the time in which a context had a batch
    loop_cores: float  # the event loop's thread
    stage_cores: Mapping[str, float]  # CPU seconds a second, by stage; `REST` is all else of the process
    batch_ms: float  # mean from preprocess to postprocess
    python_ms: float  # wall time of a frame in the stages that Python's own threads do: decode, preprocess, ...
    python_cpu_ms: float  # their CPU time; the difference was spent waiting for a core or for the interpreter's lock
    calls: Mapping[str, int]
    gpu_busy: float | None  # share of the time, as NVML samples it; None without a GPU that tells


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clocks:
    at_s: float
    process_s: float
    threads_s: Mapping[int, float]  # those of Python, by ident
    loop_s: float

    @classmethod
    def read(cls) -> _Clocks:
        """On the event loop's thread."""
        idents = [thread.ident for thread in threading.enumerate() if thread.ident is not None]
        return cls(
            at_s=time.perf_counter(),
            process_s=time.process_time(),
            threads_s={ident: time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in idents},
            loop_s=time.thread_time(),
        )


def measure_load(
    plan: LoadPlan,
    settings: Settings,
    backend: Backend[Any],
    recorder: Recorder,
    *,
    run: Callable[[Any], Any],
    on_tick: Callable[[float], None] = lambda done_s: None,
) -> LoadRun:
    """Run the service over the plan's cameras. Blocking; `run` runs a coroutine on an event loop of its own."""
    service = Service(settings, choice=Choice(backend=backend, reason="measured", availability=()))
    workload = WorkloadPlan(
        urls={f"cam-{number}": f"file:{plan.clip.name}" for number in range(plan.cameras)},
        warm_up_s=WARM_UP_S,
        seconds=plan.seconds,
    )
    result: LoadRun = run(_measured(plan, service, workload, recorder, backend.gpus, on_tick))
    return result


async def _measured(
    plan: LoadPlan,
    service: Service,
    workload: WorkloadPlan,
    recorder: Recorder,
    gpus: Callable[[], tuple[GpuSnapshot, ...]],
    on_tick: Callable[[float], None],
) -> LoadRun:
    clocks: list[_Clocks] = []
    busy: list[float] = []
    contexts = 0

    def ticked(done_s: float) -> None:
        nonlocal contexts
        if not clocks:  # the first tick comes when the warm-up is over
            recorder.recording = True
            contexts = service.parts.engine.contexts
            clocks.append(_Clocks.read())
        else:
            clocks[1:] = [_Clocks.read()]
            busy.extend(gpu.utilization_ratio for gpu in gpus() if gpu.utilization_ratio is not None)
        on_tick(done_s)

    recorder.recording = False
    with recorder.watching():
        run = await measure_service(service, workload, on_tick=ticked)
        recorder.recording = False
    if len(clocks) < 2:
        raise AppError(f"--seconds {plan.seconds:g} is too short to see what binds")
    first, last = clocks
    spans = [span for span in recorder.spans if first.at_s <= span.began_s <= last.at_s]
    seconds = last.at_s - first.at_s
    calls = Counter(span.stage for span in spans)
    wall_s, cpu_s = _by_stage(spans, lambda span: span.own_s), _by_stage(spans, lambda span: span.cpu_s)
    batches_s = sum(wall_s[stage] for stage in _BATCH_STAGES)
    return LoadRun(
        offered_fps=plan.cameras * plan.fps,
        figures=run.figures,
        contexts=contexts,
        contexts_busy=batches_s / (seconds * contexts),
        loop_cores=(last.loop_s - first.loop_s) / seconds,
        stage_cores=_cores(spans, first, last),
        batch_ms=1e3 * batches_s / max(1, calls[PREPROCESS]),  # each batch is preprocessed once
        python_ms=1e3 * sum(wall_s[stage] for stage in PYTHON_STAGES) / max(1, calls[PUBLISH]),
        python_cpu_ms=1e3 * sum(cpu_s[stage] for stage in PYTHON_STAGES) / max(1, calls[PUBLISH]),
        calls=dict(calls),
        gpu_busy=sum(busy) / len(busy) if busy else None,
    )


def _cores(spans: Sequence[Span], first: _Clocks, last: _Clocks) -> dict[str, float]:
    """CPU seconds a second, by stage. What the engine's own threads did, which are not Python's, is inference."""
    seconds = last.at_s - first.at_s
    process_s = last.process_s - first.process_s
    python_s = sum(spent_s - first.threads_s.get(ident, 0.0) for ident, spent_s in last.threads_s.items())
    cpu_s = _by_stage(spans, lambda span: span.cpu_s)
    cpu_s[INFER] += max(0.0, process_s - python_s)
    cores = {stage: cpu_s[stage] / seconds for stage in (DECODE, *_BATCH_STAGES, PUBLISH)}
    return {**cores, REST: max(0.0, process_s / seconds - sum(cores.values()))}


def _by_stage(spans: Sequence[Span], seconds_of: Callable[[Span], float]) -> defaultdict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for span in spans:
        total[span.stage] += seconds_of(span)
    return total
