"""What the threads of cameras held goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Six threads hold three 4K pictures each at the same time, twice: glibc raises its threshold with the first free.
HOLD_AND_FREE = r"""
import re, sys, threading
from pathlib import Path
from app.allocator import keep_memory_flat

def held_mib():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def hold():
    for _ in range(2):
        blocks = [bytearray(b"x" * 1000) * 12_000 for _ in range(3)]
        together.wait()
        del blocks
    together.wait()

if sys.argv[1] == "told":
    assert keep_memory_flat()
before, together = held_mib(), threading.Barrier(6)
threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(held_mib() - before)
"""


# Twelve threads at a time that take something; how many heaps there are then.
COUNT_HEAPS = r"""
import ctypes, sys, threading
from app.allocator import keep_memory_flat

def take():
    together.wait()
    block = bytearray(50_000)
    together.wait()
    del block

if sys.argv[1] == "told":
    assert keep_memory_flat(cores=2)
together = threading.Barrier(12)
threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
out = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


def run(program: str, *arguments: str, **environ: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environ}, timeout=60, check=True
    ).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_what_threads_held_goes_back_once_the_allocator_is_told_to() -> None:
    assert float(run(HOLD_AND_FREE, "told")) < 10
    assert float(run(HOLD_AND_FREE, "as it is")) > 20


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_threads_share_one_heap_a_core(tmp_path: Path) -> None:
    told = str(tmp_path / "heaps.xml")
    assert int(run(COUNT_HEAPS, "told", told)) == 2
    assert int(run(COUNT_HEAPS, "as it is", told)) > 2
    assert int(run(COUNT_HEAPS, "told", told, MALLOC_ARENA_MAX="5")) == 5, "whoever sets it knows why"
