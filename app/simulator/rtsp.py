"""RTSP 1.0 messages (RFC 2326), as far as a camera needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

MAX_BODY_BYTES = 64 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    503: "Service Unavailable",
}
_INTERLEAVED = re.compile(r"interleaved=(\d+)")
_CLIENT_PORT = re.compile(r"client_port=(\d+)(?:-(\d+))?")


class BadRequest(Exception):
    """What came in is no RTSP request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. Header names are lower case."""

    method: str
    url: str
    headers: Mapping[str, str]

    @property
    def body_bytes(self) -> int:
        return int(self.headers.get("content-length", "0"))

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def target(self) -> tuple[str, str]:
        """The camera's name and the track's control name, "" where the URL has none."""
        try:
            parts = [unquote(part) for part in urlsplit(self.url).path.split("/") if part]
        except ValueError:
            return "", ""
        return (parts[0] if parts else "", parts[1] if len(parts) > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    ends_connection: bool = False

    def encode(self, request: Request) -> bytes:
        lines = [f"RTSP/1.0 {self.status} {_REASONS[self.status]}", f"CSeq: {request.header('cseq') or '0'}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        body = self.body.encode()
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleavedTransport:
    """Media in the RTSP connection itself: RTP on `channel`, RTCP on the next one."""

    channel: int | None  # None: the client leaves the choice to us


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpTransport:
    rtp_port: int
    rtcp_port: int


def parse_request(head: bytes) -> Request:
    """Read a request's head, up to and with its empty line. Raises `BadRequest`."""
    # User names and paths may be UTF-8; whatever is not must survive a round trip all the same.
    first, *rest = head.decode("utf-8", "surrogateescape").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("RTSP/"):
        raise BadRequest("the request line is not METHOD URL RTSP/1.0")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    # isdecimal takes other scripts' digits too; so does int
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        raise BadRequest("Content-Length is no number, or too large")
    return Request(method=words[0], url=words[1], headers=headers)


def choose_transport(header: str, *, allow_udp: bool) -> InterleavedTransport | UdpTransport | None:
    """Take the first transport of a Transport header that a camera can serve; None when there is none."""
    for offer in header.split(","):
        profile, *parameters = [part.strip() for part in offer.split(";")]
        if "multicast" in parameters:
            continue
        if profile.upper() == "RTP/AVP/TCP":
            found = _INTERLEAVED.search(offer)
            channel = int(found.group(1)) if found else None
            if channel is None or channel < 255:
                return InterleavedTransport(channel=channel)
        elif profile.upper() in ("RTP/AVP", "RTP/AVP/UDP") and allow_udp:
            ports = _CLIENT_PORT.search(offer)
            if ports:
                rtp_port = int(ports.group(1))
                rtcp_port = int(ports.group(2) or rtp_port + 1)
                if 0 < rtp_port < 65536 and 0 < rtcp_port < 65536:
                    return UdpTransport(rtp_port=rtp_port, rtcp_port=rtcp_port)
    return None
