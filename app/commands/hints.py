"""What to do about each reason why a camera does not deliver."""

from __future__ import annotations

from app.errors import SourceErrorCode

HINTS: dict[SourceErrorCode, str] = {
    SourceErrorCode.DNS_FAILED: "Check the spelling of the host, or use the camera's IP address.",
    SourceErrorCode.CONNECTION_REFUSED: (
        "The host is there, but nothing listens on that port or it has no room: check the port (RTSP's own is 554), "
        "that RTSP is switched on, and how many clients the camera serves at once."
    ),
    SourceErrorCode.CONNECT_TIMEOUT: (
        "No answer: check the address, that the camera has power and does not hang, and firewalls or VLANs on the way."
    ),
    SourceErrorCode.AUTH_FAILED: (
        "Check --username and --password-file; many cameras have accounts for RTSP that differ from the web page's, "
        "and lock an account after some wrong passwords."
    ),
    SourceErrorCode.NOT_FOUND: (
        "The camera answers, but not under this path: look the path up in its manual or in its ONVIF profile."
    ),
    SourceErrorCode.TLS_FAILED: "Check that the camera speaks rtsps on this port (322 by default); try rtsp instead.",
    SourceErrorCode.NO_VIDEO: "The stream has no video: ask for another profile or channel of the camera.",
    SourceErrorCode.UNSUPPORTED_CODEC: "Set the camera to H.264 or H.265.",
    SourceErrorCode.DECODE_FAILED: (
        "Data comes, but no picture: look for packet loss (try --transport tcp), and set the camera to plain H.264."
    ),
    SourceErrorCode.READ_TIMEOUT: (
        "The camera went silent: try --transport tcp, since UDP is often lost on the way, and give it more time with "
        "--timeout when its keyframes are far apart."
    ),
    SourceErrorCode.END_OF_STREAM: "The camera ended the stream itself: look for a limit of clients or of time.",
    SourceErrorCode.FORBIDDEN_URL: (
        "Use an rtsp:// or rtsps:// URL; files are read below --media-dir only. Where hosts may be is set by "
        "cameras.allow_hosts and cameras.deny_hosts."
    ),
    SourceErrorCode.RESOURCE_EXHAUSTED: "This machine is out of memory or of file descriptors: see `ulimit -n`.",
    SourceErrorCode.INTERNAL: "This is a fault of Vidette; please report it with the message above.",
}
