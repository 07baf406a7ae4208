"""A bound for any one block of memory that FFmpeg takes: a camera's picture that never ends would fill it all.

Until a picture's end is seen, FFmpeg's parser gathers its bytes: at the speed of loopback 2 GB until a read times out.
Public in libavutil (av_max_alloc), and of the whole process.
"""

from __future__ import annotations

import ctypes
from functools import cache

import av.logging

# The largest plane that is decoded, in 16 bits, takes 72 MB; the largest picture as BGR 107 MB.
MAX_BLOCK_BYTES = 128 << 20


@cache
def bound_blocks() -> None:
    """Have FFmpeg refuse larger blocks, as if there were no memory left. Any thread."""
    # PyAV's own libavutil, by way of a module that is linked with it: OpenCV brings another one.
    libavutil = ctypes.CDLL(str(av.logging.__file__))
    if hasattr(libavutil, "av_max_alloc"):
        libavutil.av_max_alloc(ctypes.c_size_t(MAX_BLOCK_BYTES))
