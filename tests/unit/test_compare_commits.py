"""CI's comparison of two commits: what is compared with what, and what a part that cannot run means."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AppError
from scripts.compare_commits import base_of, samples, unpack


class Repository:
    """What git would answer, by what it is asked; nothing to anything else."""

    def __init__(self, **answers: str) -> None:
        self._answers = {"rev-parse HEAD": "c3", **answers}

    def __call__(self, *asked: str) -> str:
        text = " ".join(asked)
        return next((answer for key, answer in self._answers.items() if text.startswith(key)), "")


CHANGED = {"status": " M app/types.py"}


def test_the_base_is_the_last_tag() -> None:
    assert base_of(Repository(**{"describe --tags --abbrev=0 HEAD": "v0.4.0"}, **CHANGED)) == "v0.4.0"


def test_a_tagged_commit_is_compared_with_the_tag_before_it() -> None:
    assert base_of(Repository(**{"describe --tags --abbrev=0 HEAD^": "v0.3.0"})) == "v0.3.0"


def test_without_tags_the_base_is_where_the_branch_left_main() -> None:
    assert base_of(Repository(**{"merge-base HEAD origin/main": "c1"})) == "c1"
    assert base_of(Repository(**{"merge-base HEAD main": "c2"})) == "c2"


def test_on_main_itself_the_base_is_the_commit_before() -> None:
    repository = Repository(**{"merge-base HEAD main": "c3", "rev-parse --verify --quiet --short=12 HEAD^": "c2"})
    assert base_of(repository) == "c2"


def test_changes_that_are_not_committed_are_compared_with_the_commit_they_are_made_to() -> None:
    assert base_of(Repository(**{"merge-base HEAD main": "c3"}, **CHANGED)) == "c3"


def test_a_first_commit_has_no_base() -> None:
    assert base_of(Repository()) is None


def test_only_parts_that_every_round_measured_become_figures() -> None:
    found = samples([{"core": 50.0, "decode": "no such thing"}, {"core": 52.0, "decode": 900.0}])
    assert {name: figure.samples for name, figure in found.items()} == {"core.cpu_us_per_frame": (50.0, 52.0)}


def test_a_base_that_git_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="git does not give out no-such-tag"):
        unpack("no-such-tag", tmp_path / "base")
