"""A camera's redirects, taken out of FFmpeg's hands: it would follow one to any host, and ask nobody.

FFmpeg has no option for that. But it says "Redirecting to" in its log just before it connects, in the thread that opens
the camera, and asks the context's `protocol_whitelist` before it does. So while a camera is being opened we listen to
the log, and take every protocol from a context that is about to be redirected: its next connection is never begun. Both
are public functions of libavutil (av_log_set_callback, av_opt_set). Why so: docs/adr/0016.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av.logging

logger = logging.getLogger("vidette.camera")
_ANNOUNCEMENT = b"Redirecting to "
_LONGEST = 4096
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@dataclass(slots=True)
class Redirect:
    """Where a camera wanted to send its client; None: nowhere."""

    location: str | None = None


_lock = threading.Lock()
_opening: dict[int, Redirect] = {}  # by thread
# PyAV's own libavutil, by way of a module that is linked with it: OpenCV brings another one.
_libavutil = ctypes.CDLL(str(av.logging.__file__))
_available = all(hasattr(_libavutil, name) for name in ("av_log_set_callback", "av_log_format_line", "av_opt_set"))


@contextmanager
def redirects_refused() -> Iterator[Redirect]:
    """While it lasts, no redirect is followed in this thread; what it yields tells of one. Opening fails then."""
    redirect = Redirect()
    if not _available:
        logger.warning("this build of PyAV hides libavutil, so FFmpeg follows redirects of cameras by itself")
        yield redirect
        return
    with _lock:
        _opening[threading.get_ident()] = redirect
        if len(_opening) == 1:
            _libavutil.av_log_set_callback(_listener)
    try:
        yield redirect
    finally:
        with _lock:
            del _opening[threading.get_ident()]
            if not _opening:
                av.logging.set_level(None)  # PyAV's own callback again, which is silent


def _listen(context: int | None, level: int, text: bytes | None, arguments: int | None) -> None:
    """Called by FFmpeg for every line of its log, in whichever thread; must not raise."""
    if text is None or _ANNOUNCEMENT not in text or not context:
        return
    redirect = _opening.get(threading.get_ident())
    if redirect is None:
        return
    _libavutil.av_opt_set(ctypes.c_void_p(context), b"protocol_whitelist", b"none", 0)
    redirect.location = _line(context, level, text, arguments).rpartition(_ANNOUNCEMENT.decode())[2].strip()


def _line(context: int, level: int, text: bytes, arguments: int | None) -> str:
    buffer, prefix = ctypes.create_string_buffer(_LONGEST), ctypes.c_int(0)
    _libavutil.av_log_format_line(
        ctypes.c_void_p(context), level, text, ctypes.c_void_p(arguments), buffer, _LONGEST, ctypes.byref(prefix)
    )
    return buffer.value.decode("utf-8", "replace")


_listener: Any = _CALLBACK(_listen)
