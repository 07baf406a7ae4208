"""Memory that goes back to the system when a camera goes, and heaps that do not add up."""

from __future__ import annotations

import ctypes
import os

from app.cores import available_cores

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt
# FFmpeg takes a block for each plane: 2.07 MB are the luma of 1080p and the chroma of 4K.
_LARGE_BYTES, _SPARE_BYTES = 2**20, 4 * 2**20


def keep_memory_flat(cores: int | None = None) -> bool:
    """Have glibc map blocks of 1 MiB and more on their own, and keep one heap a core (two at least) for the others.

    Large blocks: left alone it raises that threshold to the largest block that was ever freed, up to 32 MiB. The
    pictures of a 4K camera then come out of the heap of its thread, and each heap keeps what it once held: 37 MB stayed
    of every 4K camera that came and went. Pictures are kept in pools by their decoders, so that a block costs a mapping
    at the start of a stream and not with every frame.

    Heaps: left alone there are eight a core, and a camera that connects anew takes its memory from another one than
    before. Each keeps up to 4 MiB at its end and every hole in between: in eight minutes of cameras that failed, what
    was in use stayed, and what was free inside of sixteen heaps grew from 40 to 62 MiB (`malloc_info`).

    `MALLOC_ARENA_MAX` and `GLIBC_TUNABLES` of the environment win, as far as they name heaps. False where there is no
    glibc to tell. Call it before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, macOS
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGE_BYTES, _M_TRIM_THRESHOLD: _SPARE_BYTES}
    if "MALLOC_ARENA_MAX" not in os.environ and "arena_max" not in os.environ.get("GLIBC_TUNABLES", ""):
        wanted[_M_ARENA_MAX] = max(2, cores or available_cores())
    taken = [mallopt(option, value) for option, value in wanted.items()]
    return all(taken)
