"""From a decoded YUV 4:2:0 frame to a letterboxed BGR picture: the way that is shipped, and those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from app.backends.cpu.preprocess import Preprocessor
from app.backends.ffmpeg.surface import HostSurface
from app.inference.geometry import letterbox
from app.inference.model import ModelSpec
from app.measure.routes import Route

Image: TypeAlias = NDArray[np.uint8]
Way: TypeAlias = Callable[[av.VideoFrame], Image]  # gives its own buffer, which the next call overwrites
REFERENCE = "whole picture"


def preprocess_routes(frames: Sequence[av.VideoFrame], size: int) -> tuple[list[Route], dict[str, str]]:
    """Routes over these frames into size x size, the shipped one first; and how far each is from the whole picture.

    The frames have one size. Sets OpenCV to one thread.
    """
    cv2.setNumThreads(1)
    width, height = frames[0].width, frames[0].height
    box = letterbox(width, height, size, size, "top_left")
    ways: dict[str, Way] = {
        "planes": _shipped(size),
        REFERENCE: _whole_picture(box.width, box.height),
        "swscale fast bilinear": _swscale(box.width, box.height, Interpolation.FAST_BILINEAR),
        "swscale bilinear": _swscale(box.width, box.height, Interpolation.BILINEAR),
        "swscale area": _swscale(box.width, box.height, Interpolation.AREA),
        "half chroma swscale": _half_chroma_swscale(box.width, box.height),
        "planes only": _planes_only(box.width, box.height),
    }
    if box.width % 2 == box.height % 2 == 0:
        ways["half chroma i420"] = _half_chroma_i420(box.width, box.height)
    wanted = [ways[REFERENCE](frame).astype(np.int16) for frame in frames[:4]]
    notes = {}
    for name, way in ways.items():
        if name != "planes only":
            errors = [np.abs(way(f)[: box.height, : box.width] - w) for f, w in zip(frames, wanted, strict=False)]
            notes[name] = (
                f"levels from the whole picture: mean {np.mean(errors):.2f}, p99 {np.percentile(errors, 99):.0f}"
            )
    notes["planes only"] = "no colours: what a graph that takes Y, U and V would leave to do"
    return [Route(name=name, run=_over(frames, way), units=len(frames)) for name, way in ways.items()], notes


def _over(frames: Sequence[av.VideoFrame], way: Way) -> Callable[[], None]:
    def run() -> None:
        for frame in frames:
            way(frame)

    return run


def _shipped(size: int) -> Way:
    spec = ModelSpec(
        name="route",
        path=Path("route.onnx"),
        sha256="",
        family="yolox",
        input_width=size,
        input_height=size,
        colour="bgr",
        letterbox="top_left",
        pad=114,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        classes=("person",),
        licence=None,
        input_name="images",
        output_names=("output",),
        dynamic_batch=False,
    )
    preprocessor = Preprocessor(spec, 1)

    def way(frame: av.VideoFrame) -> Image:
        preprocessor.write([HostSurface(frame)])
        image: Image = preprocessor.images[0]
        return image

    return way


def _whole_picture(width: int, height: int) -> Way:
    """The frame to BGR by swscale, then scaled: what reading a camera with OpenCV comes to."""
    out = np.empty((height, width, 3), dtype=np.uint8)

    def way(frame: av.VideoFrame) -> Image:
        cv2.resize(HostSurface(frame).to_bgr(), (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        return out

    return way


def _swscale(width: int, height: int, interpolation: Interpolation) -> Way:
    """One pass of swscale. PyAV gives a new frame, which is copied into the batch."""
    out = np.empty((height, width, 3), dtype=np.uint8)
    reformatter = VideoReformatter()

    def way(frame: av.VideoFrame) -> Image:
        scaled = reformatter.reformat(
            frame, width=width, height=height, format="bgr24", interpolation=interpolation, threads=1
        )
        np.copyto(out, _lines(scaled.planes[0], 3).reshape(height, width, 3))
        return out

    return way


def _half_chroma_swscale(width: int, height: int) -> Way:
    """Planes scaled into a small 4:2:0 frame, which swscale turns into BGR: chroma at half the input's resolution."""
    out = np.empty((height, width, 3), dtype=np.uint8)
    small, reformatter = av.VideoFrame(width, height, "yuv420p"), VideoReformatter()
    targets = [_lines(plane, 1) for plane in small.planes]

    def way(frame: av.VideoFrame) -> Image:
        for plane, target in zip(_planes(frame), targets, strict=True):
            cv2.resize(plane, target.shape[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        small.colorspace, small.color_range = frame.colorspace, frame.color_range
        scaled = reformatter.reformat(small, format="bgr24", threads=1)
        np.copyto(out, _lines(scaled.planes[0], 3).reshape(height, width, 3))
        return out

    return way


def _half_chroma_i420(width: int, height: int) -> Way:
    """The same with OpenCV's own conversion, which knows BT.601 in limited range only."""
    out = np.empty((height, width, 3), dtype=np.uint8)
    small = np.empty((height * 3 // 2, width), dtype=np.uint8)
    luma, chroma = small[:height], small[height:].reshape(2, height // 2, width // 2)

    def way(frame: av.VideoFrame) -> Image:
        for plane, target in zip(_planes(frame), (luma, *chroma), strict=True):
            cv2.resize(plane, target.shape[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(small, cv2.COLOR_YUV2BGR_I420, dst=out)
        return out

    return way


def _planes_only(width: int, height: int) -> Way:
    out = np.empty((3, height, width), dtype=np.uint8)

    def way(frame: av.VideoFrame) -> Image:
        for plane, target in zip(_planes(frame), out, strict=True):
            cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        return out

    return way


def _planes(frame: av.VideoFrame) -> tuple[Image, Image, Image]:
    planes = HostSurface(frame).as_planes()
    return planes.y, planes.u, planes.v


def _lines(plane: Any, channels: int) -> Image:
    """A view of a plane's pixels without the padding of its lines."""
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : channels * plane.width]
