"""What `ps` shows of us."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.title import process_title
from tests.support.wait import wait_in_thread


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["serve", "--port", "8080"], "vidette serve --port 8080"),
        (["serve", "--metrics.token", "hunter2", "--port", "1"], "vidette serve --metrics.token *** --port 1"),
        (["serve", "--metrics.token=hunter2=x"], "vidette serve --metrics.token=***"),
        (["serve", "--metrics.to", "hunter2"], "vidette serve --metrics.to ***"),
        (["serve", "--metrics.token", "--port"], "vidette serve --metrics.token ***"),
        (["doctor", "rtsp://admin:p@ss:w/rd?#@cam/1"], "vidette doctor rtsp://***@cam/1"),
        (["doctor", "rtsp://cam/1?password=x&a=b"], "vidette doctor rtsp://cam/1?password=***&a=b"),
        (["doctor", "rtsp://cam/1", "--password-file", "f"], "vidette doctor rtsp://cam/1 --password-file f"),
        (["import", "a.yml", "--url=http://u:hunter2@h:1"], "vidette import a.yml --url=http://***@h:1"),
        (["serve", "--secrets.key_file", "/run/key"], "vidette serve --secrets.key_file /run/key"),
        (["--user", "admin", "--password=hunter2"], "vidette --user admin --password=***"),
        (["token", "list"], "vidette token list"),
        (["token", "revoke", f"vdt_1a2b_{'0' * 64}"], "vidette token revoke vdt_1a2b_***"),
    ],
)
def test_a_title_is_the_command_line_without_what_is_secret(arguments: list[str], title: str) -> None:
    assert process_title("vidette", arguments) == title


@pytest.mark.parametrize(
    "command", [["-m", "app"], ["-c", "from app.cli import main; main()"]], ids=["module", "script"]
)
def test_a_running_process_has_hidden_its_arguments(command: list[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"rtsp://admin:hunter2@127.0.0.1:{mute.getsockname()[1]}/1?token=hunter3"
        line = [sys.executable, *command, "doctor", url]
        with subprocess.Popen(line, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                shown = Path(f"/proc/{process.pid}/cmdline")
                wait_in_thread(lambda: shown.read_bytes().startswith(b"vidette doctor "), 20, what="the title is set")
                assert b"hunter" not in shown.read_bytes()
                assert b"/1?token=***" in shown.read_bytes()
            finally:
                process.kill()
