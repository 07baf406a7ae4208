"""Decoding one clip in ways that leave things out: what each saves, and what it does to the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from app.backends.ffmpeg.reader import VideoPacket
from app.errors import ConfigError
from app.measure.routes import Route

Skip: TypeAlias = Literal["DEFAULT", "NONREF"]
_COMPARED = 60  # frames whose pictures are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to decode: options of FFmpeg's decoder, and which packets it gets."""

    options: Mapping[str, str] = field(default_factory=dict)
    skip_frame: Skip = "DEFAULT"
    keys_only: bool = False


VARIANTS: Mapping[str, Variant] = {
    "everything": Variant(),
    "loop filter in keyframes only": Variant(options={"skip_loop_filter": "nokey"}),
    "no loop filter": Variant(options={"skip_loop_filter": "all"}),
    "loop filter in references only": Variant(options={"skip_loop_filter": "noref"}),
    "fast": Variant(options={"flags2": "fast"}),
    "references only": Variant(skip_frame="NONREF"),
    "keyframes alone": Variant(keys_only=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadClip:
    """A clip's packets, in memory, and what its decoder has to know."""

    codec: str
    extradata: bytes | None
    packets: tuple[VideoPacket, ...]


def read_clip(path: Path, max_packets: int) -> ReadClip:
    """The first packets of a file's video. Blocking. Raises `ConfigError` when it has none."""
    try:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            packets = tuple(islice((each for each in container.demux(video) if each.size), max_packets))
            context = video.codec_context
            return ReadClip(codec=context.name, extradata=context.extradata, packets=packets)
    except (av.FFmpegError, IndexError) as exc:
        raise ConfigError(f"clip {path} is no video that can be read: {type(exc).__name__}") from exc


def every_nth_frame(clip: ReadClip, step: int) -> list[av.VideoFrame]:
    """Decoded frames to work on, the first included. Raises `ConfigError` when there are none."""
    frames = list(islice(_decode(clip, Variant()), 0, None, step))
    if not frames:
        raise ConfigError("clip: not one picture could be decoded")
    return frames


def decode_routes(clip: ReadClip) -> tuple[list[Route], dict[str, str]]:
    """One route for each variant, in packets of the whole clip; and the frames it gives, with the error of their luma.

    "keyframes alone" is counted by all packets too: it is what a second of the stream costs.
    """
    routes = [
        Route(name=name, run=partial(_drop, clip, variant), units=len(clip.packets))
        for name, variant in VARIANTS.items()
    ]
    return routes, _notes(clip)


def _drop(clip: ReadClip, variant: Variant) -> None:
    for _ in _decode(clip, variant):
        pass


def _decode(clip: ReadClip, variant: Variant) -> Iterator[av.VideoFrame]:
    context = cast(VideoCodecContext, av.CodecContext.create(clip.codec, "r"))
    context.thread_count = 1
    context.options = dict(variant.options)
    context.skip_frame = variant.skip_frame
    if clip.extradata is not None:
        context.extradata = clip.extradata
    for packet in clip.packets:
        if not variant.keys_only:
            yield from context.decode(packet)
        elif packet.is_keyframe:
            yield from context.decode(packet)
            yield from context.decode(None)
            context.flush_buffers()
    if not variant.keys_only:
        yield from context.decode(None)


def _notes(clip: ReadClip) -> dict[str, str]:
    whole = {frame.pts: _luma(frame) for frame in islice(_decode(clip, VARIANTS["everything"]), _COMPARED)}
    notes = {}
    for name, variant in VARIANTS.items():
        frames, errors = 0, []
        for frame in _decode(clip, variant):
            frames += 1
            if frame.pts in whole:
                errors.append(float(np.abs(_luma(frame) - whole[frame.pts]).mean()))
        notes[name] = f"{frames} frames, {_levels(errors)}"
    return notes


def _levels(errors: Sequence[float]) -> str:
    if not errors:
        return "none to compare"
    return f"luma off by {np.mean(errors):.2f} levels on average, {max(errors):.2f} in the worst frame"


def _luma(frame: av.VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(frame.to_ndarray(format="gray", threads=1)).astype(np.int16)
