"""Camera URLs: what is taken, what is refused and with which words, and that no secret stays in text."""

from __future__ import annotations

import os
import string
import time
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.redactor import Redactor
from app.cameras.urls import (
    MAX_CREDENTIAL_BYTES,
    check_credentials,
    parse_camera_url,
    redact,
    with_credentials,
)

PASSWORD = "p@ss:w/ö#%?"


@pytest.mark.parametrize(
    ("text", "url", "host", "port"),
    [
        ("rtsp://cam/stream", "rtsp://cam/stream", "cam", 554),
        ("rtsps://cam/stream", "rtsps://cam/stream", "cam", 322),
        ("RTSP://Cam.example:8554", "rtsp://Cam.example:8554", "Cam.example", 8554),
        ("  rtsp://10.0.0.5:554/a ", "rtsp://10.0.0.5:554/a", "10.0.0.5", 554),
        ("rtsp://[2001:db8::1]:8554/a", "rtsp://[2001:db8::1]:8554/a", "2001:db8::1", 8554),
        ("rtsp://[fe80::1%eth0]/a", "rtsp://[fe80::1%eth0]/a", "fe80::1%eth0", 554),
        ("rtsp://kamera-ä.example/straße?x=1&y=@2", "rtsp://kamera-ä.example/straße?x=1&y=@2", "kamera-ä.example", 554),
        ("rtsp://cam/live@main", "rtsp://cam/live@main", "cam", 554),
        ("rtsp://cam?channel=1", "rtsp://cam?channel=1", "cam", 554),
        ("rtsp://my_cam/with space", "rtsp://my_cam/with%20space", "my_cam", 554),
        ("rtsp://cam#part", "rtsp://cam", "cam", 554),
    ],
)
def test_stream_urls_survive(text: str, url: str, host: str, port: int) -> None:
    camera = parse_camera_url(text)
    assert (camera.url, camera.host, camera.port) == (url, host, port)
    assert camera.username is None
    assert camera.password is None


@pytest.mark.parametrize(
    ("user_info", "username", "password"),
    [
        ("user:pass", "user", "pass"),
        ("user:p%40ss", "user", "p@ss"),
        ("user:p@ss", "user", "p@ss"),
        ("user:p@s@s", "user", "p@s@s"),
        ("user:pa/ss", "user", "pa/ss"),
        ("user:pa?ss", "user", "pa?ss"),
        ("user:pa#ss", "user", "pa#ss"),
        ("user:pa#s@s", "user", "pa#s@s"),
        ("user:a:b", "user", "a:b"),
        ("user:pass word", "user", "pass word"),
        ("user:50%off", "user", "50%off"),
        ("user:gr%C3%BC%C3%9Fe", "user", "grüße"),
        ("user:gr%FC", "user", "grü"),
        ("user:", "user", ""),
        ("user", "user", None),
        (":pass", None, "pass"),
        ("user:" + quote(PASSWORD, safe=""), "user", PASSWORD),
    ],
)
def test_credentials_are_split_out_and_decoded(user_info: str, username: str | None, password: str | None) -> None:
    camera = parse_camera_url(f"rtsp://{user_info}@10.0.0.5:554/main?sub=1")
    assert camera.url == "rtsp://10.0.0.5:554/main?sub=1"
    assert (camera.username, camera.password) == (username, password)
    if password:
        assert password not in repr(camera)


