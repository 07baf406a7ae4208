"""What TensorRT says. It takes one logger for a whole process and gives its reasons nowhere but there."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    import tensorrt
    from nvidia_modules import TensorRt

log = logging.getLogger(__name__)

_KEPT_MESSAGES = 4
_said = threading.local()  # `errors`: what this thread was told
_listeners: list[deque[str]] = []


@cache
def tensorrt_logger(trt: TensorRt) -> tensorrt.ILogger:
    """The logger of a module, for its builders and its runtimes alike: a second one would be ignored.

    It is kept for good, since TensorRT goes on using it. INFO is meant for whoever works on engines, so it becomes
    DEBUG; VERBOSE is dropped.
    """
    severities = trt.ILogger.Severity
    levels = {
        severities.INTERNAL_ERROR: logging.CRITICAL,
        severities.ERROR: logging.ERROR,
        severities.WARNING: logging.WARNING,
        severities.INFO: logging.DEBUG,
    }

    class Bridge(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            level = levels.get(severity)
            if level is None:
                return
            if level >= logging.ERROR:
                if len(told := _errors()) < _KEPT_MESSAGES:  # the first is the cause, the others follow from it
                    told.append(" ".join(msg.split()))
                for heard in tuple(_listeners):
                    heard.append(msg)
            log.log(level, "TensorRT: %s", msg)

    return Bridge()


def forget_errors() -> None:
    """Before a call of which `told_errors` shall give the reason."""
    _errors().clear()


def told_errors() -> str | None:
    """The errors that TensorRT told in this thread since `forget_errors`, on one line, the cause first; None: none."""
    return "; ".join(_errors()) or None


@contextmanager
def listening() -> Iterator[deque[str]]:
    """The last errors that TensorRT tells meanwhile, in any thread: a builder has threads of its own."""
    heard: deque[str] = deque(maxlen=_KEPT_MESSAGES)
    _listeners.append(heard)
    try:
        yield heard
    finally:
        # By identity: two that have heard the same are equal.
        _listeners[:] = [each for each in _listeners if each is not heard]


def _errors() -> list[str]:
    if not hasattr(_said, "errors"):
        _said.errors = []
    errors: list[str] = _said.errors
    return errors
