"""What the service's timers measure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from app.service import decoding_s
from app.types import StreamInfo


def camera(name: str, decoder: str | None) -> Any:
    """A camera that spent two seconds on decoding; without a decoder it has no stream yet."""
    info = decoder and StreamInfo(codec="h264", width=640, height=360, declared_fps=25.0, decoder=decoder)
    lane = SimpleNamespace(camera_id=name, decode_s=2.0)
    return cast("Any", SimpleNamespace(lane=lane, status=SimpleNamespace(info=info)))


def test_what_nvdec_decodes_takes_no_core_s_time() -> None:
    cameras = [camera("a", "software"), camera("b", "nvdec"), camera("c", None), camera("d", "synthetic")]
    assert decoding_s(cameras) == {"a": 2.0, "c": 2.0, "d": 2.0}