def test_a_slash_in_a_password_is_understood_only_where_nothing_else_reads_well() -> None:
    # "s" is a host, and "/s@host/x" a path: the standard's reading comes first.
    assert parse_camera_url("rtsp://u:p@s/s@host/x").host == "s"
    assert parse_camera_url("rtsp://u:p/a@b@host/x").password == "p/a@b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("http://cam/x", "url: scheme must be rtsp or rtsps, not http"),
        ("rtspu://cam/x", "url: scheme must be rtsp or rtsps, not rtspu"),
        ("tcp://127.0.0.1:80", "url: scheme must be rtsp or rtsps, not tcp"),
        ("/etc/passwd", "url: must start with rtsp:// or rtsps://"),
        ("admin:secret@cam/x", "url: must start with rtsp:// or rtsps://"),
        ("concat:a|b", "url: must start with rtsp:// or rtsps://"),
        ("", "url: must start with rtsp:// or rtsps://"),
        ("rtsp://", "url: host is missing"),
        ("rtsp:///path", "url: host is missing"),
        ("rtsp://user:pass@/path", "url: host is missing"),
        ("rtsp://:554/path", "url: host is missing"),
        ("rtsp://cam:/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://cam:0/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://cam:65536/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://cam:99999999999999999999/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://cam:٣/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://user:secret/x", "url: port must be a number from 1 to 65535"),
        ("rtsp://[::1/x", "url: host is not a valid name or address"),
        ("rtsp://[cam]/x", "url: host in brackets must be an IPv6 address"),
        ("rtsp://ca m/x", "url: host is not a valid name or address"),
        ("rtsp://a..b/x", "url: host is not a valid name or address"),
        (f"rtsp://{'a' * 64}.example/x", "url: host is not a valid name or address"),
        ("rtsp://cam/a\r\nDESCRIBE x", "url: must not contain line breaks or other control characters"),
        ("rtsp://cam/a\n", "url: must not contain line breaks or other control characters"),
        ("rtsp://cam/\x00", "url: must not contain line breaks or other control characters"),
        ("rtsp://cam/\ud800", "url: must not contain line breaks or other control characters"),
        ("rtsp://u%0d%0aX:p@cam/", "username: must not contain control characters"),
        ("rtsp://u:p%0d%0aX@cam/", "password: must not contain control characters"),
        ("rtsp://a%3Ab:p@cam/", "username: must not contain a colon"),
        (f"rtsp://cam/{'x' * 1000}", "url: must be at most 1000 bytes long"),
        ("file:///etc/passwd", "url: scheme must be rtsp or rtsps, not file, because media_dir is not set"),
    ],
)
def test_bad_urls_are_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_camera_url(text)
    assert str(caught.value) == sentence


@given(
    text=st.text(max_size=60),
    form=st.sampled_from(["{}", "rtsp://{}", "rtsp://cam/{}", "rtsp://u:{}@cam/", "rtsps://{}@[::1]:1/", "file:{}"]),
)
def test_no_text_makes_the_parser_fail_otherwise(text: str, form: str) -> None:
    nowhere = Path("/nowhere")
    try:
        camera = parse_camera_url(form.replace("{}", text), media_dir=nowhere)
    except ValueError as exc:
        assert str(exc).split(":")[0] in ("url", "username", "password")
        return
    again = parse_camera_url(camera.url, media_dir=nowhere)
    assert (again.url, again.host, again.username, again.password) == (camera.url, camera.host, None, None)


secrets = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)


@given(username=secrets.filter(lambda text: ":" not in text), password=secrets)
def test_what_ffmpeg_is_given_decodes_to_the_credentials(username: str, password: str) -> None:
    camera = parse_camera_url("rtsp://10.0.0.5:8554/main")
    url = with_credentials(camera, username, password)
    assert unquote(url.partition("://")[2].rpartition("@10.0.0.5:8554/main")[0]) == f"{username}:{password}"
    assert parse_camera_url(url).password == password


def test_credentials_for_ffmpeg_fit_into_its_buffer() -> None:
    camera = parse_camera_url("rtsp://cam/")
    longest = "x" * (MAX_CREDENTIAL_BYTES - 2)
    assert with_credentials(camera, "u", longest) == f"rtsp://u:{longest}@cam/"
    with pytest.raises(ValueError, match=r"^password: username and password must fit into 126 bytes together"):
        with_credentials(camera, "u", longest + "x")
    with pytest.raises(ValueError, match="126 bytes"):
        check_credentials("u", "@" * 42)


