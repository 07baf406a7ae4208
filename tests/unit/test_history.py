"""The results that memory keeps."""

from __future__ import annotations

from app.results.history import History
from tests.support.fakes import make_result


def filled(size: int, count: int) -> History:
    history = History(size)
    for seq in range(1, count + 1):
        history.add(make_result("a", seq))
    return history


def seqs(history: History, *, limit: int = 100, since_seq: int | None = None) -> list[int]:
    return [result.seq for result in history.newest("a", limit=limit, since_seq=since_seq)]


def test_only_the_newest_are_kept_oldest_first() -> None:
    assert seqs(filled(3, 5)) == [3, 4, 5]


def test_a_limit_gives_the_newest_of_them() -> None:
    assert seqs(filled(5, 5), limit=2) == [4, 5]
    assert seqs(filled(5, 5), limit=1) == [5]


def test_since_gives_what_came_after_it() -> None:
    history = filled(5, 5)
    assert seqs(history, since_seq=3) == [4, 5]
    assert seqs(history, since_seq=5) == []
    assert seqs(history, since_seq=0) == [1, 2, 3, 4, 5]
    assert seqs(history, since_seq=1, limit=2) == [4, 5]


def test_memory_says_what_it_gave_up() -> None:
    assert filled(5, 5).lost_before("a") == 0
    assert filled(5, 8).lost_before("a") == 3


def test_cameras_do_not_share_their_room() -> None:
    history = filled(2, 2)
    history.add(make_result("b", 9))
    assert seqs(history) == [1, 2]
    assert history.latest("b") is not None


def test_an_unknown_camera_has_nothing() -> None:
    history = History(2)
    assert history.latest("a") is None
    assert seqs(history) == []
    assert history.lost_before("a") == 0


def test_forgetting_leaves_nothing() -> None:
    history = filled(2, 5)
    history.forget("a")
    history.forget("a")
    assert history.latest("a") is None
    assert history.lost_before("a") == 0
    history.add(make_result("a", 1))
    assert seqs(history) == [1]
