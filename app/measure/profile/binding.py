"""Which resource binds, and what says so. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.measure.profile.load import PYTHON_STAGES, REST, LoadRun
from app.measure.profile.stages import INFER, DeviceName
from app.measure.profile.sweep import SweepRow

FULL = 0.9  # of a resource: what a scheduler leaves of it under load
FLAT = 1.1  # a larger batch that gives less than this times the frames gives nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """`resource`: cpu cores, gpu, contexts, event loop, cameras or hand-over."""

    resource: str
    sentence: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the measurements say about it."""

    device: DeviceName
    cores: int
    load: LoadRun
    component_cpu_ms: float  # of a frame, alone: every stage
    rows: Sequence[SweepRow]


def find_binding(facts: Facts) -> Binding:
    """What to have more of would make the service infer more."""
    resource, sentence = _resource(facts)
    evidence = (
        _cores(facts),
        _contexts(facts),
        _queue(facts),
        _lock(facts),
        _sum(facts),
        *_gpu(facts),
        *_batches(facts),
    )
    return Binding(resource=resource, sentence=sentence, evidence=evidence)


def _resource(facts: Facts) -> tuple[str, str]:
    load, usage = facts.load, facts.load.figures.usage
    stage, share = _largest(load.stage_cores, usage.process)
    if facts.load.gpu_busy is not None and facts.load.gpu_busy >= FULL:
        return "gpu", f"the GPU: it is busy {_percent(facts.load.gpu_busy)} of the time"
    if usage.process >= FULL * facts.cores:
        return "cpu cores", f"the CPU: its {facts.cores} cores are in use, {_percent(share)} of that for {stage}"
    if load.loop_cores >= FULL:
        return "event loop", "the event loop: its one thread is busy all the time"
    if usage.process + (usage.others or 0.0) >= FULL * facts.cores:
        return "cpu cores", f"the CPU, which other programs use too; of our part {_percent(share)} is {stage}"
    if load.contexts_busy >= FULL:
        what = "the GPU behind them" if facts.device == "cuda" else "more of them would use the cores that are left"
        return "contexts", f"the execution contexts: all of them are busy all the time; {what}"
    if load.figures.inferred_fps >= FULL * load.offered_fps:
        return "cameras", "the cameras: all that they send is inferred, and there is room for more"
    full = f"cores {_percent(usage.process / facts.cores)}, contexts {_percent(load.contexts_busy)}"
    waiting = "time goes by in hand-overs between threads, of which Python runs one at a time"
    return "hand-over", f"waiting: no resource is full ({full}); {waiting}"


def _cores(facts: Facts) -> str:
    load, usage = facts.load, facts.load.figures.usage
    parts = sorted(load.stage_cores.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{stage} {_percent(cores / usage.process)}" for stage, cores in parts if usage.process)
    others = "" if usage.others is None else f", other programs {usage.others:.2f}"
    return f"{usage.process:.2f} of {facts.cores} cores are in use{others}: {shares}"


def _contexts(facts: Facts) -> str:
    load = facts.load
    who = "the one context has" if load.contexts == 1 else f"the {load.contexts} contexts have"
    return f"{who} a batch {_percent(load.contexts_busy)} of the time"


def _queue(facts: Facts) -> str:
    load, figures = facts.load, facts.load.figures
    wait = figures.latency_ms["queue"].p50
    return (
        f"a frame waits {wait:.1f} ms (p50) for a context, a batch takes {load.batch_ms:.1f} ms; "
        f"{_percent(figures.dropped_share)} of the frames are dropped for newer ones"
    )


def _lock(facts: Facts) -> str:
    load = facts.load
    stages = f"{', '.join(PYTHON_STAGES[:-1])} and {PYTHON_STAGES[-1]}"
    return (
        f"{stages} took {load.python_ms:.2f} ms a result, {load.python_cpu_ms:.2f} ms of it CPU time: in the rest they "
        "waited for a core or for the interpreter's lock"
    )


def _sum(facts: Facts) -> str:
    """Components alone against the service: what is lost between them."""
    if not facts.component_cpu_ms:
        return "the components cost no CPU time that can be told"
    alone_fps = 1e3 * facts.cores / facts.component_cpu_ms
    load = facts.load
    return (
        f"the components alone cost {facts.component_cpu_ms:.2f} ms of CPU time a frame, which {facts.cores} cores can "
        f"give {alone_fps:.0f} times a second; the service inferred {load.figures.inferred_fps:.0f} fps "
        f"of {load.offered_fps:.0f} offered"
    )


def _gpu(facts: Facts) -> tuple[str, ...]:
    return (
        () if facts.load.gpu_busy is None else (f"the GPU is busy {_percent(facts.load.gpu_busy)} of the time (NVML)",)
    )


def _batches(facts: Facts) -> tuple[str, ...]:
    if len(facts.rows) < 2:
        return ()
    first, best = facts.rows[0], max(facts.rows, key=lambda row: row.fps)
    gain = best.fps / first.fps
    if gain < FLAT:
        said = "a batch saves next to nothing, so it is arithmetic that takes the time, not starting it"
    else:
        said = "starting a batch costs something that a larger one shares"
    return (f"batches of {best.batch} give {gain:.2f} times the frames of batches of {first.batch}: {said}",)


def _largest(cores: Mapping[str, float], used: float) -> tuple[str, float]:
    stage = max((each for each in cores if each != REST), key=lambda each: cores[each], default=INFER)
    return stage, cores.get(stage, 0.0) / used if used else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
