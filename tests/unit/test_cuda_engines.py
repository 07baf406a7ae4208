"""Which engine the settings mean, and what they are told when it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from app.backends.cuda import engines
from app.backends.cuda.build import EngineRequest
from app.backends.cuda.engine_file import EngineFile, Identity, write_engine_file
from app.backends.cuda.engines import find_engine, load_engine, open_driver
from app.errors import BackendUnavailable, EngineError, ModelError
from app.inference.model import ModelSpec, read_onnx
from app.settings import Settings
from tests.support.fake_tensorrt import FakeTensor, FakeTensorRt, Script, TensorIOMode
from tests.support.host_driver import HostDriver
from tests.support.onnx_models import CELLS, SIZE, bright_cells, saved


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver(name="NVIDIA L4", compute_capability=(8, 9))


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_onnx(saved(bright_cells(), tmp_path / "models" / "cells.onnx"))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A TensorRT 10.16.1 that is installed."""
    images = FakeTensor(name="images", mode=TensorIOMode.INPUT, shape=(-1, 3, SIZE, SIZE))
    output = FakeTensor(name="output", mode=TensorIOMode.OUTPUT, shape=(-1, CELLS, 7))
    module: Any = FakeTensorRt("10", Script(tensors=(images, output)))
    module.__version__ = "10.16.1"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module  # type: ignore[no-any-return]


def engine_for(spec: ModelSpec, path: Path, *, gpu: str = "NVIDIA L4") -> EngineFile:
    identity = Identity(
        model_sha256=spec.sha256,
        runtime="tensorrt",
        runtime_version="10.16.1",
        gpu=gpu,
        compute_capability="8.9",
        precision="fp16",
        min_batch=1,
        opt_batch=8,
        max_batch=16,
        input_width=SIZE,
        input_height=SIZE,
    )
    return write_engine_file(path, b"plan", identity=identity, spec=spec)


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models", **values)


def silent(sentence: str) -> None: ...


@pytest.mark.parametrize("model", ["{models}/cells.engine", "cells.engine"])
def test_an_engine_that_is_named_is_taken(
    tmp_path: Path, spec: ModelSpec, driver: HostDriver, tensorrt: FakeTensorRt, model: str
) -> None:
    written = engine_for(spec, tmp_path / "models" / "cells.engine")
    named = settings(tmp_path, model=model.format(models=tmp_path / "models"))
    assert find_engine(named, driver, silent) == written
    with driver.bound():
        engine = load_engine(written, driver)
        assert (engine.max_batch, engine.input.name) == (16, "images")
        engine.close()
    assert not driver.left_open


def test_an_engine_of_another_gpu_is_refused(
    tmp_path: Path, spec: ModelSpec, driver: HostDriver, tensorrt: FakeTensorRt
) -> None:
    engine_for(spec, tmp_path / "models" / "cells.engine", gpu="NVIDIA T4")
    with pytest.raises(ModelError, match="was built for NVIDIA T4, this is NVIDIA L4"):
        find_engine(settings(tmp_path, model="cells.engine"), driver, silent)


def test_a_damaged_engine_is_refused_when_it_is_loaded(
    tmp_path: Path, spec: ModelSpec, driver: HostDriver, tensorrt: FakeTensorRt
) -> None:
    written = engine_for(spec, tmp_path / "models" / "cells.engine")
    written.path.write_bytes(b"pl")
    with driver.bound(), pytest.raises(ModelError, match="is truncated"):
        load_engine(written, driver)


@pytest.mark.parametrize(
    ("values", "quantised", "precision", "largest", "usual"),
    [
        ({}, False, "fp16", 16, 8),
        ({}, True, "int8", 16, 8),
        ({"backend": {"precision": "fp32"}, "batching": {"max_size": 4}}, True, "fp32", 4, 4),
        ({"batching": {"max_size": 1}}, False, "fp16", 1, 1),
    ],
)
def test_an_engine_is_built_as_the_settings_and_the_model_want(
    tmp_path: Path,
    driver: HostDriver,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    quantised: bool,
    precision: str,
    largest: int,
    usual: int,
) -> None:
    saved(bright_cells(quantised=quantised), tmp_path / "models" / "cells.onnx")
    asked: list[tuple[EngineRequest, Path, object]] = []

    def find_or_build(spec: ModelSpec, request: EngineRequest, *, folder: Path, gpu: object, **_: object) -> str:
        asked.append((request, folder, gpu))
        return "the engine"

    monkeypatch.setattr(engines, "find_or_build", find_or_build)
    monkeypatch.setattr(engines, "usable_runtime", lambda _settings: "tensorrt")
    found: object = find_engine(settings(tmp_path, model="cells", **values), driver, silent)
    ((request, folder, gpu),) = asked
    assert found == "the engine" and folder == tmp_path / "data" / "engines" and gpu is driver
    assert (request.precision, request.max_batch, request.opt_batch) == (precision, largest, usual)


def test_what_is_missing_is_told(tmp_path: Path, spec: ModelSpec, driver: HostDriver) -> None:
    if any(module in sys.modules for module in ("tensorrt", "tensorrt_rtx")):
        pytest.skip("TensorRT is installed")
    with pytest.raises(BackendUnavailable, match="backend cuda is not available: TensorRT"):
        find_engine(settings(tmp_path, model="cells"), driver, silent)


def test_a_missing_pycuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "app.backends.cuda.pycuda_driver", raising=False)
    with pytest.raises(BackendUnavailable, match="pycuda cannot be imported"):
        open_driver(0)


def test_an_engine_that_tensorrt_refuses_says_why(
    tmp_path: Path, spec: ModelSpec, driver: HostDriver, tensorrt: FakeTensorRt
) -> None:
    written = engine_for(spec, tmp_path / "models" / "cells.engine")
    tensorrt.plans.clear()
    with driver.bound(), pytest.raises(EngineError, match="magic tag does not match"):
        load_engine(written, driver)
    assert not driver.left_open
