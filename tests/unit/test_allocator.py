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


# Cameras that connect anew: twelve threads together, each with a few MiB in small blocks, which end.
COME_AND_GO = r"""
import re, sys, threading
from pathlib import Path
from app.allocator import keep_memory_flat

def held_mib():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def hold():
    blocks = [b"x" * 100_000 for _ in range(35)]
    together.wait()
    del blocks
    together.wait()

if sys.argv[1] == "told":
    assert keep_memory_flat(cores=2)
before, together = held_mib(), threading.Barrier(12)
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(held_mib() - before)
"""


def growth_mib(program: str, allocator: str, **environ: str) -> float:
    command = [sys.executable, "-c", program, allocator]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environ}, timeout=60, check=True
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_what_threads_held_goes_back_once_the_allocator_is_told_to() -> None:
    assert growth_mib(HOLD_AND_FREE, "told") < 10
    assert growth_mib(HOLD_AND_FREE, "as it is") > 20


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_threads_share_few_heaps_so_that_what_each_keeps_does_not_add_up() -> None:
    shared, left_alone = growth_mib(COME_AND_GO, "told"), growth_mib(COME_AND_GO, "as it is")
    assert shared < left_alone - 8
    assert growth_mib(COME_AND_GO, "told", MALLOC_ARENA_MAX="12") > shared + 8, "whoever sets it knows why"
