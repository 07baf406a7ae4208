"""A profile as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from app.commands.columns import in_columns
from app.measure.machine import Machine
from app.measure.profile.anchors import MIN_SCORE, Comparison
from app.measure.profile.binding import Binding
from app.measure.profile.load import LoadRun
from app.measure.profile.memory import MemorySample, by_step, thinned
from app.measure.profile.stages import STAGES, DeviceName, StageCost, absent
from app.measure.profile.sweep import SweepRow, best_batch
from app.measure.profile.walk import WalkPlan, WalkRun
from app.measure.report import QUIET
from app.measure.results import Figure, result
from app.types import EngineInfo

DEFINITIONS = {
    "stages": "one thread takes frames through every stage, one after the other, with nothing beside it; times of one "
    "call, from when the stage is entered until it is left, less other stages inside it",
    "read": "from asking the source for a frame until it is there, without decoding: demuxer, parser, dates",
    "decode": "in the decoder, one packet a call; NVDEC works beside the CPU, on a clock that is not told",
    "hand-over": "rate gate, mailbox and batch, and of the hub the order and the snapshot: calls a frame of a few µs",
    "picture table": "writing down for the kernels where the pictures of a batch are",
    "host to device": "the copy of the picture table; pictures are decoded into device memory, or copied by decode",
    "preprocess": "colour, scaling and letterbox of a batch",
    "infer": "the model, a batch; on a CPU in threads of the engine's own",
    "device to host": "the copy of a batch's boxes",
    "postprocess": "scores, boxes and suppression of a batch; on a GPU one call a kernel",
    "wait": "cuda: what is left of a batch's time on the device: launches of events, and the last wait",
    "read results": "cuda: from the bytes that were copied to boxes",
    "publish": "the result's message, made and serialised once, and put into one subscriber's queue",
    "track": "Vidette has no tracker yet",
    "device_ms": "cuda: between two CUDA events around the work; cpu: CPU time, of the thread, and for infer of the "
    "whole process, in which nothing else runs then (it may exceed the wall time: several cores)",
    "efficiency": "device over wall time of a stage; more than 80 % is GPU OPTIMIZED (cpu: CPU-BOUND), less than 50 % "
    "CPU BOTTLENECK (cpu: WAITING), MIXED between",
    "share": "of the wall time of all stages",
    "bytes": "read: packets; decode: pictures, 8 bits 4:2:0; preprocess: pictures and input tensor; infer: input "
    "tensor and outputs; postprocess: outputs; publish: messages. GB/s: over the wall time",
    "sweep": "every context runs one batch after the other, preprocess to boxes, all at once; a batch's time is from "
    "its frames to its boxes; fps: frames of all contexts a second; cores: CPU seconds a second of the process; GPU "
    "busy: by NVML; sizes that the engine does not take run in parts",
    "sweep.best": "the most fps with the p95 of a batch within the budget; of sizes within 2 % of it the smallest",
    "load": "the whole service, with cameras that send 1.25 times what the components say that it can do",
    "load.stage_cores": "CPU seconds a second, by stage; the engine's own threads count as infer",
    "load.contexts_busy": "share of the time between preprocess and postprocess, mean of the contexts",
    "memory.rss": "resident memory of the process, every 100 ms",
    "memory.allocated": "cuda: device memory that Vidette asked the driver for",
    "memory.reserved": "cuda: device memory that is gone since the start: engines, graphs and decoders too",
    "comparison": "median time of one batch from raw outputs to boxes in the pictures, warm; see anchors.py",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The model's part of a profile; all of it but the comparison of postprocessing."""

    device: DeviceName
    engine: EngineInfo
    clip: str
    plan: WalkPlan
    walk: WalkRun
    costs: tuple[StageCost, ...]
    cpu_ms_per_frame: float
    rows: tuple[SweepRow, ...]
    budget_ms: float
    load: LoadRun
    binding: Binding
    memory: tuple[MemorySample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    machine: Machine
    components: Components | None
    comparison: Comparison | None


def as_json(profile: Profile) -> dict[str, Any]:
    components, comparison = profile.components, profile.comparison
    details: dict[str, Any] = {}
    if components is not None:
        details.update(_components_json(components))
    if comparison is not None:
        details["postprocess_comparison"] = {**asdict(comparison), "ratio": comparison.ratio}
    return result("profile", profile.machine, dict(_figures(profile)), **details, definitions=DEFINITIONS)


def _components_json(of: Components) -> dict[str, Any]:
    engine = asdict(of.engine)
    del engine["classes"]  # names: long, and not measured
    best = best_batch(of.rows, of.budget_ms)
    samples = thinned(of.memory)
    zero_s = samples[0].at_s if samples else 0.0
    return {
        "device": of.device,
        "engine": engine,
        "clip": of.clip,
        "stream": asdict(of.walk.stream),
        "cameras": of.plan.cameras,
        "batch": of.plan.batch,
        "frames": of.walk.frames,
        "batches": of.walk.batches,
        "seconds": of.walk.seconds,
        "detections": of.walk.detections,
        "cpu_ms_per_frame": of.cpu_ms_per_frame,
        "stages": [asdict(cost) for cost in of.costs],
        "stages_absent": list(absent(of.costs, of.device)),
        "sweep": {
            "budget_ms": of.budget_ms,
            "best_batch": None if best is None else best.batch,
            "rows": [{**asdict(row), "frame_ms": row.frame_ms} for row in of.rows],
        },
        "load": asdict(of.load),
        "binding": asdict(of.binding),
        "memory": {
            "steps": [asdict(step) for step in by_step(of.memory)],
            "samples": [{**asdict(sample), "at_s": sample.at_s - zero_s} for sample in samples],
        },
    }


def _figures(profile: Profile) -> Iterator[tuple[str, Figure]]:
    components, comparison = profile.components, profile.comparison
    if components is not None:
        for cost in components.costs:
            yield from _stage_figures(cost)
        yield "components.cpu_ms_per_frame", _figure("ms", "lower", components.cpu_ms_per_frame)
        for row in components.rows:
            yield f"batch_{row.batch}.fps", _figure("fps", "higher", row.fps)
            yield f"batch_{row.batch}.batch_ms.p50", _figure("ms", "lower", row.batch_ms.p50)
            yield f"batch_{row.batch}.batch_ms.p95", _figure("ms", "lower", row.batch_ms.p95)
            yield f"batch_{row.batch}.cores", _figure("cores", "neither", row.cores)
            if row.gpu_busy is not None:
                yield f"batch_{row.batch}.gpu_busy", _figure("1", "neither", row.gpu_busy)
        yield "load.inferred_fps", _figure("fps", "higher", components.load.figures.inferred_fps)
        yield "load.cpu_ms_per_frame", _figure("ms", "lower", components.load.figures.cpu_ms_per_frame)
        if components.memory:
            peak = max(sample.rss_bytes for sample in components.memory)
            yield "memory.rss_peak", _figure("MiB", "lower", peak / 2**20)
    if comparison is not None:
        yield "postprocess.vectorised_ms", Figure(unit="ms", better="lower", samples=comparison.vectorised_ms)
        yield "postprocess.loop_ms", Figure(unit="ms", better="neither", samples=comparison.loop_ms)


def _stage_figures(cost: StageCost) -> Iterator[tuple[str, Figure]]:
    name = f"stage.{cost.stage.replace(' ', '_').replace('-', '_')}"
    yield f"{name}.frame_ms", _figure("ms", "lower", cost.frame_ms)
    for percentile in ("p50", "p95", "p99"):
        yield f"{name}.wall_ms.{percentile}", _figure("ms", "lower", getattr(cost.wall_ms, percentile))
    if cost.device_ms is not None:
        yield f"{name}.device_ms", _figure("ms", "lower", cost.device_ms)


def _figure(unit: str, better: Any, value: float) -> Figure:
    return Figure(unit=unit, better=better, samples=(value,))


def as_text(profile: Profile) -> str:
    """What a person wants to see first."""
    parts: list[str] = []
    if profile.components is not None:
        parts += _components_text(profile.components, profile.machine)
    if profile.comparison is not None:
        parts.append(_comparison_text(profile.comparison))
    return "\n\n".join(parts)


def _components_text(of: Components, machine: Machine) -> Iterator[str]:
    engine, stream = of.engine, of.walk.stream
    what = f"{engine.model} {engine.input_width}x{engine.input_height} {engine.precision} on {engine.backend}"
    yield in_columns(
        [
            (
                "machine",
                f"{machine.cpu}, {machine.cores} cores, {machine.python}, commit {machine.commit or 'unknown'}",
            ),
            ("device", f"{of.device}: {engine.device}"),
            ("engine", f"{what}, {engine.contexts} contexts, batches up to {engine.best_batch}"),
            ("input", f"{of.plan.cameras} cameras, {stream.codec} {stream.width}x{stream.height}, {of.clip}"),
        ]
    )
    yield f"{_walked(of)}\n{_stage_table(of)}\n{_stage_notes(of)}"
    yield f"binds: {of.binding.sentence}\n" + "\n".join(f"  - {each}" for each in of.binding.evidence)
    others = of.load.figures.usage.others or 0.0
    if others > QUIET * machine.cores:
        yield f"note: other programs used {others:.2f} cores: measure again when it is quiet"
    yield _sweep_text(of)
    yield _memory_text(of)


def _walked(of: Components) -> str:
    walk = of.walk
    return (
        f"components: {walk.frames} frames in {walk.batches} batches of {of.plan.batch} at most, one stage after the "
        f"other, nothing beside; {of.cpu_ms_per_frame:.2f} ms of CPU time a frame"
    )


def _stage_table(of: Components) -> str:
    head = ("stage", "calls", "ms/frame", "ms/call", "p50", "p95", "p99", "device ms", "dev/wall", "", "share", "GB/s")
    costs = {cost.stage: cost for cost in of.costs}
    lines = [_stage_line(costs[stage]) if stage in costs else (stage, *["-"] * 11) for stage in STAGES[of.device]]
    whole = ("all", "", f"{sum(cost.frame_ms for cost in of.costs):.3f}", *[""] * 7, "100 %", "")
    return in_columns([head, *lines, whole], right=(1, 2, 3, 4, 5, 6, 7, 8, 10, 11))


def _stage_line(cost: StageCost) -> tuple[str, ...]:
    wall = cost.wall_ms
    return (
        cost.stage,
        str(cost.calls),
        f"{cost.frame_ms:.3f}",
        *(f"{each:.3f}" for each in (cost.mean_ms, wall.p50, wall.p95, wall.p99)),
        "-" if cost.device_ms is None else f"{cost.device_ms:.3f}",
        "-" if cost.efficiency is None else f"{100 * cost.efficiency:.0f} %",
        cost.verdict or "-",
        f"{100 * cost.share:.1f} %",
        "-" if cost.gb_per_s is None else f"{cost.gb_per_s:.3f}",
    )


def _stage_notes(of: Components) -> str:
    if of.device == "cuda":
        clocks = (
            "device ms: between two CUDA events around the work, waited for; wall: from the launch to that wait's end"
        )
    else:
        clocks = "device ms: CPU time, of the thread; of infer: of the process, in which nothing else runs then"
    return (
        f"{clocks}.\nms: from entering a stage to leaving it, less stages inside it; - : no such stage on this device."
    )


def _sweep_text(of: Components) -> str:
    best = best_batch(of.rows, of.budget_ms)
    lines: list[tuple[str, ...]] = [("batch", "fps", "ms/frame", "ms/batch p50", "p95", "p99", "cores", "GPU busy", "")]
    for row in of.rows:
        over = "" if row.batch_ms.p95 <= of.budget_ms else "over budget"
        mark = "best" if best is not None and row.batch == best.batch else over
        times = (f"{each:.2f}" for each in (row.frame_ms, row.batch_ms.p50, row.batch_ms.p95, row.batch_ms.p99))
        gpu = "-" if row.gpu_busy is None else f"{100 * row.gpu_busy:.0f} %"
        lines.append((str(row.batch), f"{row.fps:.1f}", *times, f"{row.cores:.2f}", gpu, mark))
    if best is None:
        answer = f"no batch keeps to {of.budget_ms:g} ms at p95: the engine needs a smaller model or a faster device"
    else:
        answer = f"best batch for a budget of {of.budget_ms:g} ms at p95: {best.batch} ({best.fps:.1f} fps)"
    contexts = of.rows[0].contexts
    busy = f"{contexts} contexts at once" if contexts > 1 else "one context"
    title = f"batch sweep: {busy}, preprocess to boxes, frames decoded before"
    return f"{title}\n{in_columns(lines, right=range(8))}\n{answer}"


def _memory_text(of: Components) -> str:
    steps = by_step(of.memory)
    cuda = any(step.reserved_peak is not None for step in steps)
    head = ("memory, MiB", "start", "end", "peak", *(("allocated peak", "reserved peak") if cuda else ()))
    lines = [head]
    for step in steps:
        device = (step.allocated_peak, step.reserved_peak) if cuda else ()
        sizes = (step.rss_start, step.rss_end, step.rss_peak, *device)
        lines.append((step.step, *("-" if size is None else f"{size / 2**20:.0f}" for size in sizes)))
    return in_columns(lines, right=range(1, len(head)))


def _comparison_text(of: Comparison) -> str:
    fast, slow = median(of.vectorised_ms), median(of.loop_ms)
    lines = [
        ("postprocessing", "ms/batch", "ms/image", "boxes"),
        ("vectorised (ours)", f"{fast:.2f}", f"{fast / of.images:.3f}", str(of.boxes)),
        ("loop over anchors", f"{slow:.1f}", f"{slow / of.images:.2f}", str(of.boxes) if of.identical else "others"),
    ]
    same = "identical boxes" if of.identical else "THE BOXES DIFFER"
    runs = f"median of {len(of.vectorised_ms)} and {len(of.loop_ms)} runs"
    return (
        f"{in_columns(lines, right=(1, 2, 3))}\n"
        f"{of.ratio:.0f} times as fast; {same}, largest difference {of.largest_difference_px:g} px\n"
        f"input: {of.images} x {of.anchors} anchors x {of.rows}, f32, made up: 20 to 50 objects an image in front\n"
        f"of a background; scores from {MIN_SCORE:g} count; {runs}, from raw outputs to boxes in 1080p pictures"
    )
