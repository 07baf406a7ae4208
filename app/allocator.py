"""Memory of pictures that goes back to the system when a camera goes."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
# FFmpeg takes a block for each plane: 2.07 MB are the luma of 1080p and the chroma of 4K.
_LARGE_BYTES, _SPARE_BYTES = 2**20, 4 * 2**20


def give_back_large_blocks() -> bool:
    """Have glibc map blocks of 1 MiB and more on their own, so that a free gives them back. False where it cannot.

    Left alone it raises that threshold to the largest block that was ever freed, up to 32 MiB. The pictures of a 4K
    camera then come out of the heap of its thread, of which there are eight for each core, and each keeps what it once
    held: 37 MB stayed of every 4K camera that came and went. Pictures are kept in pools by their decoders, so that a
    block costs a mapping at the start of a stream and not with every frame. Call it before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, macOS
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _SPARE_BYTES))