def test_no_credentials_leave_the_url_as_it_is_except_for_an_international_name() -> None:
    assert with_credentials(parse_camera_url("rtsp://[::1]:8554/x"), None, None) == "rtsp://[::1]:8554/x"
    assert with_credentials(parse_camera_url("rtsp://bücher.example/ä"), None, "") == "rtsp://xn--bcher-kva.example/ä"
    assert with_credentials(parse_camera_url("rtsp://cam/x"), "user", None) == "rtsp://user:@cam/x"


@pytest.fixture
def media_dir(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "sub").mkdir(parents=True)
    (root / "a b.mp4").touch()
    (root / "sub" / "ä.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    return root


def test_files_below_media_dir_are_taken(media_dir: Path) -> None:
    full = parse_camera_url(f"file://{media_dir}/a%20b.mp4", media_dir=media_dir)
    relative = parse_camera_url("file:a b.mp4", media_dir=media_dir)
    assert full == relative
    assert full.path == (media_dir / "a b.mp4").resolve()
    assert parse_camera_url("FILE://localhost" + quote(f"{media_dir}/sub/ä.mp4"), media_dir=media_dir).path is not None
    assert parse_camera_url("file:sub/../a b.mp4", media_dir=media_dir).path == full.path
    assert parse_camera_url(full.url, media_dir=media_dir) == full
    assert full.address == "a b.mp4"


@pytest.mark.parametrize(
    "text",
    ["file:../secret.mp4", "file:///etc/passwd", "file:sub/%2e%2e/%2e%2e/secret.mp4", "file:", "file:.", "file:link"],
)
def test_files_elsewhere_are_refused(media_dir: Path, text: str) -> None:
    os.symlink(media_dir.parent / "secret.mp4", media_dir / "link")
    with pytest.raises(ValueError, match=r"^url: a file must lie below media_dir$"):
        parse_camera_url(text, media_dir=media_dir)


def test_a_folder_whose_name_begins_like_media_dir_is_elsewhere(media_dir: Path) -> None:
    (media_dir.parent / "media2").mkdir()
    with pytest.raises(ValueError, match="below media_dir"):
        parse_camera_url(f"file://{media_dir}2/x.mp4", media_dir=media_dir)


def test_a_file_on_another_machine_is_refused(media_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"^url: a file is named by file:///full/path"):
        parse_camera_url("file://server/share/x.mp4", media_dir=media_dir)


def test_control_characters_in_an_encoded_file_name_are_refused(media_dir: Path) -> None:
    with pytest.raises(ValueError, match="control characters"):
        parse_camera_url("file:a%00b.mp4", media_dir=media_dir)


def test_links_that_lead_in_a_circle_are_a_file_that_is_not_there(media_dir: Path) -> None:
    os.symlink("round", media_dir / "round")
    assert parse_camera_url("file:round", media_dir=media_dir).path == media_dir / "round"
    with pytest.raises(ValueError, match="below media_dir"):
        parse_camera_url("file:round/../../secret.mp4", media_dir=media_dir)


def test_a_link_to_a_file_inside_is_followed(media_dir: Path) -> None:
    os.symlink(media_dir / "a b.mp4", media_dir / "inside")
    assert parse_camera_url("file:inside", media_dir=media_dir).path == (media_dir / "a b.mp4").resolve()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("opening rtsp://u:p@cam/x failed", "opening rtsp://cam/x failed"),
        ("'rtsps://u:p@ss@cam:322/x'", "'rtsps://cam:322/x'"),
        ("RTSP://u:p/q@cam/x", "RTSP://cam/x"),
        ("rtsp://user@cam/x", "rtsp://cam/x"),
        ("rtsp://cam/live@main", "rtsp://cam/live@main"),
        ("rtsp://a/1,rtsp://u:p@b/2", "rtsp://a/1,rtsp://b/2"),
        ('{"url": "rtsp://u:p@b/2", "mail": "a@b.c"}', '{"url": "rtsp://b/2", "mail": "a@b.c"}'),
        ("rtsp://cam/x?user=a&password=hush&y=1", "rtsp://cam/x?user=a&password=***&y=1"),
        ("GET /ws?token=hush HTTP/1.1", "GET /ws?token=*** HTTP/1.1"),
        ("rtsp://cam/x?loginuse=a&loginpas=hush&auth=aHVz", "rtsp://cam/x?loginuse=a&loginpas=***&auth=***"),
        ("rtsp://cam/x?u=a&pw=hush&psw=hush&key=hush#1", "rtsp://cam/x?u=a&pw=***&psw=***&key=***"),
        ("monkey=1 oauth=2 rtsp://cam/x?monkey=1", "monkey=1 oauth=2 rtsp://cam/x?monkey=1"),
        ("mail someone@example.org about http://x@y", "mail someone@example.org about http://x@y"),
    ],
)
def test_user_information_is_removed_from_free_text(text: str, clean: str) -> None:
    assert redact(text) == clean


