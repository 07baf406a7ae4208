"""Log lines: their two formats, the prefix and the rate limit per camera, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from app.logs import (
    REPEAT_AFTER_S,
    LogFormat,
    RepeatFilter,
    camera_logger,
    configure_logging,
    forget_secret,
    register_secret,
)

SECRET = "hush/money&more"


class Lines:
    """What `configure_logging` wrote to stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def take(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    root, names = logging.getLogger(), ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx", "httpcore")
    handlers, level, levels = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in names}
    register_secret(SECRET)
    yield Lines(capsys)
    forget_secret(SECRET)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(levels[name])
    logging.getLogger("vidette.camera").filters.clear()


def test_text_is_one_line_with_time_level_logger_camera_and_message(lines: Lines) -> None:
    configure_logging("info", "text")
    logging.getLogger("vidette.service").info("ready in %d ms", 12)
    camera_logger("gate-1").warning("went away")
    first, second = lines.take()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info vidette\.service ready in 12 ms", first)
    assert second.endswith(" warning vidette.camera [gate-1] went away")


def test_json_is_one_object_a_line(lines: Lines) -> None:
    configure_logging("debug", "json")
    camera_logger("gate-1").error("broke: %s", "ä")
    logging.getLogger("vidette.service").debug("line\nbreak")
    first, second = map(json.loads, lines.take())
    assert first.pop("ts").endswith("Z")
    assert first == {
        "level": "error",
        "logger": "vidette.camera",
        "camera": "gate-1",
        "message": "broke: ä",
        "exc": None,
    }
    assert (second["camera"], second["message"]) == (None, "line\nbreak")


def test_a_line_break_in_a_message_does_not_forge_a_line(lines: Lines) -> None:
    configure_logging()
    logging.getLogger("vidette").info("camera said %s", "hello\r\n2026 error vidette all is lost")
    assert len(lines.take()) == 1


def test_configuring_twice_writes_each_line_once(lines: Lines) -> None:
    configure_logging("info", "json")
    configure_logging("warning", "text")
    logging.getLogger("vidette").warning("once")
    logging.getLogger("vidette").info("below the level")
    (line,) = lines.take()
    assert line.endswith("warning vidette once")


def test_an_unknown_level_is_refused_with_a_sentence(lines: Lines) -> None:
    with pytest.raises(ValueError, match=r"^log\.level: 'loud' is no level"):
        configure_logging("loud")


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("name", ["vidette", "uvicorn.error", "somebody.else"])
def test_no_secret_is_in_a_message_an_argument_or_a_traceback(lines: Lines, name: str, format: LogFormat) -> None:
    configure_logging("info", format)
    logger = logging.getLogger(name)
    logger.warning(f"opening rtsp://admin:{SECRET}@cam/x")  # noqa: G004 - a message that was put together before
    logger.warning("opening %s with %r", "rtsp://u:p@cam/x", {"password": SECRET})
    try:
        raise ValueError(f"cannot open 'rtsp://admin:{SECRET}@cam/x'")
    except ValueError:
        logger.exception("failed", stack_info=True)
    text = "\n".join(lines.take())
    assert "hush" not in text
    assert "u:p" not in text
    assert text.count("rtsp://cam/x") >= 3
    assert "ValueError" in text
    assert "stack_info=True" in text


def test_a_record_that_cannot_be_written_shows_no_arguments(lines: Lines) -> None:
    configure_logging()
    handler = logging.getLogger().handlers[-1]  # pytest's own handler raises instead
    handler.handle(logging.LogRecord("vidette", logging.WARNING, __file__, 1, "%d frames", (SECRET,), None))
    (line,) = lines.take()
    assert line.startswith("a log record of vidette, line ")
    assert line.endswith("could not be written")


def test_uvicorn_speaks_through_the_same_handler(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(io.StringIO()))
    logging.getLogger("uvicorn.error").propagate = False
    configure_logging()
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /livez 200")
    (line,) = lines.take()
    assert line.endswith("info uvicorn.error started")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(text: str, *args: object, camera: str = "gate-1", level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("vidette.camera", level, __file__, 1, text, args, None)
    made.camera = camera
    return made


def test_a_camera_says_the_same_thing_once_in_a_while_and_then_how_often() -> None:
    clock = Clock()
    repeats = RepeatFilter(clock=clock)
    assert repeats.filter(record("lost %d %%", 5))
    assert not any(repeats.filter(record("lost 5 %")) for _ in range(12))
    clock.now += REPEAT_AFTER_S
    late = record("lost %d %%", 5)
    assert repeats.filter(late)
    assert late.getMessage() == "lost 5 % (repeated 12 times)"
    clock.now += REPEAT_AFTER_S
    later = record("lost 5 %")
    assert repeats.filter(later)
    assert later.getMessage() == "lost 5 %"


def test_the_limit_is_per_camera_level_and_message() -> None:
    repeats = RepeatFilter(clock=Clock())
    assert repeats.filter(record("lost"))
    assert repeats.filter(record("found"))
    assert repeats.filter(record("lost", level=logging.ERROR))
    assert repeats.filter(record("lost", camera="gate-2"))
    assert not repeats.filter(record("lost"))


def test_two_loggers_of_one_camera_share_the_limit(lines: Lines) -> None:
    configure_logging()
    camera_logger("gate-1").warning("lost")
    camera_logger("gate-1").warning("lost")
    camera_logger("gate-2").warning("lost")
    assert len(lines.take()) == 2


def test_the_limit_forgets_the_oldest_message_before_it_grows_without_end() -> None:
    repeats = RepeatFilter(clock=Clock())
    for number in range(5000):
        assert repeats.filter(record("lost %d", number))
    assert repeats.filter(record("lost 0"))
    assert not repeats.filter(record("lost 4999"))
