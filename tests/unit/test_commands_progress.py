"""Progress on stderr."""

from __future__ import annotations

import io

import pytest

from app.commands.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_sentence_a_step_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.step("loading the engine")
        progress.step("measuring", total=10.0)
        progress.done(5.0)
    shown = capsys.readouterr()
    assert shown.err == "loading the engine ...\nmeasuring ...\n"
    assert shown.out == ""


def test_progress_on_a_terminal_is_a_bar() -> None:
    out = Terminal()
    with Progress(out) as progress:
        progress.step("downloading", total=100)
        progress.done(25)
        progress.done(60, total=120)
    assert "downloading" in out.getvalue()
    assert "50%" in out.getvalue()


def test_progress_on_a_terminal_shows_one_step_at_a_time() -> None:
    out = Terminal()
    with Progress(out) as progress:
        progress.step("downloading", total=100)
        progress.step("trying it")
    assert "downloading" not in out.getvalue().rpartition("trying it")[2]
