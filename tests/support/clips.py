"""Small video clips that the tests draw and encode themselves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.scheduling import scheduled_as_before

Codec = Literal["h264", "hevc", "mjpeg", "av1"]

COUNTER_BITS = 16
_ENCODERS: dict[str, str] = {"h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg", "av1": "libsvtav1"}
_AUDIO_RATE = 8000


@scheduled_as_before()
def write_test_clip(
    path: Path,
    *,
    codec: Codec = "h264",
    width: int = 320,
    height: int = 240,
    fps: int | Fraction = 10,
    seconds: float = 2.0,
    gop: int = 10,
    b_frames: int = 0,
    audio_first: bool = False,
    first_number: int = 0,
) -> Path:
    """Encode a clip with a moving pattern and a machine-readable number in every frame; return `path`.

    The container follows the suffix (.mp4 and .mkv take every codec here). Keyframes come every `gop` frames exactly.
    `audio_first` puts a silent AAC stream before the video. `read_frame_number` reads the number back from a decoded
    frame; the first frame carries `first_number`. B-frames are for h264 and hevc.
    """
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=_AUDIO_RATE, layout="mono") if audio_first else None
        video: Any = container.add_stream(
            _ENCODERS[codec],
            rate=fps,
            width=width,
            height=height,
            pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
            gop_size=gop,
            options=_encoder_options(codec, gop=gop, b_frames=b_frames),
        )
        video.codec_context.thread_count = 1
        if audio is not None:
            for packet in _silence(audio, seconds):
                container.mux(packet)
        for index in range(round(seconds * fps)):
            image = draw_test_image(first_number + index, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def draw_test_image(number: int, *, width: int, height: int) -> NDArray[np.uint8]:
    """Draw one picture: a sliding gradient, a moving bright square, and `number` as black and white blocks on top.

    Returns u8[height, width, 3] RGB.
    """
    ramp_x = (np.arange(width) + 4 * number) % 256
    ramp_y = np.linspace(0, 160, height)
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = ramp_x[None, :]
    image[..., 1] = ramp_y[:, None]
    image[..., 2] = 96
    bar = _bar_height(height)
    side = height // 4
    left = (5 * number) % (width - side)
    top = bar + (3 * number) % (height - bar - side)
    image[top : top + side, left : left + side] = (250, 220, 40)
    bits = [(number >> bit) & 1 for bit in range(COUNTER_BITS)]
    image[:bar] = np.repeat(bits, -(-width // COUNTER_BITS))[:width][None, :, None] * 255
    return image


def read_frame_number(image: NDArray[np.uint8]) -> int:
    """Read the number that `draw_test_image` put into a picture.

    image: u8[height, width] grey or u8[height, width, 3] of any channel order, unscaled.
    """
    height, width = image.shape[:2]
    block = -(-width // COUNTER_BITS)
    row = image[_bar_height(height) // 2]
    number = 0
    for bit in range(COUNTER_BITS):
        middle = min(bit * block + block // 2, width - 1)
        number |= int(np.mean(row[middle]) > 127) << bit
    return number


def _bar_height(height: int) -> int:
    return max(8, height // 12)


def _encoder_options(codec: Codec, *, gop: int, b_frames: int) -> dict[str, str]:
    if codec == "h264":
        return {"preset": "ultrafast", "crf": "23", "bf": str(b_frames), "keyint_min": str(gop), "sc_threshold": "0"}
    if codec == "hevc":
        return {
            "preset": "ultrafast",
            "x265-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes={b_frames}"
            ":pools=none:frame-threads=1:log-level=error",
        }
    if codec == "av1":
        return {"preset": "12", "svtav1-params": f"keyint={gop}:lp=1:scd=0"}
    # RFC 2435 carries no Huffman tables, so only pictures with the standard ones can go over RTP.
    return {"huffman": "default", "qmin": "3", "qmax": "5"}


def _silence(stream: Any, seconds: float) -> list[Any]:
    packets: list[Any] = []
    samples = 1024
    for index in range(int(seconds * _AUDIO_RATE / samples) + 1):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
        frame.sample_rate = _AUDIO_RATE
        frame.pts, frame.time_base = index * samples, Fraction(1, _AUDIO_RATE)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))
