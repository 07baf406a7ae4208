"""The core imports no device library, and no module outgrows its room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "app"
# Rooms that may: the backends, the simulator, and the commands and measurements, which run both.
OUTSIDE = ("backends/", "simulator/", "commands/", "measure/")
DEVICE_LIBRARIES = frozenset(
    {
        "av",
        "openvino",
        "onnx",
        "onnxruntime",
        "tensorrt",
        "tensorrt_rtx",
        "pycuda",
        "PyNvVideoCodec",
        "cuda",
        "pynvml",
        "torch",
    }
)
# What may import what besides: pictures are drawn in one place, ONNX files are read and written in the model's room.
ALLOWED = {
    "results/drawing.py": {"cv2"},
    "inference/int8_file.py": {"onnx"},
    "inference/onnx_batch.py": {"onnx"},
    "inference/onnx_file.py": {"onnx"},
    "inference/onnx_focus.py": {"onnx"},
}
MAX_LINES = 350
MODULES = sorted(APP.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(APP).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports anywhere, late imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def backends_imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("app.backends."):
            yield node.module.split(".")[2]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_core_imports_no_device_library(path: Path) -> None:
    if name(path).startswith(OUTSIDE):
        return
    forbidden = (DEVICE_LIBRARIES | {"cv2"}) - ALLOWED.get(name(path), set())
    assert not forbidden & set(imported(path))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_has_at_most_350_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{name(path)} has {lines} lines"


def test_only_the_choice_imports_a_backend() -> None:
    core = [path for path in MODULES if not name(path).startswith(OUTSIDE)]
    found = {name(path): set(backends_imported(path)) - {"base", "select"} for path in core}
    assert not {module for module, names in found.items() if names}


def test_the_core_imports_nothing_of_the_simulator_or_the_commands() -> None:
    for path in MODULES:
        if not name(path).startswith((*OUTSIDE, "cli/")):
            text = path.read_text(encoding="utf-8")
            assert "app.simulator" not in text, name(path)
            assert "from app.commands" not in text, name(path)


def test_importing_the_application_loads_no_device_library() -> None:
    code = (
        "import sys, app.main, app.server, app.cli; "
        f"print(sorted({{name.split('.')[0] for name in sys.modules}} & {set(DEVICE_LIBRARIES | {'cv2'})!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=APP.parent, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
