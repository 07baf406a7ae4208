"""The messages that clients see, and their bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from app.errors import SourceError
from app.types import Detections

Format: TypeAlias = Literal["json", "msgpack"]
VERSION = 1
# Of one result; as many clients as there may be could each ask for a filter of their own.
KEPT_ENCODINGS = 8

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


def encode(message: dict[str, Any], form: Format) -> bytes:
    return _json.encode(message) if form == "json" else _msgpack.encode(message)


def utc_text(unix_s: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    seconds, microseconds = divmod(round(unix_s * 1e6), 1_000_000)
    return f"{_second_text(seconds)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=64)  # all frames of a second share it
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """What a subscriber wants to see of a result. Hashable: equal filters share one serialisation."""

    labels: frozenset[str] | None = None  # None: all
    min_score: float = 0.0
    empty: bool = True  # also results in which nothing is left


ALL = ResultFilter()


class Message:
    """A message's bytes, and the WebSocket frame that carries them, made once for all clients. Event loop only."""

    __slots__ = ("_frame", "data", "form")

    def __init__(self, data: bytes, form: Format) -> None:
        self.data = data
        self.form = form
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """As a server sends it (RFC 6455, 5.2): whole, without a mask, so the same for everybody."""
        if self._frame is None:
            self._frame = _head(len(self.data), 0x81 if self.form == "json" else 0x82) + self.data
        return self._frame


def _head(length: int, first: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


class Result:
    """One frame's published result and its bytes, each made once for each format and filter. Event loop only."""

    __slots__ = (
        "_bytes",
        "_classes",
        "_formed_at",
        "_message",
        "_model",
        "batch_size",
        "camera_id",
        "detections",
        "published_at",
        "seq",
    )

    def __init__(
        self,
        detections: Detections,
        *,
        classes: Sequence[str],
        model: str,
        batch_size: int,
        formed_at: float,
        published_at: float,
    ) -> None:
        self.camera_id = detections.camera_id
        self.seq = detections.seq
        self.detections = detections
        self.batch_size = batch_size
        self.published_at = published_at
        self._classes = classes
        self._model = model
        self._formed_at = formed_at
        self._message: dict[str, Any] | None = None
        self._bytes: dict[tuple[Format, ResultFilter], bytes | None] = {}

    @property
    def message(self) -> dict[str, Any]:
        """The `detections` message, unfiltered, built when first wanted. Not to be changed."""
        if self._message is None:
            self._message = _message(
                self.detections, self._classes, self._model, self.batch_size, self._formed_at, self.published_at
            )
        return self._message

    def encoded(self, form: Format, wanted: ResultFilter = ALL) -> bytes | None:
        """The message's bytes for this filter; None when the filter leaves nothing to send."""
        key = (form, wanted)
        if key in self._bytes:
            return self._bytes[key]
        message = filtered(self.message, wanted)
        data = None if message is None else encode(message, form)
        if len(self._bytes) < KEPT_ENCODINGS:
            self._bytes[key] = data
        return data


def filtered(message: dict[str, Any], wanted: ResultFilter) -> dict[str, Any] | None:
    """The message with only the detections that `wanted` names; None when it wants no empty ones and this is one."""
    found = message["detections"]
    if wanted.labels is not None or wanted.min_score > 0:
        found = [
            one
            for one in found
            if one["score"] >= wanted.min_score and (wanted.labels is None or one["label"] in wanted.labels)
        ]
        message = {**message, "detections": found}
    return message if found or wanted.empty else None


def gap_message(camera_id: str, from_seq: int, to_seq: int) -> dict[str, Any]:
    return {
        "type": "gap",
        "version": VERSION,
        "camera_id": camera_id,
        "from_seq": from_seq,
        "to_seq": to_seq,
        "reason": "slow_consumer",
    }


def camera_message(camera_id: str, state: str, error: SourceError | None) -> dict[str, Any]:
    """A camera's change; the state `removed` ends its row."""
    return {
        "type": "camera",
        "version": VERSION,
        "camera_id": camera_id,
        "state": state,
        "error": None if error is None else {"code": error.code.value, "message": error.message},
    }


def hello_message(camera_ids: Sequence[str]) -> dict[str, Any]:
    return {"type": "hello", "version": VERSION, "cameras": list(camera_ids)}


def _message(
    found: Detections, classes: Sequence[str], model: str, batch_size: int, formed_at: float, published_at: float
) -> dict[str, Any]:
    times, stages = found.times, found.stages
    return {
        "type": "detections",
        "version": VERSION,
        "camera_id": found.camera_id,
        "seq": found.seq,
        "pts_s": None if found.pts_s is None else round(found.pts_s, 6),
        "captured_at": utc_text(times.captured_utc),
        "clock": times.clock,
        "timing_ms": {
            "decode": _ms(times.decode_s),
            "queue": _ms(formed_at - times.decoded_at),
            "preprocess": _ms(stages.preprocess_s),
            "infer": _ms(stages.infer_s),
            "postprocess": _ms(stages.postprocess_s),
            "total": _ms(published_at - times.arrived_at),
        },
        "width": found.width,
        "height": found.height,
        "model": model,
        "batch_size": batch_size,
        "detections": _rows(found, classes),
    }


def _rows(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    # One conversion for the whole frame; floats as short as their meaning: 0.01 pixel, 0.0001 of score.
    boxes = (np.rint(found.boxes.astype(np.float64) * 1e2) / 1e2).tolist()
    scores = (np.rint(found.scores.astype(np.float64) * 1e4) / 1e4).tolist()
    return [
        {"box": box, "score": score, "class_id": class_id, "label": classes[class_id], "track_id": None}
        for box, score, class_id in zip(boxes, scores, found.class_ids.tolist(), strict=True)
    ]


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e3, 3)
