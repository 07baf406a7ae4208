"""RTSP requests and answers as bytes."""

from __future__ import annotations

import pytest

from app.simulator.rtsp import (
    BadRequest,
    InterleavedTransport,
    Request,
    Response,
    UdpTransport,
    choose_transport,
    parse_request,
)


def request_to(url: str) -> Request:
    return Request(method="DESCRIBE", url=url, headers={"cseq": "3"})


def test_request_is_read_with_its_headers_in_lower_case() -> None:
    request = parse_request(b"SETUP rtsp://h/cam0 RTSP/1.0\r\nCSeq: 2\r\nTRANSPORT:  a;b \r\nContent-Length: 7\r\n\r\n")
    assert (request.method, request.url, request.body_bytes) == ("SETUP", "rtsp://h/cam0", 7)
    assert (request.header("cseq"), request.header("transport"), request.header("session")) == ("2", "a;b", "")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"DESCRIBE rtsp://h/cam0\r\n\r\n",
        b"DESCRIBE  rtsp://h/cam0 RTSP/1.0\r\n\r\n",
        b"DESCRIBE rtsp://h/cam0 RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
        b"DESCRIBE rtsp://h/cam0 RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(head)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("rtsp://127.0.0.1:8554/cam0", ("cam0", "")),
        ("rtsp://127.0.0.1:8554/cam0/", ("cam0", "")),
        ("rtsp://127.0.0.1:8554/cam0/trackID=1?x=y", ("cam0", "trackID=1")),
        ("rtsp://127.0.0.1:8554/caf%C3%A9", ("café", "")),
        ("rtsp://127.0.0.1:8554", ("", "")),
        ("rtsp://[broken/cam0", ("", "")),
        ("*", ("*", "")),
    ],
)
def test_url_names_a_camera_and_a_track(url: str, target: tuple[str, str]) -> None:
    assert request_to(url).target() == target


def test_answer_repeats_the_sequence_number_and_counts_its_body_in_bytes() -> None:
    data = Response(status=200, headers={"Session": "1"}, body="ö").encode(request_to("rtsp://h/c"))
    assert data == b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: 1\r\nContent-Length: 2\r\n\r\n\xc3\xb6"


@pytest.mark.parametrize(
    ("header", "allow_udp", "transport"),
    [
        ("RTP/AVP/TCP;unicast;interleaved=4-5", True, InterleavedTransport(channel=4)),
        ("RTP/AVP/TCP;unicast", True, InterleavedTransport(channel=None)),
        ("RTP/AVP/TCP;unicast;interleaved=255-256", True, None),
        ("RTP/AVP;unicast;client_port=5000-5001", True, UdpTransport(rtp_port=5000, rtcp_port=5001)),
        ("RTP/AVP/UDP;unicast;client_port=5000", True, UdpTransport(rtp_port=5000, rtcp_port=5001)),
        ("RTP/AVP;unicast;client_port=5000-5001", False, None),
        ("RTP/AVP;unicast;client_port=99999-1", True, None),
        ("RTP/AVP;multicast;client_port=5000-5001", True, None),
        ("RTP/AVP;unicast", True, None),
        ("RTP/AVP;multicast,RTP/AVP/TCP;interleaved=0-1", True, InterleavedTransport(channel=0)),
        ("", True, None),
    ],
)
def test_first_transport_that_can_be_served_is_taken(
    header: str, allow_udp: bool, transport: InterleavedTransport | UdpTransport | None
) -> None:
    assert choose_transport(header, allow_udp=allow_udp) == transport
