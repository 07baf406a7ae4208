"""The session description (RFC 8866) that a simulated camera answers DESCRIBE with."""

from __future__ import annotations

import base64

from app.simulator.clip import PARAMETER_SET_TYPES, Clip, nal_type
from app.simulator.rtp import RTP_CLOCK_HZ

VIDEO_CONTROL = "trackID=0"
AUDIO_CONTROL = "trackID=1"
_ENCODING_NAMES = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG", "av1": "AV1"}
_PCMU_PAYLOAD_TYPE = 0
PCMU_CLOCK_HZ = 8000


def describe(clip: Clip | None, *, audio_first: bool = False, sprop: bool = True) -> str:
    """Describe a camera that plays `clip`, or shows nothing when that is None.

    `audio_first` lists a PCMU track before the video. `sprop=False` leaves the parameter sets out, as some cameras do:
    a client then has to find them in band.
    """
    audio = _audio_lines() if audio_first else []
    lines = [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=Simulated camera",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        *audio,
        *([] if clip is None else _video_lines(clip, sprop=sprop)),
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _video_lines(clip: Clip, *, sprop: bool) -> list[str]:
    payload_type = clip.payload_type
    parameters = _format_parameters(clip, sprop=sprop)
    return [
        f"m=video 0 RTP/AVP {payload_type}",
        f"a=rtpmap:{payload_type} {_ENCODING_NAMES[clip.codec]}/{RTP_CLOCK_HZ}",
        *([f"a=fmtp:{payload_type} {parameters}"] if parameters else []),
        f"a=framerate:{clip.fps:.6g}",
        f"a=control:{VIDEO_CONTROL}",
    ]


def _audio_lines() -> list[str]:
    return [
        f"m=audio 0 RTP/AVP {_PCMU_PAYLOAD_TYPE}",
        f"a=rtpmap:{_PCMU_PAYLOAD_TYPE} PCMU/{PCMU_CLOCK_HZ}",
        f"a=control:{AUDIO_CONTROL}",
    ]


def _format_parameters(clip: Clip, *, sprop: bool) -> str:
    """The fmtp values of RFC 6184, 8.1 (H.264) and RFC 7798, 7.1 (H.265); the other codecs have none."""
    units = clip.parameter_sets if sprop else ()
    if clip.codec == "h264":
        values = ["packetization-mode=1"]
        if units:
            values.append(f"profile-level-id={units[0][1:4].hex()}")
            values.append("sprop-parameter-sets=" + ",".join(_base64(unit) for unit in units))
        return ";".join(values)
    if clip.codec == "hevc" and units:
        names = dict(zip(PARAMETER_SET_TYPES["hevc"], ("vps", "sps", "pps"), strict=True))
        return ";".join(
            f"sprop-{name}=" + ",".join(_base64(unit) for unit in units if nal_type("hevc", unit) == wanted)
            for wanted, name in names.items()
        )
    return ""


def _base64(unit: bytes) -> str:
    return base64.b64encode(unit).decode("ascii")
