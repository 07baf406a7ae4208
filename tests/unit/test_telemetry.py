"""Nothing that we run on reports to its maker, or leaves an id in the home directory."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "vidette-demo" / "model.onnx"
ENGINES = {
    "onnxruntime": "import onnxruntime; onnxruntime.InferenceSession({model!r})",
    "openvino": "import app.backends.cpu, openvino; openvino.Core().read_model({model!r})",
}


@pytest.mark.parametrize("package", ENGINES)
def test_an_engine_leaves_the_home_directory_empty(package: str, tmp_path: Path) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    home = tmp_path / "home"
    home.mkdir()
    code = f"import app; {ENGINES[package].format(model=str(MODEL))}"
    # An environment of nothing else: where `CI` is set, ONNX Runtime is silent by itself.
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": str(home)}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
