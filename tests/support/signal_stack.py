"""The main thread's signal stack, where Python's signal handlers run (sigaltstack(2))."""

from __future__ import annotations

import ctypes


class SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None)


def read() -> SignalStack:
    """The calling thread's signal stack."""
    now = SignalStack()
    _libc.sigaltstack(None, ctypes.byref(now))
    return now


def restore(stack: SignalStack) -> None:
    """Make `stack` the calling thread's signal stack again."""
    _libc.sigaltstack(ctypes.byref(stack), None)
