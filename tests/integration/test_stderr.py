"""What native code writes to fd 2 is redacted, all of it arrives, and a crash still shows its stack."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.stderr import PatientStream

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import ctypes, faulthandler, logging, os, signal, sys, threading
from app.logs import configure_logging, redacted, register_secret
from app.stderr import guarded_stderr
register_secret("hunter2")
libc = ctypes.CDLL(None)
"""


def run(body: str, *, expect: int = 0) -> str:
    code = HEAD + "with guarded_stderr(redacted) as stream:\n    configure_logging('debug', stream=stream)\n    try:\n"
    code += "".join(f"        {line}\n" for line in body.splitlines())
    code += "    finally:\n        configure_logging('debug')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == expect, done.stderr
    assert "hunter2" not in done.stderr
    return done.stderr


def test_what_native_code_writes_is_redacted_and_all_of_it_arrives() -> None:
    told = run(
        "for number in range(2000):\n"
        "    libc.dprintf(2, b'line %d: rtsp://admin:hunter2@cam/ and hunter2\\n', number)\n"
        "libc.dprintf(2, b'no line break, hunter2')"
    )
    lines = told.splitlines()
    assert lines[:2000] == [f"line {number}: rtsp://cam/ and ***" for number in range(2000)]
    assert lines[2000:] == ["no line break, ***"]


def test_a_line_that_comes_in_pieces_is_redacted_as_one() -> None:
    assert run("os.write(2, b'hun'); os.write(2, b'ter2\\n')") == "***\n"


def test_the_log_and_native_lines_both_arrive() -> None:
    told = run("logging.getLogger('vidette').error('hunter2 in a log')\nlibc.dprintf(2, b'native\\n')")
    assert "*** in a log" in told
    assert "native" in told


def test_a_crash_of_python_is_a_redacted_traceback() -> None:
    told = run("raise RuntimeError('cannot open rtsp://admin:hunter2@cam/')", expect=1)
    assert "RuntimeError: cannot open rtsp://cam/" in told


def test_a_crash_of_a_thread_is_a_redacted_traceback() -> None:
    body = "def work():\n    raise RuntimeError('hunter2')\n"
    told = run(body + "thread = threading.Thread(target=work, name='worker'); thread.start(); thread.join()")
    assert "the thread worker ended with an unexpected error" in told
    assert "RuntimeError: ***" in told


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_native_crash_still_shows_its_stacks(number: signal.Signals) -> None:
    told = run(f"password = 'hunter2'\nos.kill(os.getpid(), {int(number)})", expect=-number)
    assert "Fatal Python error" in told
    assert 'File "<string>"' in told


def test_a_process_that_ends_at_once_has_its_log() -> None:
    told = run("logging.getLogger('vidette').critical('the last words')\nos._exit(3)", expect=3)
    assert "the last words" in told


def test_a_log_that_nobody_reads_stops_nobody_and_tells_of_it_later() -> None:
    read, write = os.pipe()
    stream = PatientStream(write)
    try:
        began_at = time.monotonic()
        for number in range(3000):
            stream.write(f"line {number} " + "x" * 100 + "\n")
        assert time.monotonic() - began_at < 10
        told = os.read(read, 1 << 20).decode()
        assert told.startswith("line 0 ")
        stream.write("the last line\n")
        later = os.read(read, 1 << 20).decode()
    finally:
        stream.close()
        os.close(read)
    assert re.fullmatch(r"nobody read this log: \d+ writes were left out\nthe last line\n", later)
