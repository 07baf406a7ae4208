"""The arithmetic of a profile: stages, batch sizes, memory, and what binds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.errors import EngineError
from app.measure.figures import Percentiles, Spread, Usage
from app.measure.observation import STAGES as SERVICE_STAGES
from app.measure.observation import ServiceFigures
from app.measure.profile.binding import Facts, find_binding
from app.measure.profile.load import LoadRun
from app.measure.profile.memory import DeviceMemory, MemorySample, MemoryTimeline, by_step, thinned
from app.measure.profile.spans import Span
from app.measure.profile.stages import absent, cpu_ms_per_frame, stage_costs, verdict
from app.measure.profile.sweep import SweepRow, best_batch, sweep
from tests.support.wait import wait_in_thread


def make_span(stage: str, own_s: float, **changes: Any) -> Span:
    span = Span(
        stage=stage,
        thread=1,
        began_s=0.0,
        wall_s=own_s,
        own_s=own_s,
        cpu_s=own_s / 2,
        process_s=2 * own_s,
        device_s=None,
    )
    return replace(span, **changes)


def make_row(batch: int, fps: float, p95: float = 10.0) -> SweepRow:
    times = Percentiles(p50=p95 / 2, p95=p95, p99=2 * p95)
    return SweepRow(batch=batch, contexts=2, batches=10, fps=fps, batch_ms=times, cores=1.9)


def make_load(
    *,
    used: float = 1.0,
    others: float | None = 0.0,
    contexts_busy: float = 0.5,
    inferred_fps: float = 50.0,
    loop_cores: float = 0.1,
    gpu_busy: float | None = None,
) -> LoadRun:
    none = Percentiles(p50=1.0, p95=1.0, p99=1.0)
    figures = ServiceFigures(
        seconds=4.0,
        codec="h264",
        width=1280,
        height=720,
        decoded_fps=100.0,
        inferred_fps=inferred_fps,
        camera_fps=Spread(min=1.0, mean=1.0, max=1.0, jain=1.0),
        latency_ms=dict.fromkeys(("total", *SERVICE_STAGES, "rest"), none),
        cpu_ms_per_frame=20.0,
        usage=Usage(process=used, simulator=0.0, others=others),
        dropped={"replaced": 200},
        batch_sizes={1: 100},
        close_reasons={},
        batch_ms={},
        decoders={"software": 4},
        rss_start_bytes=1,
        rss_end_bytes=1,
    )
    return LoadRun(
        offered_fps=100.0,
        figures=figures,
        contexts=2,
        contexts_busy=contexts_busy,
        loop_cores=loop_cores,
        stage_cores={"decode": 0.3 * used, "infer": 0.6 * used, "the rest": 0.1 * used},
        batch_ms=20.0,
        python_ms=5.0,
        python_cpu_ms=4.0,
        calls={},
        gpu_busy=gpu_busy,
    )


def facts(load: LoadRun, **changes: Any) -> Facts:
    rows = (make_row(1, 90.0), make_row(4, 95.0))
    return replace(Facts(device="cpu", cores=2, load=load, component_cpu_ms=20.0, rows=rows), **changes)


@pytest.mark.parametrize(
    ("efficiency", "on_gpu", "on_cpu"),
    [
        (1.9, "GPU OPTIMIZED", "CPU-BOUND"),
        (0.81, "GPU OPTIMIZED", "CPU-BOUND"),
        (0.8, "MIXED", "MIXED"),
        (0.5, "MIXED", "MIXED"),
        (0.49, "CPU BOTTLENECK", "WAITING"),
    ],
)
def test_verdicts_change_above_80_and_below_50_percent(efficiency: float, on_gpu: str, on_cpu: str) -> None:
    assert verdict(efficiency, "cuda") == on_gpu
    assert verdict(efficiency, "cpu") == on_cpu


def test_a_stage_costs_what_its_calls_cost() -> None:
    spans = [make_span("decode", 0.001), make_span("decode", 0.003), make_span("infer", 0.004)]
    decode, infer = stage_costs(spans, frames=2, moved={"decode": 8e6}, device="cpu")
    assert (decode.calls, decode.mean_ms, decode.frame_ms) == (2, 2.0, 2.0)
    assert decode.wall_ms.p50 == 2.0
    assert (decode.device_ms, decode.efficiency, decode.device_clock) == (1.0, 0.5, "thread CPU time")
    assert (decode.bytes_per_call, decode.gb_per_s) == (4e6, 2.0)
    assert decode.share == infer.share == 0.5
    # The engine works in threads of its own, which only the process' clock sees.
    assert (infer.device_ms, infer.device_clock) == (8.0, "process CPU time")
    assert infer.bytes_per_call is None
    assert cpu_ms_per_frame(spans, 2) == pytest.approx(5.0)


def test_on_a_gpu_only_what_the_device_dated_has_device_time() -> None:
    spans = [make_span("read", 0.001), make_span("infer", 0.004, device_s=0.003)]
    read, infer = stage_costs(spans, frames=1, moved={}, device="cuda")
    assert (read.device_ms, read.efficiency, read.verdict) == (None, None, None)
    assert (infer.device_ms, infer.verdict, infer.device_clock) == (3.0, "MIXED", "CUDA events")


def test_stages_come_in_a_frames_order_and_those_that_are_not_there_are_named() -> None:
    costs = stage_costs([make_span("publish", 0.1), make_span("read", 0.1)], frames=1, moved={}, device="cpu")
    assert [cost.stage for cost in costs] == ["read", "publish"]
    assert {"host to device", "device to host", "track"} <= set(absent(costs, "cpu"))


def test_the_best_batch_is_the_fastest_that_keeps_to_the_budget() -> None:
    rows = (make_row(1, 100.0, 10.0), make_row(4, 150.0, 30.0), make_row(16, 400.0, 90.0))
    best = best_batch(rows, 33.0)
    assert best is not None and best.batch == 4


def test_of_nearly_equal_batches_the_smallest_is_best() -> None:
    best = best_batch((make_row(1, 99.0), make_row(8, 100.0)), 33.0)
    assert best is not None and best.batch == 1


def test_no_batch_is_best_when_none_keeps_to_the_budget() -> None:
    assert best_batch((make_row(1, 100.0, 34.0),), 33.0) is None


def test_a_sweep_runs_every_size_in_all_contexts_at_once() -> None:
    seen: set[tuple[str, int]] = set()

    def run(frames: Sequence[Any], scores: Sequence[float]) -> list[Any]:
        assert len(frames) == len(scores)
        seen.add((threading.current_thread().name, len(frames)))
        return []

    rows = sweep([run, run], [None] * 4, (1, 4), seconds=0.0, gpu_busy=lambda: 0.5)  # type: ignore[list-item]
    assert [(row.batch, row.contexts) for row in rows] == [(1, 2), (4, 2)]
    assert seen == {(f"profile:context-{context}", size) for context in (0, 1) for size in (1, 4)}
    assert all(row.fps > 0 and row.batches >= 2 and row.cores > 0 for row in rows)
    assert {row.gpu_busy for row in rows} <= {0.5, None}


def test_a_context_that_fails_ends_the_sweep_with_its_error() -> None:
    def fail(frames: Sequence[Any], scores: Sequence[float]) -> list[Any]:
        raise EngineError("the engine gave up")

    def run(frames: Sequence[Any], scores: Sequence[float]) -> list[Any]:
        return []

    with pytest.raises(EngineError, match="gave up"):
        sweep([run, fail], [None], (1,), seconds=0.0)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("load", "device", "resource"),
    [
        (make_load(used=1.9), "cpu", "cpu cores"),
        (make_load(used=1.0, others=0.95), "cpu", "cpu cores"),
        (make_load(contexts_busy=0.95), "cpu", "contexts"),
        (make_load(loop_cores=0.95), "cpu", "event loop"),
        (make_load(inferred_fps=99.0), "cpu", "cameras"),
        (make_load(), "cpu", "hand-over"),
        (make_load(gpu_busy=0.97, contexts_busy=0.95), "cuda", "gpu"),
    ],
)
def test_the_resource_that_binds_is_found_with_evidence(load: LoadRun, device: Any, resource: str) -> None:
    binding = find_binding(facts(load, device=device))
    assert binding.resource == resource
    assert len(binding.evidence) >= 4


def test_evidence_says_what_the_cores_were_used_for() -> None:
    binding = find_binding(facts(make_load(used=1.9)))
    assert "60 % of that for infer" in binding.sentence
    assert binding.evidence[0].startswith("1.90 of 2 cores are in use, other programs 0.00: infer 60 %, decode 30 %")
    assert "2 cores can give 100 times a second; the service inferred 50 fps of 100 offered" in binding.evidence[4]
    assert "1.06 times" in binding.evidence[-1]


def test_memory_is_told_by_step() -> None:
    device = DeviceMemory(allocated_bytes=5, reserved_bytes=9)
    samples = [
        MemorySample(at_s=0.0, step="open", rss_bytes=10, device=None),
        MemorySample(at_s=0.1, step="open", rss_bytes=30, device=device),
        MemorySample(at_s=0.2, step="open", rss_bytes=20, device=None),
        MemorySample(at_s=0.3, step="sweep", rss_bytes=25, device=None),
    ]
    opened, swept = by_step(samples)
    assert (opened.rss_start, opened.rss_end, opened.rss_peak) == (10, 20, 30)
    assert (opened.allocated_peak, opened.reserved_peak) == (5, 9)
    assert swept.allocated_peak is None
    assert [sample.at_s for sample in thinned(samples, most=2)] == [0.1, 0.3]


def test_memory_is_sampled_beside_what_is_measured() -> None:
    with MemoryTimeline(every_s=0.001) as memory:
        memory.device = lambda: DeviceMemory(allocated_bytes=1, reserved_bytes=2)
        with memory.step("open"):
            wait_in_thread(lambda: len(memory.samples) > 3)
    assert {sample.step for sample in memory.samples} == {"open"}
    assert all(sample.rss_bytes > 0 for sample in memory.samples)
