"""Decoding with less work: what is left out, and that pictures are right again after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app.backends.ffmpeg.decoder import FrameDecoder
from app.backends.ffmpeg.source import PyavSource
from app.cameras.source import DecodeEffort, SourceRequest
from app.errors import SourceError
from tests.support.clips import draw_test_image, read_frame_number
from tests.support.cuda_streams import Picture, feeding, in_software, picture

log = logging.getLogger("test")
GOP, GOPS, FPS = 12, 4, 50
CODECS = ("libx264", "libx265")


@pytest.fixture(scope="module", params=CODECS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four groups of pictures with B-frames and a loop filter that has a lot to do."""
    path = tmp_path_factory.mktemp("effort") / f"{request.param}.mp4"
    x265 = f"keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0:bframes=2:pools=none:frame-threads=1:log-level=error"
    options: dict[str, dict[str, str]] = {
        "libx264": {"preset": "veryfast", "crf": "38", "bf": "2", "keyint_min": str(GOP), "sc_threshold": "0"},
        "libx265": {"preset": "veryfast", "crf": "38", "x265-params": x265},
    }
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(
            request.param, rate=FPS, width=320, height=240, gop_size=GOP, options=options[request.param]
        )
        video.pix_fmt = "yuv420p"
        for number in range(GOP * GOPS):
            frame = av.VideoFrame.from_ndarray(draw_test_image(number, width=320, height=240), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def decoded(clip: Path, efforts: Mapping[int, DecodeEffort]) -> dict[int, Picture]:
    """The pictures of a clip by their number, when the effort changes before the packets of those numbers."""
    with feeding(clip, lambda video: FrameDecoder(video, log=log)) as feed:
        pictures = []
        for count, packet in enumerate(feed):
            if count in efforts:
                feed.decoder.spend(efforts[count])
            pictures += [picture(frame) for frame in feed.decode(packet)]
    numbers = [read_frame_number(each.bgr) for each in pictures]
    assert numbers == sorted(set(numbers))
    assert all(each.pts_s == pytest.approx(number / FPS) for number, each in zip(numbers, pictures, strict=True))
    return dict(zip(numbers, pictures, strict=True))


def differs(a: Picture, b: Picture) -> float:
    return float(np.abs(a.bgr.astype(int) - b.bgr).mean())


def test_light_decoding_loses_no_picture_and_keyframes_are_exact(clip: Path) -> None:
    whole = dict(enumerate(in_software(clip)))
    light = decoded(clip, {GOP: DecodeEffort.LIGHT, 2 * GOP: DecodeEffort.FULL})
    assert light.keys() == whole.keys()
    for number, full in whole.items():
        if GOP < number < 2 * GOP:
            assert differs(light[number], full) < 6, number  # grey levels
        else:  # the keyframe that it begins with, and everything after the way back
            assert differs(light[number], full) == 0, number
    assert any(differs(light[number], whole[number]) > 0 for number in range(GOP + 1, 2 * GOP))


def test_an_effort_waits_for_a_keyframe(clip: Path) -> None:
    whole = dict(enumerate(in_software(clip)))
    light = decoded(clip, {GOP + 3: DecodeEffort.LIGHT, GOP + 5: DecodeEffort.FULL})
    assert light.keys() == whole.keys()
    assert all(differs(light[number], full) == 0 for number, full in whole.items())


def test_references_alone_leave_b_frames_out_and_the_rest_is_there(clip: Path) -> None:
    references = decoded(clip, {GOP: DecodeEffort.REFERENCES, 3 * GOP: DecodeEffort.FULL})
    inside = [number for number in references if GOP <= number < 3 * GOP]
    assert GOP in inside
    assert 2 * GOP in inside
    assert 4 < len(inside) < 2 * GOP - 4
    whole = dict(enumerate(in_software(clip)))
    after = [number for number in whole if not GOP <= number < 3 * GOP]
    assert all(differs(references[number], whole[number]) == 0 for number in after)


def test_every_change_at_every_keyframe_keeps_the_order(clip: Path) -> None:
    full, light, references, _ = DecodeEffort
    seen = decoded(clip, {0: light, GOP: references, 2 * GOP: light, 3 * GOP: full})
    whole = dict(enumerate(in_software(clip)))
    assert all(number in seen for number in range(0, GOP * GOPS, GOP))
    assert all(differs(seen[number], whole[number]) == 0 for number in range(3 * GOP, 4 * GOP))


def test_keyframes_only_give_exact_keyframes_and_the_way_back_begins_with_one(clip: Path) -> None:
    whole = in_software(clip)
    source = PyavSource(SourceRequest(camera_id="cam", url=f"file:{clip.name}", media_dir=clip.parent))
    source.pace(None, DecodeEffort.KEYFRAMES)
    seen = dict(_play(source, full_from=2 * GOP))
    assert list(seen) == [0, GOP, 2 * GOP, *range(3 * GOP, 4 * GOP)]
    for number, image in seen.items():
        assert np.array_equal(image, whole[number].bgr), number


def _play(source: PyavSource, *, full_from: int) -> Iterator[tuple[int, Any]]:
    """Number and picture of each frame to the end; from a frame on everything is decoded."""
    try:
        for frame in source.frames():
            image = frame.surface.to_bgr()
            frame.surface.release()
            number = read_frame_number(image)
            if number == full_from:
                source.pace(None, DecodeEffort.FULL)
            yield number, image
    except SourceError as exc:
        assert exc.code == "end_of_stream"
    finally:
        source.close()
