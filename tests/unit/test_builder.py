"""Building engines: what each TensorRT is told, how far it is, what stops it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.backends.cuda import build as build_module
from app.backends.cuda.build import EngineRequest, find_or_build
from app.backends.cuda.builder import (
    BuildProgress,
    Job,
    build_plan,
    load_runtime,
    rtx_capabilities,
    strongly_typed,
)
from app.backends.cuda.engine_file import Precision, Runtime
from app.errors import BackendUnavailable, Cancelled, ModelError
from app.inference.model import read_onnx
from tests.support.onnx_models import SIZE, bright_cells, saved

JOB = Job(
    name="cells",
    model=bright_cells(batch="batch"),
    input_name="images",
    input_width=SIZE,
    input_height=SIZE,
    precision="fp16",
    opt_batch=8,
    max_batch=16,
)


@dataclass
class Told:
    """What a builder was told."""

    network_flags: int = 0
    flags: list[str] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    profile: Sequence[tuple[int, ...]] = ()
    workspace: int | None = None
    tactics: int | None = None
    timings: list[bytes] = field(default_factory=list)


def names(*members: str) -> Any:
    return IntEnum("Names", {name: number for number, name in enumerate(members)})


class FakeTrt:
    """The builder's side of TensorRT, of one version. `steps` are what its progress monitor is told, if it has one."""

    def __init__(self, version: str, *, plan: bytes | None = b"plan", error: Any = None, steps: int = 0) -> None:
        self.told = Told()
        self.__version__ = version
        old, rtx = version.startswith("8."), version.startswith("1.")
        severities = names("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
        self.ILogger: Any = type("ILogger", (), {"Severity": severities})
        self.MemoryPoolType = names("WORKSPACE")
        if old:
            self.NetworkDefinitionCreationFlag = names("EXPLICIT_BATCH", "EXPLICIT_PRECISION")
            self.BuilderFlag = names("FP16", "INT8", "TF32")
            self.PreviewFeature = names("PROFILE_SHARING_0806")
            self.TacticSource = names("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
        else:
            self.NetworkDefinitionCreationFlag = names("STRONGLY_TYPED")
            self.BuilderFlag = names("TF32", "REQUIRE_USER_ALLOCATION") if rtx else names("TF32")
            self.IProgressMonitor = type("IProgressMonitor", (), {})
        if rtx:
            self.ComputeCapability = names("NONE", "CURRENT", "SM75", "SM86", "SM120")
        self._plan, self._error, self._steps = plan, error, steps

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=lambda: _Config(self.told),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self._set_shape),
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        count = 0 if self._error is None else 1
        return SimpleNamespace(
            parse=lambda model: self._error is None, num_errors=count, get_error=lambda index: self._error
        )

    def _network(self, flags: int) -> object:
        self.told.network_flags = flags
        return object()

    def _set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert name == "images"
        self.told.profile = shapes

    def _build(self, network: Any, config: Any) -> bytes | None:
        if self._plan is None:
            self.logger.log(self.ILogger.Severity.ERROR, "no tactic fits\n[checkMacros.cpp::98] CUDA 35")
        monitor = config.progress_monitor
        if monitor is None:
            return self._plan
        monitor.phase_start("Tactic selection", None, self._steps)
        for step in range(self._steps):
            if not monitor.step_complete("Tactic selection", step):
                return None
        monitor.phase_finish("Tactic selection")
        return self._plan


class _Config:
    """Of a builder. Its tactic sources are all five at first."""

    num_compute_capabilities = 0
    max_aux_streams = -1
    progress_monitor: Any = None

    def __init__(self, told: Told) -> None:
        self._told = told

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._told.workspace = size

    def set_flag(self, flag: Any) -> None:
        self._told.flags.append(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._told.flags.append(f"no {flag.name}")

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._told.previews.append(feature.name)

    def get_tactic_sources(self) -> int:
        return 0b11111

    def set_tactic_sources(self, sources: int) -> bool:
        self._told.tactics = sources
        return True

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self._told.capabilities.append(capability.name)
        return True

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self._told.timings.append(cache)
        return cache != b"of another GPU"

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"timings")


def build(trt: FakeTrt, job: Job = JOB, on_progress: Callable[[str], None] = lambda sentence: None) -> Told:
    built = build_plan(trt, job, on_progress=on_progress)  # type: ignore[arg-type, unused-ignore]
    assert (built.plan, built.timing_cache) == (b"plan", b"timings")
    return trt.told


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1", "11.4.0", "1.7.1"])
def test_every_tensorrt_gets_one_profile_from_one_image_to_the_largest_batch(version: str) -> None:
    told = build(FakeTrt(version), replace(JOB, workspace_bytes=1 << 30))
    assert told.profile == ((1, 3, SIZE, SIZE), (8, 3, SIZE, SIZE), (16, 3, SIZE, SIZE))
    assert told.workspace == 1 << 30


def test_tensorrt_8_is_told_the_precision_by_flags() -> None:
    wanted: dict[Precision, list[str]] = {"fp32": ["no TF32"], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}
    for precision, flags in wanted.items():
        trt = FakeTrt("8.6.1")
        told = build(trt, replace(JOB, precision=precision))
        assert told.flags == flags
        assert told.network_flags == 1 << trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
        assert told.previews == ["PROFILE_SHARING_0806"]
        assert not strongly_typed(trt)  # type: ignore[arg-type, unused-ignore]


def test_tensorrt_8_does_without_the_libraries_that_are_not_here() -> None:
    told = build(FakeTrt("8.6.1"))
    assert told.tactics is None or told.tactics & 0b11000 == 0b11000  # its own convolutions stay
    if told.tactics is not None:
        assert told.tactics != 0b11111


@pytest.mark.parametrize("version", ["10.16.1", "11.4.0", "1.7.1"])
def test_later_ones_are_strongly_typed(version: str) -> None:
    trt = FakeTrt(version)
    own = ["REQUIRE_USER_ALLOCATION"] if version.startswith("1.") else []  # so that it can be captured into a graph
    assert build(trt).flags == own
    assert trt.told.network_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.told.previews == [] and trt.told.tactics is None
    assert build(FakeTrt(version), replace(JOB, precision="fp32")).flags == ["no TF32", *own]


def test_tensorrt_rtx_is_told_what_to_build_for() -> None:
    trt = FakeTrt("1.7.1")
    assert rtx_capabilities(trt) == ("7.5", "8.6", "12.0")  # type: ignore[arg-type, unused-ignore]
    assert build(trt, replace(JOB, compute_capabilities=("7.5", "12.0"))).capabilities == ["SM75", "SM120"]
    assert build(FakeTrt("1.7.1")).capabilities == []


def test_tensorrt_rtx_is_told_even_of_the_gpu_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turing = SimpleNamespace(name="NVIDIA T4", compute_capability=(7, 5))  # which its default leaves out
    spec = read_onnx(saved(bright_cells(), tmp_path / "cells.onnx"))
    for runtime, version, told in (("tensorrt_rtx", "1.7.1", ["SM75"]), ("tensorrt", "10.16.1", [])):
        trt = FakeTrt(version)
        monkeypatch.setattr(build_module, "load_runtime", lambda _runtime, trt=trt: trt)
        request = EngineRequest(runtime=cast(Runtime, runtime), precision="fp32")
        engine = find_or_build(spec, request, folder=tmp_path, gpu=turing)
        assert trt.told.capabilities == told
        assert (engine.identity.gpu, engine.identity.compute_capability) == ("NVIDIA T4", "7.5")


def test_timings_of_another_gpu_are_begun_anew() -> None:
    assert build(FakeTrt("11.4.0"), replace(JOB, timing_cache=b"mine")).timings == [b"mine"]
    assert build(FakeTrt("11.4.0"), replace(JOB, timing_cache=b"of another GPU")).timings == [b"of another GPU", b""]


def test_progress_is_told_where_tensorrt_tells_it() -> None:
    told: list[str] = []
    build(FakeTrt("11.4.0", steps=4), on_progress=told.append)
    assert told == [f"building the engine: {percent} % (Tactic selection)" for percent in (0, 25, 50, 75, 100)]
    told.clear()
    build(FakeTrt("8.6.1"), on_progress=told.append)
    assert told == ["building the engine"]


def test_a_build_that_nobody_wants_any_more_is_stopped() -> None:
    told: list[str] = []

    def until_half(sentence: str) -> None:
        told.append(sentence)
        if "50 %" in sentence:
            raise Cancelled("the service stops")

    with pytest.raises(Cancelled, match="the service stops"):
        build(FakeTrt("11.4.0", steps=100), on_progress=until_half)
    assert told[-1] == "building the engine: 50 % (Tactic selection)"


def test_a_model_that_cannot_be_read_is_a_sentence_with_the_node() -> None:
    error = SimpleNamespace(
        desc=lambda: "Invalid Node - x\nno such operator\n[checkMacros.cpp::250] CUDA", node=lambda: 3
    )
    node = JOB.model.graph.node[3]
    with pytest.raises(ModelError) as refused:
        build(FakeTrt("11.4.0", error=error))
    wanted = f"model cells cannot be built by TensorRT: node {node.output[0]} ({node.op_type}): no such operator"
    assert str(refused.value) == wanted


def test_a_build_that_fails_gives_tensorrts_reason() -> None:
    with pytest.raises(ModelError, match=r"^model cells cannot be built by TensorRT: no tactic fits$"):
        build(FakeTrt("11.4.0", plan=None))
    targets = replace(JOB, compute_capabilities=("7.5", "8.6"))
    with pytest.raises(ModelError, match=r"TensorRT \(for compute capabilities 7\.5, 8\.6\): no tactic fits$"):
        build(FakeTrt("1.7.1", plan=None), targets)


def test_nested_phases_make_one_percentage_that_never_falls() -> None:
    progress = BuildProgress()
    assert progress.start("Building", 2) == "building the engine: 0 % (Building)"
    assert progress.start("Timing", 4) == "building the engine: 0 % (Timing)"
    assert progress.step("Timing", 1) == "building the engine: 25 % (Timing)"
    progress.finish("Timing")
    assert progress.step("Building", 0) == "building the engine: 50 % (Building)"
    assert progress.start("More", 10) == "building the engine: 50 % (More)"
    assert progress.step("More", 9) == "building the engine: 100 % (More)"
    assert progress.step("Building", 0) == "building the engine: 100 % (More)"
    progress.finish("Building")
    progress.finish("never begun")
    assert progress.start("Building", 1).startswith("building the engine: 100 %")


def test_a_runtime_that_is_not_installed_is_a_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, install in (("tensorrt", "cuda"), ("tensorrt_rtx", "rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(BackendUnavailable, match=rf"pip install 'vidette\[{install}\]'"):
            load_runtime(module)  # type: ignore[arg-type]
