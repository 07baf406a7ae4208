"""What `ps` shows of us."""

from __future__ import annotations

import pytest

from app.title import process_title


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
    ],
)
def test_a_title_is_the_command_line_without_what_is_secret(arguments: list[str], title: str) -> None:
    assert process_title("vidette", arguments) == title
