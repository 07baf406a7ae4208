"""The adapter on the real PyNvVideoCodec, oldest and newest, over a driver's libraries that stand in for NVIDIA's.

What they cannot show is how NVIDIA's parser and hardware behave; everything between our calls and theirs is real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_wheels import wheels

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "support" / "stand_in_nvdec.c"
VERSIONS = ("nvcodec-2.0", "nvcodec")
LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1")
CODE = """
import ctypes, dataclasses, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)  # functions that are never called are not there
from app.backends.cuda.nvdec import NvdecError, load_nvdec

class Driver:
    index, context_handle = 0, 0xC0

class Stream:
    handle = 0x5F

how = json.loads(sys.argv[1])
nvdec = load_nvdec(Driver())
caps = nvdec.caps("hevc", how["chroma"], how["bits"])
answer = {"caps": dataclasses.asdict(caps), "pictures": [], "errors": []}
decoder = nvdec.open("h264", stream=Stream(), reordered=how["reordered"])
for pts, text in ((1 << 16, b"one"), (2 << 16, b"two")):
    packet = ctypes.create_string_buffer(text, len(text))
    try:
        pictures = decoder.decode(ctypes.addressof(packet), len(text), pts=pts)
    except NvdecError as exc:
        answer["errors"].append(str(exc))
        continue
    for picture in pictures:
        layout = picture.layout(width=how["width"], alignment=1)
        planes = layout.planes(picture.address, full_range=False, matrix="bt601")
        first = [list(ctypes.string_at(at, 3)) for at in (planes.y, planes.y + planes.y_pitch, planes.u, planes.v)]
        last = list(ctypes.string_at(picture.address + layout.nbytes - 1, 1))
        more = {"first": first, "last": last, "nbytes": layout.nbytes}
        answer["pictures"].append({**dataclasses.asdict(picture), **more})
answer["flushed"] = len(decoder.flush())
decoder.close()
print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or pytest.skip("gcc is not installed, so no driver can be stood in for")
    folder = tmp_path_factory.mktemp("driver")
    for name in LIBRARIES:
        # Errors of the library are C++ exceptions, which come back through these functions.
        command = [compiler, "-O1", "-w", "-shared", "-fPIC", "-fexceptions", f"-Wl,-soname,{name}"]
        subprocess.run([*command, "-o", str(folder / name), str(SOURCE)], check=True, timeout=60)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    answer: Any
    seen: list[str]  # by the driver's libraries


def run(
    version: str,
    libraries: Path,
    *,
    chroma: str = "420",
    bits: int = 8,
    width: int = 97,
    reordered: bool = False,
    fault: str = "",
) -> Run:
    """Decode two packets in a process of its own."""
    code = {"400": 0, "420": 1, "422": 2, "444": 3}[chroma]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(wheels(version)))),
        "LD_LIBRARY_PATH": str(libraries),
        "STAND_IN_BITS": str(bits),
        "STAND_IN_CHROMA": str(code),
        "STAND_IN_WIDTH": str(width),
        "STAND_IN_FAULT": fault,
    }
    how = json.dumps({"chroma": chroma, "bits": bits, "width": width, "reordered": reordered})
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return Run(answer=json.loads(done.stdout.splitlines()[-1]), seen=done.stderr.splitlines())


def row(start: int, y: int) -> list[int]:
    return [(7 * y + start + x) % 256 for x in range(3)]


# The surface that is decoded into has 80 rows for 65, so chroma begins at row 80 there, and v at 160 when it has a
# plane of its own.
FORMATS = [
    ("420", 8, "NV12", 98, 98 * (65 + 33), [row(0, 0), row(0, 1), row(0, 80), row(1, 80)], 7 * 112 + 97),
    ("420", 10, "P016", 98, 196 * (65 + 33), [row(0, 0), row(0, 1), row(0, 80), row(2, 80)], 7 * 112 + 195),
    ("422", 8, "NV16", 98, 98 * 65 * 2, [row(0, 0), row(0, 1), row(0, 80), row(1, 80)], 7 * 144 + 97),
    ("422", 10, "P216", 98, 196 * 65 * 2, [row(0, 0), row(0, 1), row(0, 80), row(2, 80)], 7 * 144 + 195),
    ("444", 8, "YUV444", 97, 97 * 65 * 3, [row(0, 0), row(0, 1), row(0, 80), row(0, 160)], 7 * 224 + 96),
    ("444", 10, "YUV444_16Bit", 97, 194 * 65 * 3, [row(0, 0), row(0, 1), row(0, 80), row(0, 160)], 7 * 224 + 193),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("chroma", "bits", "pixels", "width", "nbytes", "first", "last"), FORMATS)
def test_pictures_lie_where_the_adapter_looks_for_them(
    libraries: Path,
    version: str,
    chroma: str,
    bits: int,
    pixels: str,
    width: int,
    nbytes: int,
    first: list[list[int]],
    last: int,
) -> None:
    done = run(version, libraries, chroma=chroma, bits=bits)
    pictures = done.answer["pictures"]
    assert [each["pts"] for each in pictures] == [1 << 16, 2 << 16]
    for picture in pictures:
        assert (picture["pixels"], picture["width"], picture["height"]) == (pixels, width, 65)
        assert picture["first"] == first
        assert picture["last"] == [last % 256]
        assert picture["nbytes"] == nbytes
    assert f"allocate {nbytes}" in done.seen, "the library needs as much as the layout says"
    assert pictures[0]["address"] == pictures[1]["address"], "the next call overwrites a picture"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("reordered", "delay", "flags"), [(False, 0, 2 | 8), (True, 1, 2)])
def test_packets_arrive_whole_with_the_flags_of_their_latency(
    libraries: Path, version: str, reordered: bool, delay: int, flags: int
) -> None:
    done = run(version, libraries, reordered=reordered)
    assert f"parser codec 4 delay {delay}" in done.seen
    packets = [line for line in done.seen if line.startswith("packet")]
    assert packets == [f"packet flags {flags} bytes one", f"packet flags {flags} bytes two", "packet flags 3 bytes "]
    assert done.answer["flushed"] == 0
    assert {line for line in done.seen if line.startswith("copy")} == {"copy on 0x5f"}, "on our stream, never another"
    assert done.seen[-2:] == ["parser gone", "decoder gone"]


@pytest.mark.parametrize("version", VERSIONS)
def test_capabilities_are_read(libraries: Path, version: str) -> None:
    done = run(version, libraries, chroma="444", bits=10)
    assert "caps codec 8 chroma 3 bits 10" in done.seen
    assert done.answer["caps"] == {
        "supported": True,
        "min_width": 48,
        "min_height": 16,
        "max_width": 4096,
        "max_height": 2304,
        "max_macroblocks": 36864,
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("fault", "width", "errors"),
    [
        ("memory", 97, ["NVDEC failed: CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY"] * 2),
        ("decode", 97, ["returned error 999"] * 2),
        ("decoder", 97, ["returned error 2", "not initialized"]),
        ("", 5000, ["NVDEC failed: Resolution not supported on this GPU"]),
        ("size", 97, ["NVDEC failed: Reconfigure Not supported when width/height > maxwidth/maxheight"]),
    ],
)
def test_errors_come_back_as_sentences_where_the_driver_lets_them_through(
    libraries: Path, version: str, fault: str, width: int, errors: list[str]
) -> None:
    found = run(version, libraries, fault=fault, width=width).answer["errors"]
    assert len(found) >= len(errors)
    for sentence, error in zip(found, errors, strict=False):
        assert error in sentence
        assert "\n" not in sentence and "/project" not in sentence
