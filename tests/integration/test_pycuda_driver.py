"""The driver on the real pycuda and cuda-bindings, over a libcuda that was compiled for the test.

It shows that every call has the name, the arguments and the meaning that these packages give it, and who has which
context when. It does not show what a GPU does with them: `tests/gpu` does.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.real_wheels import ROOT, wheels

SUPPORT = ROOT / "tests" / "support"


def _scenarios() -> list[str]:
    """The names in `pycuda_scenarios.py`, which cannot be imported here: it loads the fake."""
    tree = ast.parse((SUPPORT / "pycuda_scenarios.py").read_text(encoding="utf-8"))
    helpers = {"existing", "fail", "raises"}
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in helpers]


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1 over host memory."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    folder: Path = tmp_path_factory.mktemp("libcuda")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1"), str(SUPPORT / "fake_libcuda.c")], check=True)
    return folder


@pytest.mark.parametrize("bindings", ["cuda-bindings-12", "cuda-bindings-13"])
@pytest.mark.parametrize("scenario", _scenarios())
def test_the_driver_on_real_pycuda(libcuda: Path, scenario: str, bindings: str) -> None:
    folders = (str(ROOT), str(wheels("pycuda")), str(wheels(bindings)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pycuda_scenarios", scenario],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(libcuda), "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stderr
    # pycuda complains there of whatever it could not free; so it must where the device is lost.
    assert ("could not be let go" in done.stderr) if "lost" in scenario else not done.stderr
