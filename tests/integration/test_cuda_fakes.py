"""The fakes that drive the CUDA backend in tests have the names and the parameters of the real packages."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_tensorrt
from tests.support.fake_tensorrt import Version
from tests.support.real_wheels import SETS, write_stubs
from tests.unit.test_cuda_graphs import FakeBindings

REAL: dict[Version, str] = {
    "8.6": "TensorRT 8.6",
    "10": "TensorRT 10.16",
    "11": "TensorRT 11",
    "rtx": "TensorRT-RTX",
}
SINCE_10 = {
    "ICudaEngine": fake_tensorrt.FakeEngine,
    "IExecutionContext": fake_tensorrt.FakeContextSince10,
    "Runtime": fake_tensorrt.FakeRuntime,
}
FAKES: dict[Version, dict[str, type]] = {
    "8.6": {
        "ICudaEngine": fake_tensorrt.FakeEngineOf86,
        "IExecutionContext": fake_tensorrt.FakeContextOf86,
        "Runtime": fake_tensorrt.FakeRuntime,
    },
    "10": SINCE_10,
    "11": SINCE_10,
    "rtx": {**SINCE_10, "IRuntimeConfig": fake_tensorrt.FakeRuntimeConfig},
}
# Parts of a fake that are the test's own.
OWN = {"script", "trt", "logger", "tensors", "made", "refused", "strategy"}


@pytest.fixture(params=REAL)
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


@pytest.fixture
def stubs(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(REAL[version], tmp_path_factory.getbasetemp())


@cache
def written(name: str, base: Path) -> Path:
    """The folder of a set's stubs."""
    folder = base / "fakes" / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)  # a skip for want of packages left it
    modules = [module for module in SETS[name] if module.class_name in ("TensorRt", "CudaBindings")]
    write_stubs(modules, folder, base / "fakes" / "scratch")
    return folder


def members(body: list[ast.stmt]) -> dict[str, list[list[str]]]:
    """Each name of a class or a module: the parameters of every overload of it, none for what is not called."""
    found: dict[str, list[list[str]]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args]
            names = [argument.arg for argument in arguments if argument.arg != "self"]
            found.setdefault(node.name, []).append(names)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, [])
        elif isinstance(node, ast.ClassDef):
            found.setdefault(node.name, [])
    return found


def classes(stub: Path) -> dict[str, dict[str, list[list[str]]]]:
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    return {node.name: members(node.body) for node in tree.body if isinstance(node, ast.ClassDef)}


def test_the_fake_tensorrt_has_what_the_real_one_has(version: Version, stubs: Path) -> None:
    real = classes(stubs / "tensorrt.pyi")
    compared = 0
    for name, fake in FAKES[version].items():
        for attribute in dir(fake):
            value = inspect.getattr_static(fake, attribute)
            if attribute.startswith("_") or attribute in OWN:
                continue
            if attribute == "create_runtime_config" and version != "rtx":
                continue  # refuses to be called there
            assert attribute in real[name], f"{name} of {REAL[version]} has no {attribute}"
            if inspect.isfunction(value):
                parameters = list(inspect.signature(value).parameters)[1:]
                assert parameters in real[name][attribute], f"{name}.{attribute} takes {real[name][attribute]}"
            compared += 1
    assert compared >= 15


def test_the_fake_modules_enumerations_are_the_real_ones(version: Version, stubs: Path) -> None:
    real = classes(stubs / "tensorrt.pyi")
    module = fake_tensorrt.FakeTensorRt(version, fake_tensorrt.Script(tensors=()))
    kinds = ["DataType", "TensorIOMode", "TensorLocation", "TensorFormat", "ExecutionContextAllocationStrategy"]
    for name in [*kinds, "DynamicShapesKernelSpecializationStrategy"]:
        kind: Any = getattr(module, name, None)
        assert (kind is not None) == (name in real), name
        if kind is not None:
            assert set(kind.__members__) <= set(real[name]), name
    assert set(fake_tensorrt.Logger.Severity.__members__) <= set(_severities(stubs / "tensorrt.pyi"))


def _severities(stub: Path) -> dict[str, list[list[str]]]:
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    logger = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ILogger")
    inner = next(node for node in logger.body if isinstance(node, ast.ClassDef) and node.name == "Severity")
    return members(inner.body)


def test_the_fake_bindings_have_what_the_real_ones_have(stubs: Path) -> None:
    real = members(ast.parse((stubs / "cuda" / "bindings" / "driver.pyi").read_text(encoding="utf-8")).body)
    calls = {name: value for name, value in vars(FakeBindings).items() if name.startswith("cu")}
    assert len(calls) >= 8 and "CUstreamCaptureMode" in real
    for name, value in calls.items():
        assert list(inspect.signature(value).parameters)[1:] in real[name], f"{name} takes {real[name]}"
