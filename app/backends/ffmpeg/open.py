"""Opening a camera or a file with FFmpeg: options, transports, timeouts. Measured values are for FFmpeg 8.1."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from app.backends.ffmpeg.blocks import bound_blocks
from app.backends.ffmpeg.faults import open_failed, resolve_failed
from app.backends.ffmpeg.redirects import redirects_refused
from app.cameras.handshake import addresses_in, forbidding
from app.cameras.hosts import HostPolicy, literal_address
from app.cameras.source import SourceRequest
from app.cameras.urls import CameraUrl, at_address, parse_camera_url, with_credentials
from app.errors import SourceError, SourceErrorCode

# Opens in 50 ms instead of 1.1 s: size and codec come from the first picture, not from guessing over many.
_QUICK = {"analyzeduration": "0", "probesize": "32", "fpsprobesize": "0"}
# The URL is checked before, but a playlist inside a file could name anything.
_FILE_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ivf,h264,hevc,obu,mjpeg,mpjpeg"
_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 4
_NEXT_ADDRESS = (SourceErrorCode.CONNECTION_REFUSED, SourceErrorCode.CONNECT_TIMEOUT)
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

    TLS is encrypted but not verified unless `tls_ca_file` is given, since cameras sign their own certificates. A
    redirect is followed to where `request.hosts` lets cameras be, without the credentials if that is another host.
    Raises SourceError.
    """
    bound_blocks()
    camera = _checked(request)
    for _ in range(_MAX_REDIRECTS + 1):
        opened = _open(request, camera, tls_ca_file=tls_ca_file, clock=clock)
        if isinstance(opened, OpenStream):
            return opened
        camera = _redirected(camera, opened, request.hosts)
    raise SourceError(SourceErrorCode.NOT_FOUND, f"{camera.address} redirects again and again")


def _checked(request: SourceRequest) -> CameraUrl:
    """The checked URL with the credentials that count."""
    with forbidding():
        camera = parse_camera_url(request.url, media_dir=request.media_dir)
        if camera.path is None and (request.username is not None or request.password is not None):
            camera = replace(camera, username=request.username, password=request.password)
        return camera


def _redirected(camera: CameraUrl, location: str, hosts: HostPolicy) -> CameraUrl:
    """Where a camera sends us, if it may. Its own URL rules hold for that too; the user chose only the first place."""
    try:
        target = parse_camera_url(location)
        hosts.check(target.host)
        if (camera.scheme, target.scheme) == ("rtsps", "rtsp"):
            raise ValueError("url: the redirect leads from an encrypted connection to a plain one")
    except ValueError as exc:
        text = f"{camera.address} redirects to a place that is not allowed: {str(exc).removeprefix('url: ')}"
        raise SourceError(SourceErrorCode.FORBIDDEN_URL, text) from None
    if target.host.lower() != camera.host.lower():
        return target
    return replace(target, username=camera.username, password=camera.password)


def _open(
    request: SourceRequest, camera: CameraUrl, *, tls_ca_file: Path | None, clock: Callable[[], float]
) -> OpenStream | str:
    """Open one URL, by each of its host's addresses until one answers. A redirect is given back, not followed."""
    started_at = clock()
    patience_s = _patience_s(camera, request.stall_timeout_s)
    urls = _urls(camera, request.hosts)
    options, format_name = _options(request, camera, patience_s=patience_s, tls_ca_file=tls_ca_file)
    timeout = (request.stall_timeout_s, request.stall_timeout_s)
    failure = None
    for url in urls:
        tried_at = clock()
        with redirects_refused() as redirect:
            try:
                container = av.open(url, "r", format=format_name, options=options, timeout=timeout)
            except (av.FFmpegError, MemoryError) as exc:
                failure = open_failed(
                    exc,
                    camera,
                    took_s=clock() - tried_at,
                    patience_s=patience_s,
                    anonymous=not (camera.username or camera.password),
                )
            else:
                return OpenStream(
                    camera=camera, container=container, video=_find_video(container, camera), patience_s=patience_s
                )
        if redirect.location is not None:
            return redirect.location
        if failure.code not in _NEXT_ADDRESS or clock() - started_at > request.stall_timeout_s:
            break
    assert failure is not None, "there is always a URL"
    # Raised out here, so that it holds on to nothing of the original: that one's text has the password.
    raise failure


def _urls(camera: CameraUrl, hosts: HostPolicy) -> list[str]:
    """What FFmpeg is to open: the file, or the camera by each of its addresses that is allowed.

    By address, since FFmpeg's own look-up of a name may have another answer than the one that was checked. An rtsps
    camera keeps its name, which TLS needs: a second answer costs it a handshake with a stranger, and no more. Where a
    part of the answer is denied, it goes without.
    """
    if camera.path is not None:
        with forbidding():
            return [_regular_file(camera.path)]
    found = _resolve(camera, hosts)
    with forbidding():
        addresses = hosts.permitted(camera.host, found)
        by_name = literal_address(camera.host) is not None or (camera.scheme == "rtsps" and addresses == found)
        cameras = [camera] if by_name else [at_address(camera, address) for address in addresses[:_MAX_ADDRESSES]]
        return [with_credentials(each, each.username, each.password) for each in cameras]


def _regular_file(path: Path) -> str:
    # Not the methods of `Path`, which raise for a name that is too long or a folder that is closed to us.
    if not os.path.exists(path):
        raise SourceError(SourceErrorCode.NOT_FOUND, f"{path.name[:80]} does not exist below media_dir")
    if not os.path.isfile(path):  # opening a FIFO would block for ever
        raise ValueError(f"url: {path.name} is not a regular file")
    return str(path)


def _patience_s(camera: CameraUrl, stall_timeout_s: float) -> float:
    # Over plain RTSP a read may time out and go on, so it looks up twice per stall. A TLS session is lost with the
    # first read that times out.
    return stall_timeout_s if camera.scheme == "rtsps" else stall_timeout_s / 2


def _resolve(camera: CameraUrl, hosts: HostPolicy) -> tuple[str, ...]:
    with forbidding():
        hosts.check(camera.host)
    # Also because FFmpeg says "Input/output error" for an unknown name.
    try:
        found = socket.getaddrinfo(camera.host, camera.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise resolve_failed(exc, camera) from None
    return addresses_in(found)


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
