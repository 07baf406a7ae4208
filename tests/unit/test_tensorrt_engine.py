"""TensorRT behind `Engine`, driven by a scripted module in the shape of each version that is supported."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.engine import TensorInfo
from app.backends.cuda.tensorrt_engine import ALIGNMENT, TensorRtEngine
from app.backends.cuda.tensorrt_log import listening, tensorrt_logger
from app.errors import DeviceLost, EngineError
from app.inference.model import ModelSpec, read_onnx
from tests.support.fake_tensorrt import (
    VERSIONS,
    DataType,
    FakeTensor,
    FakeTensorRt,
    Logger,
    Script,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    Version,
)
from tests.support.host_driver import HostDriver
from tests.support.host_stream import HostStream
from tests.support.onnx_models import CELLS, SIZE, bright_cells, saved

IMAGES = FakeTensor(name="images", mode=TensorIOMode.INPUT, shape=(-1, 3, SIZE, SIZE))
OUTPUT = FakeTensor(name="output", mode=TensorIOMode.OUTPUT, shape=(-1, CELLS, 7))
ADDRESSES = {"images": 0x1000, "output": 0x2000}
SCRATCH = 0x10000


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_onnx(saved(bright_cells(), Path(tmp_path_factory.mktemp("model")) / "cells.onnx"))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    driver = HostDriver()
    with driver.bound():
        yield driver
    assert not driver.left_open


@pytest.fixture
def stream(driver: HostDriver) -> Iterator[HostStream]:
    stream = driver.stream()
    yield stream
    stream.close()


def loaded(spec: ModelSpec, driver: HostDriver, trt: FakeTensorRt, plan: bytes = b"plan") -> TensorRtEngine:
    return TensorRtEngine(plan, spec, driver=driver, trt=trt)


def of(*tensors: FakeTensor, version: Version = "10", **how: object) -> FakeTensorRt:
    return FakeTensorRt(version, Script(tensors=tensors or (IMAGES, OUTPUT), **how))  # type: ignore[arg-type]


def test_every_version_gives_its_tensors_and_batches(spec: ModelSpec, driver: HostDriver, version: Version) -> None:
    half = replace(IMAGES, dtype=DataType.HALF)
    engine = loaded(spec, driver, of(OUTPUT, half, version=version, batches=(1, 4, 12)))
    assert engine.input == TensorInfo(name="images", element="f16", shape=(3, SIZE, SIZE))
    assert engine.outputs == (TensorInfo(name="output", element="f32", shape=(CELLS, 7)),)
    assert engine.max_batch == 12
    assert engine.scratch_bytes == 1024  # 1000, rounded up
    engine.close()
    engine.close()


def test_every_version_runs_sessions_that_share_memory(
    spec: ModelSpec, driver: HostDriver, stream: HostStream, version: Version
) -> None:
    trt = of(version=version)
    engine = loaded(spec, driver, trt)
    sessions = [engine.session(batch, addresses=ADDRESSES, scratch=SCRATCH) for batch in (1, 4, 16)]
    for session in sessions:
        session.enqueue(stream=stream)
    assert [context.batch for context in trt.contexts] == [1, 4, 16]
    assert all(context.addresses == ADDRESSES for context in trt.contexts)
    assert all(context.active_optimization_profile == 0 for context in trt.contexts)
    assert {context.memory for context in trt.contexts} == {(SCRATCH, None if version == "8.6" else 1024)}
    assert all(context.streams == [stream.handle] for context in trt.contexts)
    for session in sessions:
        session.close()
    engine.close()


def test_an_engine_without_memory_of_its_own_still_gets_an_address(spec: ModelSpec, driver: HostDriver) -> None:
    engine = loaded(spec, driver, of(memory_bytes=0))
    assert engine.scratch_bytes == ALIGNMENT
    engine.close()


def test_a_refused_batch_is_an_error_and_the_next_one_works(
    spec: ModelSpec, driver: HostDriver, stream: HostStream
) -> None:
    trt = of()
    engine = loaded(spec, driver, trt)
    session = engine.session(4, addresses=ADDRESSES, scratch=SCRATCH)
    script = trt.plans[b"plan"]
    script.refuse, script.reason = "execute_async_v3", "Parameter check failed\n at: enqueue"
    with pytest.raises(EngineError, match="queueing a batch of 4 of the engine of model cells failed: Parameter check"):
        session.enqueue(stream=stream)
    script.refuse = None
    session.enqueue(stream=stream)
    assert trt.contexts[0].streams == [stream.handle]
    engine.close()


def test_a_lost_device_is_told_from_a_failed_batch(spec: ModelSpec, driver: HostDriver, stream: HostStream) -> None:
    trt = of()
    engine = loaded(spec, driver, trt)
    session = engine.session(1, addresses=ADDRESSES, scratch=SCRATCH)
    script = trt.plans[b"plan"]
    script.refuse = "execute_async_v3"
    script.reason = "[genericReformat.cu::102] Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
    with pytest.raises(DeviceLost, match="illegal memory access"):
        session.enqueue(stream=stream)
    engine.close()


def test_an_old_reason_is_not_given_for_a_new_failure(spec: ModelSpec, driver: HostDriver, stream: HostStream) -> None:
    trt = of()
    engine = loaded(spec, driver, trt)
    session = engine.session(1, addresses=ADDRESSES, scratch=SCRATCH)
    script = trt.plans[b"plan"]
    script.refuse = "execute_async_v3"
    with pytest.raises(EngineError, match="a reason"):
        session.enqueue(stream=stream)
    trt.contexts[0].execute_async_v3 = lambda stream_handle: False  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="TensorRT gave no reason"):
        session.enqueue(stream=stream)
    engine.close()


def test_the_default_stream_is_refused(spec: ModelSpec, driver: HostDriver) -> None:
    engine = loaded(spec, driver, of())
    session = engine.session(1, addresses=ADDRESSES, scratch=SCRATCH)
    default = HostStream(driver, 0)
    with pytest.raises(EngineError, match="default stream"):
        session.enqueue(stream=default)
    engine.close()


def test_a_plan_that_cannot_be_loaded_says_why(spec: ModelSpec, driver: HostDriver, version: Version) -> None:
    with pytest.raises(EngineError, match="loading the engine of model cells failed: Serialization assertion failed"):
        loaded(spec, driver, of(version=version), b"not a plan")


def test_tensorrt_that_does_not_start_says_why(spec: ModelSpec, driver: HostDriver) -> None:
    trt = of()
    trt.no_runtime = True
    with pytest.raises(EngineError, match="starting TensorRT failed: CUDA initialization failure"):
        loaded(spec, driver, trt)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((IMAGES, replace(IMAGES, name="sizes"), OUTPUT), r"has 2 inputs \(images, sizes\), not one"),
        ((OUTPUT,), "has 0 inputs"),
        ((replace(IMAGES, dtype=DataType.INT8), OUTPUT), "images of type .*INT8; only f32 and f16"),
        ((replace(IMAGES, shape=(-1, 3, 32, SIZE)), OUTPUT), r"images of shape \[3, 32, 64\], not \[3, 64, 64\]"),
        ((replace(IMAGES, shape=(-1, 3, -1, -1)), OUTPUT), r"images of shape \[-1, 3, -1, -1\]: it depends on more"),
        ((replace(IMAGES, format=TensorFormat.CHW32), OUTPUT), "in the layout .*CHW32, not linear"),
        ((replace(IMAGES, shape=(4, 3, SIZE, SIZE)), OUTPUT), "batches of 4 to 4, but a single frame"),
        ((IMAGES, replace(OUTPUT, name="boxes")), "lacks the output output; it has boxes"),
        ((IMAGES, replace(OUTPUT, dtype=DataType.INT32)), "output of type .*INT32"),
        ((IMAGES, replace(OUTPUT, shape=(-1, -1, 7))), r"output of shape \[-1, -1, 7\]: it depends on more than"),
        ((IMAGES, replace(OUTPUT, shape=(-1,))), r"output of shape \[-1\]"),
        ((IMAGES, replace(OUTPUT, location=TensorLocation.HOST)), "wants output in host memory"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(
    spec: ModelSpec, driver: HostDriver, tensors: tuple[FakeTensor, ...], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        loaded(spec, driver, of(*tensors))


def test_a_profile_that_does_not_begin_at_one_is_refused(spec: ModelSpec, driver: HostDriver) -> None:
    with pytest.raises(EngineError, match="takes batches of 4 to 16"):
        loaded(spec, driver, of(batches=(4, 8, 16)))


def test_a_fixed_batch_of_one_is_taken(spec: ModelSpec, driver: HostDriver) -> None:
    fixed = (replace(IMAGES, shape=(1, 3, SIZE, SIZE)), replace(OUTPUT, shape=(1, CELLS, 7)))
    engine = loaded(spec, driver, of(*fixed))
    assert engine.max_batch == 1
    with pytest.raises(EngineError, match="takes batches of 1 to 1, not 2"):
        engine.session(2, addresses=ADDRESSES, scratch=SCRATCH)
    engine.close()


@pytest.mark.parametrize("call", ["create_execution_context", "set_input_shape", "set_tensor_address"])
def test_a_context_that_cannot_be_made_says_why(
    spec: ModelSpec, driver: HostDriver, version: Version, call: str
) -> None:
    engine = loaded(spec, driver, of(version=version, refuse=call, reason="Error Code 3: no"))
    with pytest.raises(EngineError, match=r"making a context of .* for batches of 8 failed: Error Code 3: no"):
        engine.session(8, addresses=ADDRESSES, scratch=SCRATCH)
    engine.close()


def test_a_context_that_memory_lacks_for_says_so(spec: ModelSpec, driver: HostDriver) -> None:
    engine = loaded(
        spec, driver, of(refuse="create_execution_context", reason="Error Code 2: OutOfMemory (out of memory)")
    )
    with pytest.raises(OutOfDeviceMemory):
        engine.session(1, addresses=ADDRESSES, scratch=SCRATCH)
    engine.close()


def test_a_profile_that_only_one_context_may_use_says_so(spec: ModelSpec, driver: HostDriver) -> None:
    engine = loaded(spec, driver, of(version="8.6", first_context_only=True))
    engine.session(1, addresses=ADDRESSES, scratch=SCRATCH)
    with pytest.raises(EngineError, match="profile 0 is in use by another context"):
        engine.session(2, addresses=ADDRESSES, scratch=SCRATCH)
    engine.close()


@pytest.mark.parametrize("shape", [(-1, CELLS, 7), (4, CELLS, 7)])
def test_an_output_whose_batch_is_not_the_inputs_is_refused(
    spec: ModelSpec, driver: HostDriver, shape: tuple[int, ...]
) -> None:
    engine = loaded(spec, driver, of(shapes={"output": shape}))
    with pytest.raises(EngineError, match="a shape may depend on nothing but the batch"):
        engine.session(2, addresses=ADDRESSES, scratch=SCRATCH)
    engine.close()


def test_outputs_that_nobody_reads_get_room_behind_the_memory(spec: ModelSpec, driver: HostDriver) -> None:
    raw = FakeTensor(name="raw", mode=TensorIOMode.OUTPUT, shape=(-1, 3, 10), dtype=DataType.INT32)
    more = FakeTensor(name="more", mode=TensorIOMode.OUTPUT, shape=(-1, 5))
    trt = of(IMAGES, raw, OUTPUT, more)
    engine = loaded(spec, driver, trt)
    assert [tensor.name for tensor in engine.outputs] == ["output"]
    engine.session(16, addresses=ADDRESSES, scratch=SCRATCH)
    places = trt.contexts[0].addresses
    assert places["raw"] == SCRATCH + 1024
    assert places["more"] == places["raw"] + 16 * 3 * 10 * 8
    assert places["more"] + 16 * 5 * 8 <= SCRATCH + engine.scratch_bytes
    assert all(place % ALIGNMENT == 0 for place in places.values())
    engine.close()


def test_what_tensorrt_says_goes_to_the_log(
    spec: ModelSpec, driver: HostDriver, caplog: pytest.LogCaptureFixture
) -> None:
    trt = of()
    engine = loaded(spec, driver, trt)
    logger = engine._engine.logger
    caplog.set_level(logging.DEBUG, logger="app.backends.cuda.tensorrt_log")
    for severity in Logger.Severity:
        logger.log(severity, severity.name)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("CRITICAL", "TensorRT: INTERNAL_ERROR"),
        ("ERROR", "TensorRT: ERROR"),
        ("WARNING", "TensorRT: WARNING"),
        ("DEBUG", "TensorRT: INFO"),
    ]
    engine.close()


def test_who_listens_hears_every_threads_errors() -> None:
    logger = tensorrt_logger(of())
    error, warning = Logger.Severity.ERROR, Logger.Severity.WARNING
    with listening() as heard, listening() as also:
        thread = threading.Thread(target=logger.log, args=(error, "from elsewhere"))
        thread.start()
        thread.join()
        logger.log(warning, "no error")
        logger.log(error, "from here")
    logger.log(error, "later")
    assert list(heard) == list(also) == ["from elsewhere", "from here"]


def test_a_module_has_one_logger() -> None:
    trt = of()
    assert tensorrt_logger(trt) is tensorrt_logger(trt)
    assert tensorrt_logger(trt) is not tensorrt_logger(of())
