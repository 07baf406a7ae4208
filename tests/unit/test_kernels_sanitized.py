"""The kernel tests once more, under AddressSanitizer and UndefinedBehaviorSanitizer, which must really be watching."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host_kernels import CHECKOUT, SANITIZE, SANITIZED, compile_host_kernels

GXX = shutil.which("g++")
# A kernel that does what none may do, to a block of ten ints.
MISDEEDS = """
extern "C" __global__ void misdeed(int* target, int number) {
    if (threadIdx.x == 0) BODY
}
#define EXTRA_TABLE(KERNEL) KERNEL(misdeed, BARRIERS)
"""
SCRIPT = """
import sys
from pathlib import Path
from tests.support.host_driver import HostDriver
from tests.support.host_kernels import HostModule

driver = HostDriver(module=HostModule(Path(sys.argv[1])))
with driver.bound():
    stream, block = driver.stream(), driver.allocate(40)
    driver.fill(block.address, 0, 40, stream=stream)
    kernel = driver.load_module(bytes.fromhex("50ed55ba")).kernel("misdeed", "Pi")
    kernel.launch((1, 1, 1), (2, 1, 1), (block.address, int(sys.argv[2])), stream=stream)
    block.close()
    print("nobody noticed")
"""


def runtime() -> str:
    """AddressSanitizer's library, which must come first in a process that was not made for it."""
    if GXX is None:
        pytest.skip("g++ is not installed, so the kernels cannot be compiled for the host")
    found = subprocess.run([GXX, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = found.stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    return library


def sanitized(*command: str, timeout_s: float = 110.0) -> subprocess.CompletedProcess[str]:
    """Run Python under the sanitizers. Python itself leaks, so leaks are not looked for."""
    environment = {**os.environ, "LD_PRELOAD": runtime(), "ASAN_OPTIONS": "detect_leaks=0", SANITIZED: "1"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=CHECKOUT, env=environment, timeout=timeout_s
    )


def test_the_kernel_tests_pass_under_the_sanitizers() -> None:
    tests = ("tests/unit/test_kernels_letterbox.py", "tests/unit/test_kernels_postprocess.py")
    done = sanitized("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("body", "number", "complaint"),
    [
        pytest.param("target[number] = 1;", 9, None, id="the last element"),
        pytest.param("target[number] = 1;", 10, "AddressSanitizer", id="a write one behind"),
        pytest.param("target[0] = target[number];", -1, "AddressSanitizer", id="a read one before"),
        pytest.param("target[0] = number + 1;", 2**31 - 1, "signed integer overflow", id="an overflow"),
        pytest.param("*(int*)((char*)target + number) = 1;", 2, "misaligned address", id="a misaligned write"),
        pytest.param(
            "{ __shared__ int a[4]; a[number] = 1; target[0] = a[0]; }", 4, "out of bounds", id="shared memory"
        ),
    ],
)
def test_the_sanitizers_notice(tmp_path: Path, body: str, number: int, complaint: str | None) -> None:
    library = compiled(tmp_path, body, "false", SANITIZE)
    done = sanitized("-c", SCRIPT, str(library), str(number))
    if complaint is None:
        assert done.returncode == 0 and "nobody noticed" in done.stdout, done.stderr
    else:
        assert done.returncode != 0 and complaint in done.stderr, done.stdout + done.stderr


def test_the_guards_notice_a_write_without_any_sanitizer(tmp_path: Path) -> None:
    library = compiled(tmp_path, "target[number] = 1;", "false", ())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library), "10"], capture_output=True, text=True, cwd=CHECKOUT, timeout=60
    )
    assert "something wrote behind HostMemory" in done.stderr


@pytest.mark.parametrize(
    ("body", "barriers", "complaint"),
    [
        ("__syncthreads();", "true", "past a barrier that others wait at"),
        ("{} __syncthreads();", "false", "it has barriers, but the table"),
    ],
)
def test_a_barrier_that_not_all_threads_reach_is_noticed(
    tmp_path: Path, body: str, barriers: str, complaint: str
) -> None:
    library = compiled(tmp_path, body, barriers, ())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library), "0"], capture_output=True, text=True, cwd=CHECKOUT, timeout=60
    )
    assert complaint in done.stderr


def compiled(directory: Path, body: str, barriers: str, flags: tuple[str, ...]) -> Path:
    """The host library with one kernel more."""
    if GXX is None:
        pytest.skip("g++ is not installed, so the kernels cannot be compiled for the host")
    extra = directory / "misdeed.cuh"
    extra.write_text(MISDEEDS.replace("BODY", body).replace("BARRIERS", barriers), encoding="ascii")
    library = directory / "misdeed.so"
    compile_host_kernels(GXX, library, (*flags, "-O0", "-Wno-error", f'-DEXTRA_KERNELS="{extra}"'))
    return library
