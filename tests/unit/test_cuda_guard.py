"""The poison-camera guard: whom a new process blames, how long, and what it never writes down."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.backends.cuda.guard import EXPIRES_AFTER_S, LONGEST_WAIT_S, QUIET_S, OpeningGuard
from tests.support.wait import wait_in_thread

URL = "rtsp://10.0.0.9/main"


class Time:
    """A clock that waits move."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "openings.json"


def guard_at(path: Path, time: Time) -> OpeningGuard:
    return OpeningGuard(path, utc=time, clock=time)


def die_while_opening(path: Path, time: Time, *camera_ids: str, codec: str = "h264") -> None:
    """What a process leaves behind that dies there."""
    guard = guard_at(path, time)
    for camera_id in camera_ids:
        opening = guard.open(camera_id, codec=codec)
        assert opening is not None
        opening.made()


def test_a_camera_that_opens_leaves_nothing_behind(path: Path, time: Time) -> None:
    guard = guard_at(path, time)
    opening = guard.open("gate-1", codec="h264")
    assert opening is not None
    assert "gate-1" in path.read_text()
    opening.made()
    assert "gate-1" in path.read_text(), "its first picture is still to come"
    opening.done()
    opening.done()
    assert json.loads(path.read_text())["cameras"] == {}
    assert guard_at(path, time).suspicion("gate-1") is None


