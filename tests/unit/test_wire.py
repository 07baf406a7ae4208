"""The messages as clients see them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from app.errors import SourceError, SourceErrorCode
from app.results.wire import (
    Message,
    Result,
    ResultFilter,
    camera_message,
    encode,
    gap_message,
    hello_message,
    utc_text,
)
from tests.support.fakes import make_detections, make_frame, make_result


def test_a_result_has_exactly_the_shape_of_the_contract() -> None:
    found = replace(make_detections(make_frame("gate-1", 1201)), pts_s=48.04)
    result = Result(found, classes=("person",), model="yolox-nano", batch_size=4, formed_at=0.0028, published_at=0.0139)
    assert json.loads(result.encoded("json") or b"") == {
        "type": "detections",
        "version": 1,
        "camera_id": "gate-1",
        "seq": 1201,
        "pts_s": 48.04,
        "captured_at": utc_text(found.times.captured_utc),
        "clock": "arrival",
        "timing_ms": {
            "decode": 2.0,
            "queue": 0.8,
            "preprocess": 1.0,
            "infer": 10.0,
            "postprocess": 0.5,
            "total": 13.9,
        },
        "width": 640,
        "height": 360,
        "model": "yolox-nano",
        "batch_size": 4,
        "detections": [
            {"box": [0.0, 20.0, 5.0, 40.0], "score": 0.9, "class_id": 0, "label": "person", "track_id": None}
        ],
    }


def test_the_total_runs_from_arrival_to_serialisation() -> None:
    assert make_result().message["timing_ms"]["total"] == 20.0


def test_times_are_never_negative() -> None:
    found = make_detections(make_frame())
    result = Result(found, classes=("person",), model="m", batch_size=1, formed_at=-1.0, published_at=-1.0)
    assert result.message["timing_ms"]["queue"] == result.message["timing_ms"]["total"] == 0.0


def test_a_stream_without_a_clock_has_no_pts() -> None:
    found = replace(make_detections(make_frame()), pts_s=None)
    result = Result(found, classes=("person",), model="m", batch_size=1, formed_at=0.0, published_at=0.0)
    assert result.message["pts_s"] is None


def test_numbers_are_as_short_as_their_meaning() -> None:
    found = make_detections(make_frame())
    found = replace(
        found, boxes=np.array([[1.23456, 2, 3.999, 4.005]], np.float32), scores=np.array([0.912345], np.float32)
    )
    result = Result(found, classes=("person",), model="m", batch_size=1, formed_at=0.0, published_at=0.0)
    assert result.message["detections"][0]["box"] == [1.23, 2.0, 4.0, pytest.approx(4.0, abs=0.011)]
    assert result.message["detections"][0]["score"] == 0.9123


def test_both_formats_say_the_same() -> None:
    result = make_result(scores=[0.9, 0.5], class_ids=[1, 0])
    assert msgspec.msgpack.decode(result.encoded("msgpack") or b"") == json.loads(result.encoded("json") or b"")


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_result_is_serialised_once_for_a_format_and_filter(form: str) -> None:
    result = make_result()
    strict = ResultFilter(min_score=0.5)
    assert result.encoded(form) is result.encoded(form)  # type: ignore[arg-type]
    assert result.encoded(form, strict) is result.encoded(form, ResultFilter(min_score=0.5))  # type: ignore[arg-type]


def test_a_filter_leaves_what_it_names() -> None:
    result = make_result(scores=[0.9, 0.6, 0.3], class_ids=[0, 1, 0])

    def left(wanted: ResultFilter) -> list[float]:
        return [one["score"] for one in json.loads(result.encoded("json", wanted) or b"")["detections"]]

    assert left(ResultFilter(min_score=0.6)) == [0.9, 0.6]
    assert left(ResultFilter(labels=frozenset({"car"}))) == [0.6]
    assert left(ResultFilter(labels=frozenset({"person"}), min_score=0.5)) == [0.9]
    assert left(ResultFilter(labels=frozenset({"car"}), min_score=0.7)) == []
    assert [one["score"] for one in result.message["detections"]] == [0.9, 0.6, 0.3]


def test_a_result_that_a_filter_empties_is_sent_only_when_empty_ones_are_wanted() -> None:
    result = make_result(scores=[0.4])
    assert result.encoded("json", ResultFilter(min_score=0.5, empty=False)) is None
    assert result.encoded("json", ResultFilter(min_score=0.5, empty=True)) is not None
    assert make_result(scores=[], class_ids=[]).encoded("json", ResultFilter(empty=False)) is None


def test_moments_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert utc_text(0) == "1970-01-01T00:00:00.000Z"
    assert utc_text(1_795_168_807.1239) == "2026-11-20T10:00:07.123Z"


def test_the_other_messages_have_the_shape_of_the_contract() -> None:
    assert hello_message(["a", "b"]) == {"type": "hello", "version": 1, "cameras": ["a", "b"]}
    assert gap_message("a", 3, 7) == {
        "type": "gap",
        "version": 1,
        "camera_id": "a",
        "from_seq": 3,
        "to_seq": 7,
        "reason": "slow_consumer",
    }
    error = SourceError(SourceErrorCode.READ_TIMEOUT, "nothing came for 10 s")
    assert camera_message("a", "retrying", error) == {
        "type": "camera",
        "version": 1,
        "camera_id": "a",
        "state": "retrying",
        "error": {"code": "read_timeout", "message": "nothing came for 10 s"},
    }
    assert camera_message("a", "running", None)["error"] is None
    assert encode(hello_message([]), "json") == b'{"type":"hello","version":1,"cameras":[]}'


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 300_000])
@pytest.mark.parametrize(("form", "opcode"), [("json", Opcode.TEXT), ("msgpack", Opcode.BINARY)])
def test_a_frame_is_read_back_by_a_client(length: int, form: Any, opcode: Opcode) -> None:
    message = Message(b"x" * length, form)
    reader = StreamReader()
    reader.feed_data(message.frame + b"\x89\x00")
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as ended:
        next(parsing)
    frame: Frame = ended.value.value
    assert (frame.fin, frame.opcode, bytes(frame.data)) == (True, opcode, message.data)
    assert message.frame is message.frame
