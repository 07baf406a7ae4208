"""Opening a camera or a file with FFmpeg: options, transports, timeouts. Measured values are for FFmpeg 8.1."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from app.backends.ffmpeg.faults import open_failed, resolve_failed
from app.cameras.source import SourceRequest
from app.cameras.urls import CameraUrl, parse_camera_url, with_credentials
from app.errors import SourceError, SourceErrorCode

# Opens in 50 ms instead of 1.1 s: size and codec come from the first picture, not from guessing over many.
_QUICK = {"analyzeduration": "0", "probesize": "32", "fpsprobesize": "0"}
# The URL is checked before, but a playlist inside a file could name anything.
_FILE_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ivf,h264,hevc,obu,mjpeg,mpjpeg"
# With both, FFmpeg asks for TCP first and for UDP in the same session when the camera refuses that (461).
_TRANSPORTS = {
    "auto": {"rtsp_transport": "tcp+udp", "rtsp_flags": "prefer_tcp"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """A connected camera or an open file, and its video stream."""

    camera: CameraUrl
    container: InputContainer
    video: VideoStream
    patience_s: float  # a read raises after this much silence


def open_stream(
    request: SourceRequest,
    *,
    tls_ca_file: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> OpenStream:
    """Connect and find the video. Blocking: DNS as long as the resolver takes, then at most twice the stall timeout.

    TLS is encrypted but not verified unless `tls_ca_file` is given, since cameras sign their own certificates. Raises
    SourceError.
    """
    camera, url = _address(request)
    patience_s = _patience_s(camera, request.stall_timeout_s)
    if camera.path is None:
        _resolve(camera)
    options, format_name = _options(request, camera, patience_s=patience_s, tls_ca_file=tls_ca_file)
    started_at = clock()
    try:
        container = av.open(
            url, "r", format=format_name, options=options, timeout=(request.stall_timeout_s, request.stall_timeout_s)
        )
    except (av.FFmpegError, MemoryError) as exc:
        # Not chained: the original's text holds the password, and a traceback would print it.
        raise open_failed(
            exc,
            camera,
            took_s=clock() - started_at,
            patience_s=patience_s,
            anonymous=not (camera.username or camera.password),
        ) from None
    return OpenStream(camera=camera, container=container, video=_find_video(container, camera), patience_s=patience_s)


def _address(request: SourceRequest) -> tuple[CameraUrl, str]:
    """Give the checked URL with the credentials that count, and what FFmpeg is to open."""
    try:
        camera = parse_camera_url(request.url, media_dir=request.media_dir)
        if camera.path is not None:
            return camera, _regular_file(camera.path)
        if request.username is not None or request.password is not None:
            camera = replace(camera, username=request.username, password=request.password)
        return camera, with_credentials(camera, camera.username, camera.password)
    except ValueError as exc:
        raise SourceError(SourceErrorCode.FORBIDDEN_URL, str(exc)) from None


def _regular_file(path: Path) -> str:
    if not path.exists():
        raise SourceError(SourceErrorCode.NOT_FOUND, f"{path.name} does not exist below media_dir")
    if not path.is_file():  # opening a FIFO would block for ever
        raise ValueError(f"url: {path.name} is not a regular file")
    return str(path)


def _patience_s(camera: CameraUrl, stall_timeout_s: float) -> float:
    # Over plain RTSP a read may time out and go on, so it looks up twice per stall. A TLS session is lost with the
    # first read that times out.
    return stall_timeout_s if camera.scheme == "rtsps" else stall_timeout_s / 2


def _resolve(camera: CameraUrl) -> None:
    # FFmpeg says "Input/output error" for an unknown name. The second look-up, its own, comes from the cache.
    try:
        socket.getaddrinfo(camera.host, camera.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise resolve_failed(exc, camera) from None


def _options(
    request: SourceRequest, camera: CameraUrl, *, patience_s: float, tls_ca_file: Path | None
) -> tuple[dict[str, str], str | None]:
    if camera.path is not None:
        return {"protocol_whitelist": "file", "format_whitelist": _FILE_FORMATS}, None
    # UDP would leave the video of an encrypted camera in the clear.
    transport = "tcp" if camera.scheme == "rtsps" else request.transport
    options = {
        **_QUICK,
        **_TRANSPORTS[transport],
        "allowed_media_types": "video",
        "protocol_whitelist": "rtp,rtsp,rtsps,udp,tcp,tls,srtp",
        # Silence on the socket, in µs. PyAV's own timeout counts the whole read, so it would also hit a camera that
        # sends steadily but slowly; it stays as the bound for streams of garbage, which never fall silent.
        "timeout": str(round(patience_s * 1e6)),
        "tls_verify": "0",
    }
    if tls_ca_file is not None:
        options.update(tls_verify="1", ca_file=str(tls_ca_file))
    return options, "rtsp"


def _find_video(container: InputContainer, camera: CameraUrl) -> VideoStream:
    video = container.streams.best("video")
    if isinstance(video, VideoStream) and video.codec_context is not None:
        return video
    container.close()
    if video is None:
        raise SourceError(SourceErrorCode.NO_VIDEO, f"{camera.address} offers no video stream")
    raise SourceError(SourceErrorCode.UNSUPPORTED_CODEC, f"{camera.address} sends a video codec that is not supported")
