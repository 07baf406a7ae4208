"""How fast the cores are at the moment. A virtual machine's are not always equally so, and nothing else tells."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

from app.cores import available_cores

_BLOCK = bytes(1 << 20)
_PROBE_S = 0.2


def core_speed() -> float:
    """MiB a second that all cores hash together. Blocking, a fifth of a second; lets go of the GIL."""
    cores = available_cores()
    with ThreadPoolExecutor(cores, thread_name_prefix="speed") as pool:
        return sum(pool.map(_hash_rate, range(cores)))


def _hash_rate(_: int) -> float:
    began = time.perf_counter()
    blocks = 0
    while (took_s := time.perf_counter() - began) < _PROBE_S:
        hashlib.sha256(_BLOCK).digest()
        blocks += 1
    return blocks / took_s