@given(
    password=st.text(string.ascii_letters + string.digits + "@:#?/%&!$'*+=~^", min_size=6, max_size=16),
    before=st.text(max_size=10),
)
def test_no_password_in_a_url_survives_redaction(password: str, before: str) -> None:
    clean = redact(f"{before} rtsp://user:{password}@10.0.0.5/x")
    assert "10.0.0.5/x" in clean
    assert f"{password}@" not in clean


def test_known_secrets_are_removed_in_every_form() -> None:
    redactor = Redactor()
    redactor.add(PASSWORD)
    text = f"{PASSWORD} | {quote(PASSWORD, safe='')} | {quote(PASSWORD, safe='').lower()} | p%40ss:w%2Fö%23%25%3F"
    assert redactor.redact(text) == "*** | *** | *** | ***"
    redactor.add('quo"te\\d')
    assert redactor.redact(r'"quo\"te\\d" quo"te\d') == '"***" ***'


def test_a_secret_is_forgotten_with_its_last_owner() -> None:
    redactor = Redactor()
    redactor.add("hush-hush")
    redactor.add("hush-hush")
    redactor.discard("hush-hush")
    assert redactor.redact("say hush-hush") == "say ***"
    redactor.discard("hush-hush")
    redactor.discard("hush-hush")
    assert redactor.redact("say hush-hush") == "say hush-hush"


def test_the_longer_of_two_secrets_goes_first() -> None:
    redactor = Redactor()
    redactor.add("hush")
    redactor.add("hush-money")
    assert redactor.redact("hush-money") == "***"


def test_tiny_secrets_do_not_tear_holes_into_text() -> None:
    redactor = Redactor()
    redactor.add("1")
    redactor.add(None)
    assert redactor.redact("camera 1 of 11 at rtsp://u:1@cam") == "camera 1 of 11 at rtsp://cam"


def test_ten_thousand_secrets_cost_a_line_of_the_log_no_more_than_one_does() -> None:
    redactor = Redactor()
    alike = [f"Geheim-{number}" for number in range(100)]
    started_at = time.monotonic()
    for secret in alike:
        redactor.add(secret)
    for number in range(10_000):
        redactor.add(f"geheim-{number:04}")
    lines = [redactor.redact(f"camera {number}: login as geheim-{number:04} failed") for number in range(10_000)]
    assert lines[77] == "camera 77: login as *** failed"
    for number in range(10_000):
        redactor.discard(f"geheim-{number:04}")
    for secret in alike:
        redactor.discard(secret)
    assert redactor.redact("geheim-0077 Geheim-42") == "geheim-0077 Geheim-42"
    assert time.monotonic() - started_at < 30  # seconds; a pattern of all of them took hours


def test_a_form_that_two_secrets_share_stays_until_both_are_gone() -> None:
    redactor = Redactor()
    redactor.add("a%20b-c")
    redactor.add("a b-c")
    redactor.discard("a%20b-c")
    assert redactor.redact("a%20b-c") == "***"
    redactor.discard("a b-c")
    assert redactor.redact("a%20b-c") == "a%20b-c"
