"""The shipped kernels: made from these sources, for every architecture, and what a compiler says of them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.backends.cuda.driver import Driver
from app.backends.cuda.kernels import FATBIN, load_kernels
from app.errors import EngineError
from scripts import build_kernels
from tests.support.host_driver import HostDriver
from tests.support.host_kernels import CHECKOUT, KERNELS, host_module
from tests.support.real_wheels import FOLDER

NAMES = ("begin", "letterbox_f32", "letterbox_f16", "collect_f32", "collect_f16", "finish_f32", "finish_f16")
MAGIC, PTX, ELF = 0xBA55ED50, 1, 2
MAX_SHARED_BYTES = 48 * 1024  # of a block, on every architecture, without asking for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One architecture's code in the container."""

    kind: int
    architecture: int
    payload: bytes


def images(fatbin: bytes) -> Iterator[Image]:
    """The container: 16 bytes of header, then images of at least 64 bytes of header each."""
    magic, _, header, size = struct.unpack_from("<IHHQ", fatbin)
    assert magic == MAGIC and header + size == len(fatbin)
    at = header
    while at < len(fatbin):
        kind, _, header, size = struct.unpack_from("<HHIQ", fatbin, at)
        (architecture,) = struct.unpack_from("<I", fatbin, at + 28)
        yield Image(kind=kind, architecture=architecture, payload=fatbin[at + header : at + header + size])
        at += header + size


def test_the_fatbin_was_made_from_these_sources() -> None:
    assert build_kernels.stale() is None, "run python scripts/build_kernels.py"


def test_the_fatbin_has_machine_code_for_every_architecture_and_ptx_for_those_to_come() -> None:
    found = list(images(FATBIN.read_bytes()))
    assert [each.architecture for each in found if each.kind == ELF] == [75, 80, 86, 87, 89, 90, 100, 120]
    assert [each.architecture for each in found if each.kind == PTX] == [75]


def test_every_image_is_uncompressed_and_complete() -> None:
    for image in images(FATBIN.read_bytes()):
        for name in NAMES:
            symbol = f".text.{name}\0" if image.kind == ELF else f".visible .entry {name}("
            assert symbol.encode() in image.payload, f"sm {image.architecture} lacks {name}"


def test_machine_code_has_the_format_that_drivers_of_cuda_12_know() -> None:
    """CUDA 13 writes its new ELF format for every card, 12.9 only for Blackwell, which needs a new driver anyway."""
    for image in images(FATBIN.read_bytes()):
        if image.kind == ELF:
            old = image.architecture < 100
            assert image.payload[:8] == b"\x7fELF\x02\x01\x01" + (b"\x33" if old else b"\x41")
            assert image.payload[0x30 if old else 0x31] == image.architecture  # in e_flags


def test_the_kernels_that_the_host_tests_run_are_all_there_are() -> None:
    source = "".join(text.decode() for text in build_kernels.sources().values())
    assert source.count('extern "C"') == 4  # begin, and a macro for each pair
    module = host_module().bound_to(HostDriver())
    for name in NAMES:
        letters = module._library.host_format(name.encode())
        assert letters is not None and b"?" not in letters


def test_kernels_that_are_missing_are_named(tmp_path: Path) -> None:
    driver: Driver = HostDriver()
    with driver.bound(), pytest.raises(EngineError, match=r"the kernels .*none\.fatbin cannot be read: No such file"):
        load_kernels(driver, tmp_path / "none.fatbin")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The script and the kernels in a tree of their own."""
    shutil.copytree(KERNELS, tmp_path / KERNELS.relative_to(CHECKOUT))
    (tmp_path / "scripts").mkdir()
    shutil.copy(build_kernels.__file__, tmp_path / "scripts")
    return tmp_path


def script(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script without any package."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(tree / "scripts" / "build_kernels.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_check_finds_sources_that_changed(tree: Path) -> None:
    kernels = tree / KERNELS.relative_to(CHECKOUT)
    assert script(tree, "--check").returncode == 0
    with (kernels / "nms.cuh").open("a", encoding="ascii") as source:
        source.write("// one more line\n")
    done = script(tree, "--check")
    assert done.returncode == 1 and "vidette.fatbin was not made from these sources" in done.stderr


def test_check_finds_a_fatbin_that_changed_or_is_missing(tree: Path) -> None:
    fatbin = tree / KERNELS.relative_to(CHECKOUT) / "vidette.fatbin"
    fatbin.write_bytes(fatbin.read_bytes()[:-1])
    assert script(tree, "--check").returncode == 1
    fatbin.unlink()
    done = script(tree, "--check")
    assert done.returncode == 1 and "vidette.fatbin or its record is missing" in done.stderr


def test_without_its_compiler_the_script_says_how_to_install_it(tree: Path) -> None:
    try:
        ctypes.CDLL("libnvrtc.so.12")
    except OSError:
        done = script(tree)
        assert done.returncode == 2 and "NVRTC 12.9 is not installed: pip install" in done.stderr
    else:
        pytest.skip("NVRTC 12 is installed on this machine for all programs")


def test_the_build_gives_the_same_bytes_again() -> None:
    code = (
        "import hashlib, sys; from scripts import build_kernels as kernels\n"
        "try: print(hashlib.sha256(kernels.build()).hexdigest())\n"
        "except kernels.MissingTool as exc: sys.exit(f'missing: {exc}')"
    )
    folders = {"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{FOLDER / 'nvrtc'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **folders}, capture_output=True, text=True, timeout=100
    )
    if done.stderr.startswith("missing: "):
        pytest.skip(f"{done.stderr.strip()} (make cuda-wheels)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(FATBIN.read_bytes()).hexdigest()


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_nvcc_compiles_every_kernel_without_spills(tmp_path: Path, architecture: str) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    unit, target = str(KERNELS / build_kernels.UNIT), str(tmp_path / "out.cubin")
    command = [nvcc, "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas=-v", "-Werror=all-warnings"]
    done = subprocess.run([*command, "-o", target, unit], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    entries = done.stderr.split("Compiling entry function '")[1:]
    assert {entry.split("'")[0] for entry in entries} == set(NAMES)
    for entry in entries:
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in entry
        registers = int(re.findall(r"Used (\d+) registers", entry)[0])
        assert registers * 512 <= 65_536, entry  # the largest block must find its registers
        assert sum(map(int, re.findall(r"(\d+) bytes smem", entry))) <= MAX_SHARED_BYTES
