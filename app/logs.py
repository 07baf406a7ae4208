"""Logging: text or JSON lines on stderr, a prefix and a rate limit per camera, and no secret in any line."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias

from app.auth.tokens import without_secrets
from app.cameras.redactor import Redactor

if TYPE_CHECKING:
    CameraLogger: TypeAlias = logging.LoggerAdapter[logging.Logger]
    _TextStreamHandler: TypeAlias = logging.StreamHandler[TextIO]
else:  # not subscriptable at run time before Python 3.11
    CameraLogger = logging.LoggerAdapter
    _TextStreamHandler = logging.StreamHandler

LogFormat = Literal["text", "json"]

REPEAT_AFTER_S = 10.0
_REMEMBERED = 1024
_CAMERA_LOGGER = "vidette.camera"
_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_CHATTY = ("asyncio", "httpcore", "httpx", "uvicorn.access")

_secrets = Redactor()


def register_secret(secret: str | None) -> None:
    """Keep `secret` out of every line from now on. Any thread."""
    _secrets.add(secret)


def forget_secret(secret: str | None) -> None:
    """Undo one `register_secret`. Any thread."""
    _secrets.discard(secret)


@contextmanager
def registered(secrets: Iterable[str]) -> Iterator[None]:
    """Keep these secrets out of every line while the context lasts. Any thread."""
    known = tuple(secrets)
    for secret in known:
        register_secret(secret)
    try:
        yield
    finally:
        for secret in known:
            forget_secret(secret)


def redacted(text: str) -> str:
    """Any text without what is secret in it. Any thread."""
    return _secrets.redact(text)


def configure_logging(level: str = "info", format: LogFormat = "text", *, stream: TextIO | None = None) -> None:
    """Send every logger's lines to stderr, or `stream`, redacted, in one format. Idempotent: the last call counts.

    `level` is a name of the logging module in either case. Libraries that report every request or task speak from
    warning on, unless `level` is debug.
    """
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"log.level: {level!r} is no level; it is one of debug, info, warning, error, critical")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_StderrHandler(JsonFormatter() if format == "json" else TextFormatter(), stream))
    root.setLevel(number)
    for name in _UVICORN:
        uvicorn = logging.getLogger(name)
        uvicorn.handlers.clear()
        uvicorn.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if number <= logging.DEBUG else logging.WARNING)


def camera_logger(camera_id: str) -> CameraLogger:
    """Give a logger whose lines carry the camera's id, and which says the same thing at most every ten seconds."""
    logger = logging.getLogger(_CAMERA_LOGGER)
    if not any(isinstance(known, RepeatFilter) for known in logger.filters):
        logger.addFilter(RepeatFilter())
    return logging.LoggerAdapter(logger, {"camera": camera_id})


class RepeatFilter(logging.Filter):
    """Drops a message that the same camera logged less than `every_s` ago; the next one tells how many there were."""

    def __init__(self, *, every_s: float = REPEAT_AFTER_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        # (camera, level, text) -> when it was last shown, and how often not since; the oldest is forgotten first.
        self._shown: OrderedDict[tuple[str, int, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        repeats = self._repeats((_camera(record) or "", record.levelno, text))
        if repeats:
            times = "once" if repeats == 1 else f"{repeats} times"
            record.msg, record.args = f"{text} (repeated {times})", None  # no arguments: % stays as it is
        return repeats is not None

    def _repeats(self, key: tuple[str, int, str]) -> int | None:
        now = self._clock()
        with self._lock:
            shown_at, hidden = self._shown.get(key, (None, 0))
            if shown_at is not None and now - shown_at < self._every_s:
                self._shown[key] = (shown_at, hidden + 1)
                return None
            self._shown[key] = (now, 0)
            self._shown.move_to_end(key)
            if len(self._shown) > _REMEMBERED:
                self._shown.popitem(last=False)
            return hidden


class TextFormatter(logging.Formatter):
    """`time level logger [camera] message`, a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        camera = _camera(record)
        prefix = "" if camera is None else f"[{camera}] "
        # One record is one line: a line break in a camera's answer must not look like a record of its own.
        message = _message(record).replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_timestamp(record)} {record.levelname.lower()} {record.name} {prefix}{message}"
        trace = _trace(self, record)
        return line if trace is None else f"{line}\n{trace}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, camera (or null), message, exc (a traceback or null)."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "camera": _camera(record),
            "message": _message(record),
            "exc": _trace(self, record),
        }
        return json.dumps(fields, ensure_ascii=False)


class _StderrHandler(_TextStreamHandler):
    def __init__(self, formatter: logging.Formatter, stream: TextIO | None) -> None:
        super().__init__(stream or sys.stderr)
        self.setFormatter(formatter)

    def handleError(self, record: logging.LogRecord) -> None:
        # The inherited method prints the record's arguments as they are.
        sys.stderr.write(f"a log record of {record.name}, line {record.lineno}, could not be written\n")


def _message(record: logging.LogRecord) -> str:
    return _redacted(record.getMessage())


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    parts = []
    if record.exc_info is not None and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return _redacted("\n".join(parts)) if parts else None


def _redacted(text: str) -> str:
    return without_secrets(_secrets.redact(text))


def _camera(record: logging.LogRecord) -> str | None:
    camera = getattr(record, "camera", None)
    return None if camera is None else str(camera)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
