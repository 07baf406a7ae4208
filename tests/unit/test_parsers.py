"""What strangers write and our own parsers read: it means something, or is refused in the way that is promised."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from app.api.stream import StreamQuery, parse_query
from app.backends.synthetic.detector import CLASSES
from app.cameras.entries import read_entries
from app.cameras.exchange import as_yaml, read_cameras
from app.cameras.settings import ID_PATTERN, CameraSettings
from app.cameras.urls import CameraUrl, concealed, masked, parse_camera_url, redact, with_credentials
from app.errors import ConfigError
from app.results.wire import ResultFilter, encode, filtered
from app.simulator.auth import AuthGate, digest_response
from app.simulator.rtp import RtpBurst, RtpStream, media_frame
from app.simulator.rtsp import BadRequest, InterleavedTransport, Request, Response, choose_transport, parse_request
from tests.support.fakes import make_result

ANY_TEXT = st.text(max_size=80)
# Text that is nearly what a parser looks for reaches further than any text does.
PIECES = st.sampled_from(
    [
        "rtsp://",
        "RTSPS://",
        "file:",
        "//",
        "/",
        "@",
        ":",
        "?",
        "#",
        "[",
        "]",
        "%",
        "%40",
        "%zz",
        "::1",
        "554",
        "65536",
        "a",
        "cam.test",
        "192.0.2.7",
        "user",
        "secret",
        "password=",
        "&",
        "..",
        "\\",
        "\x00",
        "\n",
        "é",
        "�",
        " ",
    ]
)
NEARLY_URLS = st.lists(PIECES, max_size=14).map("".join) | st.lists(PIECES, max_size=12).map(
    lambda pieces: "rtsp://" + "".join(pieces)
)
NO_CONTROL = st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"))
CREDENTIAL = st.text(NO_CONTROL, min_size=1, max_size=12)


def parsed(text: str) -> CameraUrl | None:
    try:
        return parse_camera_url(text)
    except ValueError as exc:
        assert str(exc).startswith("url: ")
        assert "\n" not in str(exc)
        return None


@settings(max_examples=600)
@given(NEARLY_URLS | ANY_TEXT)
def test_a_camera_url_is_taken_apart_or_refused_with_a_sentence(text: str) -> None:
    camera = parsed(text)
    if camera is None:
        return
    assert camera.scheme in ("rtsp", "rtsps")
    assert 0 < camera.port < 65536
    assert camera.host
    assert not re.search(r"[\s@/?#\x00-\x1f]", camera.host)
    assert "@" not in camera.url.partition("://")[2].partition("/")[0].partition("?")[0]
    # What was taken apart means the same when it is read again.
    again = parsed(camera.url)
    assert again is not None
    assert (again.host, again.port, again.url) == (camera.host, camera.port, camera.url)
    assert (again.username, again.password) == (None, None)


@settings(max_examples=400)
@given(CREDENTIAL, CREDENTIAL)
def test_credentials_survive_the_url_that_carries_them(username: str, password: str) -> None:
    camera = parse_camera_url("rtsp://cam.test:8554/a?b=c")
    try:
        url = with_credentials(camera, username, password)
    except ValueError as exc:
        assert str(exc).startswith(("username: ", "password: "))
        return
    again = parse_camera_url(url)
    assert (again.username, again.password, again.url) == (username, password, camera.url)


@settings(max_examples=250)
@given(NEARLY_URLS)
def test_what_is_shown_of_a_url_is_never_changed_by_showing_it_again(text: str) -> None:
    for show in (masked, concealed, redact):
        assert show(show(text)) == show(text)


SECRET = st.text(st.characters(categories=("L", "N")), min_size=8, max_size=16).map(lambda text: f"Zq{text}")


@settings(max_examples=400)
@given(SECRET, st.sampled_from(["rtsp://u:{}@cam.test/1", "rtsp://cam.test/1?password={}&x=1", "x rtsps://:{}@h y"]))
def test_a_password_in_a_url_is_in_nothing_that_is_shown_of_it(secret: str, pattern: str) -> None:
    text = pattern.format(secret)
    assert secret not in redact(text)
    assert secret not in concealed(text)
    if parsed(text) is not None:
        assert secret not in repr(parse_camera_url(text))


NAMES = ["camera", "class", "min_score", "empty", "mode", "format", "since", "nonsense", ""]
VALUES = st.sampled_from(
    [
        "a",
        "b",
        "person",
        "car",
        "0.5",
        "nan",
        "-0",
        "1e999",
        "true",
        "1",
        "latest",
        "all",
        "json",
        "msgpack",
        "a:7",
        "a:",
        "a:-1",
        "A:1",
        "٣",
        "",
        "\x00",
        ":",
    ]
)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES | st.text(max_size=6)), max_size=6))
def test_a_websocket_query_means_something_or_its_parameter_is_named(pairs: list[tuple[str, str]]) -> None:
    try:
        found = parse_query(QueryParams(pairs), cameras={"a", "b"}, labels=CLASSES)
    except ValueError as exc:
        named = re.match(r"([\w, ]*): ", str(exc))
        assert named is not None, str(exc)
        return
    assert isinstance(found, StreamQuery)
    assert found.interest.cameras is None or found.interest.cameras <= {"a", "b"}
    assert 0 <= found.interest.wanted.min_score <= 1
    assert found.interest.wanted.labels is None or found.interest.wanted.labels <= set(CLASSES)
    assert all(re.fullmatch(ID_PATTERN, camera_id) and seq >= 0 for camera_id, seq in found.since.items())
    assert not {name for name, _ in pairs} - set(NAMES[:-2])


SCORES = st.lists(st.floats(0, 1, width=32), max_size=6)
FILTERS = st.builds(
    ResultFilter,
    labels=st.none() | st.frozensets(st.sampled_from(CLASSES), min_size=1),
    min_score=st.floats(0, 1),
    empty=st.booleans(),
)


@settings(max_examples=150)
@given(SCORES, FILTERS, st.data())
def test_a_filter_leaves_what_it_names_in_its_order_and_nothing_else(
    scores: list[float], wanted: ResultFilter, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, 1), min_size=len(scores), max_size=len(scores)))
    message = make_result("a", 1, scores, ids).message
    before = msgspec.json.encode(message)
    left = filtered(message, wanted)
    expected = [
        one
        for one in message["detections"]
        if one["score"] >= wanted.min_score and (wanted.labels is None or one["label"] in wanted.labels)
    ]
    assert (left is None) == (not expected and not wanted.empty)
    assert left is None or left["detections"] == expected
    assert left is None or filtered(left, wanted) == left
    assert msgspec.json.encode(message) == before
    if left is not None:
        assert msgspec.json.decode(encode(left, "json")) == msgspec.msgpack.decode(encode(left, "msgpack"))


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | PIECES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "url", "x"]), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["id", "url", "name", "username", "password", "password_file", "max_fps", "labels", "motion", "classes", "x"]
ENTRIES = st.dictionaries(st.sampled_from(FIELDS), YAML_VALUES, max_size=5)


@settings(max_examples=120)
@given(data=st.lists(ENTRIES, max_size=3) | YAML_VALUES, raw=st.none() | st.text(max_size=60))
def test_a_file_of_cameras_is_read_or_refused_with_a_sentence(tmp_path: Path, data: Any, raw: str | None) -> None:
    path = tmp_path / "cameras.yml"
    text = yaml.safe_dump({"version": 1, "cameras": data}) if raw is None else raw
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_entries(read_cameras(path), media_dir=None)
    except ConfigError as exc:
        assert str(exc)
        assert "Traceback" not in str(exc)


CAMERAS = st.builds(
    CameraSettings,
    id=st.from_regex(ID_PATTERN, fullmatch=True).map(lambda text: text.strip()),
    url=st.sampled_from(["rtsp://cam.test/1", "rtsps://[::1]:8322/a?x=%20#'\"", "rtsp://cam.test/a:b#x"]),
    name=st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(str.strip),
    username=st.none() | CREDENTIAL.filter(lambda text: ":" not in text),
    password=st.none() | CREDENTIAL,
    max_fps=st.none() | st.floats(0.1, 240),
    priority=st.integers(1, 10),
    labels=st.dictionaries(CREDENTIAL, CREDENTIAL, max_size=2),
)


@settings(max_examples=60)
@given(cameras=st.lists(CAMERAS, max_size=3, unique_by=lambda camera: camera.id))
def test_cameras_that_are_exported_and_imported_are_the_same(tmp_path: Path, cameras: list[CameraSettings]) -> None:
    path = tmp_path / "cameras.yml"
    path.write_text(as_yaml(cameras, with_secrets=True), encoding="utf-8")
    try:
        entries = read_entries(read_cameras(path), media_dir=None)
    except ConfigError as exc:  # names that FFmpeg could not send are refused where they are registered, too
        assert "must fit into" in str(exc)
        return
    assert [entry.over(None) for entry in entries] == cameras


RTSP_PIECES = st.sampled_from(
    [
        b"OPTIONS",
        b"DESCRIBE",
        b" ",
        b"rtsp://h/cam/trackID=0",
        b"RTSP/1.0",
        b"\r\n",
        b":",
        b"CSeq: 1",
        b"\x00",
        b"\xff",
        b"Content-Length: ",
        b"9",
        b"-1",
        "٣".encode(),
        b"rtsp://[",
        b"*",
    ]
)


@settings(max_examples=400)
@given(st.lists(RTSP_PIECES, max_size=12).map(b"".join) | st.binary(max_size=60))
def test_an_rtsp_request_is_read_or_refused_and_can_be_answered(head: bytes) -> None:
    try:
        request = parse_request(head)
    except BadRequest:
        return
    name, track = request.target()
    assert "/" not in (name[:1], track[:1])
    assert request.body_bytes >= 0
    answer = Response(status=200, headers={"Public": "OPTIONS"}, body="x").encode(request)
    assert answer.startswith(b"RTSP/1.0 200 OK\r\nCSeq: ")
    assert answer.endswith(b"\r\n\r\nx")


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            ["RTP/AVP/TCP", "RTP/AVP", ";", ",", "unicast", "multicast", "interleaved=", "client_port=", "-"]
        )
        | st.integers(0, 99999).map(str),
        max_size=12,
    ).map("".join)
    | ANY_TEXT,
    st.booleans(),
)
def test_a_transport_that_is_chosen_can_be_used(header: str, allow_udp: bool) -> None:
    chosen = choose_transport(header, allow_udp=allow_udp)
    if isinstance(chosen, InterleavedTransport):
        assert chosen.channel is None or 0 <= chosen.channel < 255
    elif chosen is not None:
        assert allow_udp
        assert all(0 < port < 65536 for port in (chosen.rtp_port, chosen.rtcp_port))


@settings(max_examples=300)
@given(CREDENTIAL, CREDENTIAL, ANY_TEXT)
def test_a_gate_opens_for_the_right_password_only(username: str, password: str, other: str) -> None:
    quoted = username.replace("\\", "\\\\").replace('"', '\\"')
    gate = AuthGate(scheme="digest", username=username, password=password, nonce="n")
    realm = re.search(r'realm="([^"]*)"', gate.challenge)
    assert realm is not None

    def header(secret: str) -> str:
        response = digest_response(
            username=username, password=secret, realm=realm[1], nonce="n", method="PLAY", uri="rtsp://h/"
        )
        return f'Digest username="{quoted}", realm="{realm[1]}", nonce="n", uri="rtsp://h/", response="{response}"'

    assert gate.admits("PLAY", header(password))
    assert gate.admits("PLAY", header(other)) == (other == password)
    assert not gate.admits("PLAY", f"Digest {other}")
    basic = AuthGate(scheme="basic", username=username, password=password)
    assert basic.admits("PLAY", f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}")
    assert not basic.admits("PLAY", f"Basic {other}")


PACKETS = st.lists(
    st.binary(max_size=20).map(lambda payload: b"\x80\x60" + bytes(10) + payload), min_size=1, max_size=5
)


@settings(max_examples=300)
@given(PACKETS, st.integers(0, 0xFFFF), st.integers(-(2**40), 2**40), st.data())
def test_packets_are_numbered_without_a_gap_and_keep_what_they_carry(
    packets: list[bytes], first: int, ticks: int, data: st.DataObject
) -> None:
    frame = media_frame(packets, decode_ticks=0, present_ticks=0, is_key=True)
    stream = RtpStream(ssrc=7, first_sequence=first, first_timestamp=3)
    stamped = [packet for _ in range(2) for packet in stream.stamp(frame, ticks).packets()]
    numbers = [int.from_bytes(packet[2:4], "big") for packet in stamped]
    assert numbers == [(first + number) % 65536 for number in range(2 * len(packets))]
    assert {int.from_bytes(packet[4:8], "big") for packet in stamped} == {(3 + ticks) % 2**32}
    assert [packet[12:] for packet in stamped] == [packet[12:] for packet in packets] * 2
    wanted = data.draw(st.lists(st.booleans(), min_size=len(packets), max_size=len(packets)))
    kept = RtpBurst.of(packets).keep(wanted)
    left = [packet for packet, want in zip(packets, wanted, strict=True) if want]
    assert kept.packets() == left
    assert math.isclose(len(kept.on_channel(2)), sum(len(packet) + 4 for packet in left))


def test_a_request_s_body_is_bounded() -> None:
    assert Request(method="X", url="*", headers={}).body_bytes == 0
