"""A WebSocket's query: what it may say, and one sentence for what it may not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from app.api.stream import KNOWN, REASON_BYTES, StreamQuery, fitting, parse_query

CAMERAS = ("gate-1", "door")
LABELS = ("person", "car")


def parse(query: str) -> StreamQuery:
    return parse_query(QueryParams(query), cameras=CAMERAS, labels=LABELS)


def test_an_empty_query_wants_the_newest_of_everything_as_json() -> None:
    query = parse("")
    interest = query.interest
    assert (interest.cameras, interest.mode, interest.form, query.since) == (None, "latest", "json", {})
    assert (interest.wanted.labels, interest.wanted.min_score, interest.wanted.empty) == (None, 0.0, True)


def test_a_full_query_is_understood() -> None:
    query = parse(
        "camera=gate-1&camera=door&class=person&class=car&min_score=0.5&empty=false&mode=all&format=msgpack"
        "&since=gate-1:1201&since=door:7"
    )
    interest = query.interest
    assert interest.cameras == frozenset({"gate-1", "door"})
    assert interest.wanted.labels == frozenset({"person", "car"})
    assert (interest.wanted.min_score, interest.wanted.empty) == (0.5, False)
    assert (interest.mode, interest.form) == ("all", "msgpack")
    assert query.since == {"gate-1": 1201, "door": 7}


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("FALSE", False), ("0", False)])
def test_flags_are_true_or_false(text: str, expected: bool) -> None:
    assert parse(f"empty={text}").interest.wanted.empty is expected


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("camera=nobody", "camera: 'nobody' is not registered"),
        ("camera=", "camera: '' is not registered"),
        ("camera=gate-1&camera=x%00y", "camera: 'x\\x00y' is not registered"),
        ("class=unicorn", "class: 'unicorn' is not a class of the model"),
        ("min_score=2", "min_score: must be a number from 0 to 1"),
        ("min_score=-0.1", "min_score: "),
        ("min_score=nan", "min_score: "),
        ("min_score=inf", "min_score: "),
        ("min_score=", "min_score: "),
        ("min_score=high", "min_score: "),
        ("empty=maybe", "empty: must be true or false"),
        ("empty=", "empty: "),
        ("mode=newest", "mode: must be latest or all"),
        ("mode=", "mode: "),
        ("format=xml", "format: must be json or msgpack"),
        ("since=gate-1", "since: must be camera:seq, such as gate-1:1201"),
        ("since=gate-1:", "since: "),
        ("since=gate-1:-4", "since: "),
        ("since=:4", "since: "),
        ("since=gate-1:4:5", "since: "),
        ("since=Gate:1", "since: "),
        ("since=gate-1:" + "9" * 30, "since: "),
        ("since=gate-1:%D9%A3", "since: "),  # a digit, but not one of ours
        ("cam=gate-1", "cam: no such parameter; there are camera, class, empty, format, min_score, mode, since"),
        ("token=x", "token: no such parameter"),
    ],
)
def test_a_bad_parameter_is_a_sentence_that_names_it(query: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(named)}"):
        parse(query)


@given(st.lists(st.tuples(st.sampled_from(sorted(KNOWN)), st.text(max_size=20)), max_size=6))
def test_any_query_is_understood_or_refused_with_a_value_error(pairs: list[tuple[str, str]]) -> None:
    try:
        parse_query(QueryParams(pairs), cameras=CAMERAS, labels=LABELS)
    except ValueError as exc:
        assert ": " in str(exc)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("min_score: must be 0 to 1", "min_score: must be 0 to 1"),
        ("x" * 123, "x" * 123),
        ("wait " * 25, "wait " * 23 + "wait…"),
        ("class: " + "x" * 200, "class: " + "x" * 113 + "…"),
        ("ü" * 100, "ü" * 60 + "…"),
    ],
)
def test_a_reason_is_cut_to_what_a_close_frame_holds(reason: str, told: str) -> None:
    assert fitting(reason) == told
    assert len(told.encode()) <= REASON_BYTES