def test_a_death_while_opening_is_blamed_on_that_camera_alone(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1")
    guard = guard_at(path, time)
    assert guard.suspicion("gate-1") == "the process died while opening it on NVDEC"
    assert guard.suspicion("gate-1", codec="h264") == "the process died while opening it on NVDEC"
    assert guard.suspicion("gate-2") is None


def test_the_blame_outlives_further_restarts_and_expires_after_a_day(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1")
    for _ in range(3):
        assert guard_at(path, time).suspicion("gate-1")
    time.now += EXPIRES_AFTER_S - 1
    assert guard_at(path, time).suspicion("gate-1")
    time.now += 1
    assert guard_at(path, time).suspicion("gate-1") is None


def test_a_camera_that_opens_after_its_day_is_forgotten(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1")
    time.now += EXPIRES_AFTER_S
    opening = guard_at(path, time).open("gate-1", codec="h264")
    assert opening is not None
    opening.done()
    assert json.loads(path.read_text())["cameras"] == {}


def test_a_second_death_keeps_it_in_software_until_somebody_edits_the_file(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1")
    time.now += EXPIRES_AFTER_S
    die_while_opening(path, time, "gate-1")
    time.now += 100 * EXPIRES_AFTER_S
    reason = guard_at(path, time).suspicion("gate-1")
    assert reason == (
        "the process died 2 times while opening it on NVDEC; remove gate-1 from openings.json to try again"
    )
    path.write_text('{"version": 1, "cameras": {}}')
    assert guard_at(path, time).suspicion("gate-1") is None


def test_another_codec_or_url_makes_it_another_camera(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1", "gate-2")
    guard = guard_at(path, time)
    assert guard.suspicion("gate-1", codec="hevc") is None
    assert guard.suspicion("gate-1", codec="h264") is None, "forgotten, not only passed over"
    guard.connecting("gate-2", URL)
    guard.connecting("gate-2", URL)
    assert guard.suspicion("gate-2")
    guard.connecting("gate-2", "rtsp://10.0.0.9/sub")
    assert guard.suspicion("gate-2") is None
    assert json.loads(path.read_text())["cameras"] == {}


def test_no_url_reaches_the_file(path: Path, time: Time) -> None:
    die_while_opening(path, time, "gate-1")
    guard = guard_at(path, time)
    guard.connecting("gate-1", URL)
    opening = guard.open("gate-2", codec="h264")
    assert opening is not None
    opening.made()
    text = path.read_text()
    assert "gate-1" in text and "gate-2" in text
    assert "rtsp" not in text and "10.0.0.9" not in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b'{"cameras": 3}',
        b'{"cameras": {"gate-1": {}}}',
        b'{"cameras": {"gate-1": {"codec": "h264", "opening": 1, "deaths": "2", "since_utc": null}}}',
    ],
)
def test_a_damaged_file_is_a_warning_and_is_replaced(
    path: Path, time: Time, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "vidette.cuda"):
        guard = guard_at(path, time)
    assert "no camera is known to be harmful" in caplog.text
    opening = guard.open("gate-1", codec="h264")
    assert opening is not None
    assert json.loads(path.read_text())["cameras"]["gate-1"]["opening"] is True
    opening.done()


def test_a_file_that_cannot_be_written_is_a_warning(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "vidette.cuda"):
        opening = guard_at(tmp_path / "data" / "openings.json", time).open("gate-1", codec="h264")
    assert opening is not None
    opening.done()
    assert "cannot be written" in caplog.text


def test_cameras_are_opened_one_at_a_time(path: Path, time: Time) -> None:
    guard = guard_at(path, time)
    first = guard.open("gate-1", codec="h264")
    assert first is not None
    opened: list[str] = []

    def open_second() -> None:
        second = guard.open("gate-2", codec="h264")
        assert second is not None
        opened.append("gate-2")
        second.done()

    thread = threading.Thread(target=open_second)
    thread.start()
    try:
        thread.join(timeout=0.05)
        assert opened == []
        assert "gate-2" not in path.read_text()
    finally:
        first.made()
        thread.join()
    assert opened == ["gate-2"]
    first.done()


def test_whoever_waits_too_long_for_another_opening_is_told(path: Path, time: Time) -> None:
    guard = OpeningGuard(path, utc=time, clock=time, patience_s=0.01)
    first = guard.open("gate-1", codec="h264")
    assert first is not None
    assert guard.open("gate-2", codec="h264") is None
    first.done()
    second = guard.open("gate-2", codec="h264")
    assert second is not None
    second.done()


def test_many_cameras_that_open_first_exhaust_nobodys_patience(path: Path, time: Time) -> None:
    class Crowd:
        """A lock that comes free again and again, and that others take."""

        ahead = 3

        def acquire(self, *, timeout: float) -> bool:
            if self.ahead == 0:
                return True
            self.ahead -= 1
            guard.unlock()  # one of them is done, and the next one is faster than we
            return False

        def release(self) -> None: ...

    guard = OpeningGuard(path, utc=time, clock=time, turn=Crowd())
    opening = guard.open("gate-4", codec="h264")
    assert opening is not None
    opening.done()


def test_a_suspect_waits_until_the_others_have_been_quiet(path: Path, time: Time) -> None:
    guard = guard_at(path, time)
    time.now += 1.5
    opening = guard.open("gate-2", codec="h264")
    assert opening is not None
    time.now += 0.5
    opening.done()
    assert guard.wait_turn(time.wait)
    assert time.waits == [QUIET_S]
    assert guard.wait_turn(time.wait)
    assert time.waits == [QUIET_S], "nobody opened since"


def test_a_suspect_does_not_wait_for_ever(path: Path, time: Time) -> None:
    guard = guard_at(path, time)
    started_at = time.now

    def wait_while_others_open(seconds: float) -> bool:
        time.wait(seconds)
        opening = guard.open("gate-2", codec="h264")
        assert opening is not None
        opening.done()
        return False

    assert guard.wait_turn(wait_while_others_open)
    assert time.now - started_at == pytest.approx(LONGEST_WAIT_S)


def test_an_interrupt_ends_the_wait(path: Path, time: Time) -> None:
    assert not guard_at(path, time).wait_turn(lambda seconds: True)


def test_a_real_death_is_remembered(path: Path) -> None:
    code = (
        "import os, sys, pathlib; from app.backends.cuda.guard import OpeningGuard; "
        "guard = OpeningGuard(pathlib.Path(sys.argv[1])); guard.open('gate-1', codec='h264'); os._exit(1)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, timeout=60, capture_output=True)
    assert done.returncode == 1, done.stderr
    wait_in_thread(path.exists)
    assert OpeningGuard(path).suspicion("gate-1") == "the process died while opening it on NVDEC"
