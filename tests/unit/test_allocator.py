"""What the threads of cameras held goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Six threads hold three 4K pictures each at the same time, twice: glibc raises its threshold with the first free.
HOLD_AND_FREE = r"""
import re, sys, threading
from pathlib import Path
from app.allocator import give_back_large_blocks

def held_mib():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def hold():
    for _ in range(2):
        blocks = [bytearray(b"x" * 1000) * 12_000 for _ in range(3)]
        together.wait()
        del blocks
    together.wait()

if sys.argv[1] == "told":
    assert give_back_large_blocks()
before, together = held_mib(), threading.Barrier(6)
threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(held_mib() - before)
"""


def growth_mib(allocator: str) -> float:
    command = [sys.executable, "-c", HOLD_AND_FREE, allocator]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_what_threads_held_goes_back_once_the_allocator_is_told_to() -> None:
    assert growth_mib("told") < 10
    assert growth_mib("as it is") > 20
