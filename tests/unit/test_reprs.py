"""No `repr`, no error and no traceback, locals and all, shows a password, wherever it was given."""

from __future__ import annotations

import base64
import json
import logging
import socket
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest

from app.api.system import DiagnoseBody
from app.backends.ffmpeg.open import open_stream
from app.backends.ffmpeg.source import PyavSource
from app.cameras.entries import CameraEntry
from app.cameras.registration import resolve, secrets_of
from app.cameras.sealing import SecretKeys
from app.cameras.settings import CameraPatch, CameraRegistration, CameraSettings
from app.cameras.source import SourceRequest
from app.cameras.urls import masked, parse_camera_url
from app.errors import SourceError
from app.logs import configure_logging, forget_secret, redacted, register_secret
from app.settings import load_settings

PASSWORD = "p@ss:w/rd?#%&+ \"'é"
ENCODED = quote(PASSWORD, safe="")
FORMS = (
    PASSWORD,
    ENCODED,
    quote(PASSWORD),
    json.dumps(PASSWORD)[1:-1],
    repr(PASSWORD)[1:-1],
    base64.b64encode(f"admin:{PASSWORD}".encode()).decode(),
    "ss:w/rd",
    "ss%3Aw",
)
URLS = {
    "encoded": f"rtsp://admin:{ENCODED}@camera.test/1",
    "raw": f"rtsp://admin:{PASSWORD}@camera.test/1",
    "query": f"rtsp://camera.test/1?user=admin&password={ENCODED}",
    "none": "rtsp://camera.test/1",
}


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_object_shows_a_password(url: str, tmp_path: Path) -> None:
    fields = {"url": url, "username": "admin", "password": PASSWORD}
    settings = resolve({**fields, "id": "cam"}, media_dir=None)
    request = SourceRequest(camera_id="cam", url=settings.url, username="admin", password=PASSWORD)
    entries = {"cameras": {"declared": [{"id": "cam", **fields}]}, "metrics": {"token": PASSWORD}}
    things = [
        CameraRegistration.model_validate(fields),
        CameraPatch.model_validate(fields),
        DiagnoseBody.model_validate(fields),
        CameraEntry.model_validate({"id": "cam", **fields}),
        settings,
        parse_camera_url(url),
        request,
        PyavSource(request),
        load_settings(overrides=entries, environ={}, secrets_dir=tmp_path),
        SecretKeys([b"x" * 32]),
    ]
    assert [thing for thing in things if leaks(f"{thing!r} {thing}")] == []
    assert "camera.test" in repr(settings)


def a_failing_source() -> SourceRequest:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"rtsp://127.0.0.1:{port}/1?password={ENCODED}"
    return SourceRequest(camera_id="cam", url=url, username="admin", password=PASSWORD, stall_timeout_s=1.0)


def test_an_error_holds_on_to_nothing_of_what_ffmpeg_said() -> None:
    with pytest.raises(SourceError) as caught:
        open_stream(a_failing_source())
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert not leaks("".join(traceback.format_exception(error)))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_with_its_locals_is_redacted_in_the_log(
    form: str, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    request = a_failing_source()
    settings = CameraSettings.model_validate(
        {"id": "cam", "name": "cam", "url": request.url, "username": "admin", "password": PASSWORD}
    )
    for secret in secrets_of(settings):
        register_secret(secret)
    try:
        configure_logging("debug", form)  # type: ignore[arg-type]
        with pytest.raises(SourceError) as caught:
            open_stream(request)
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        text = "".join(told.format())
        assert leaks(text)  # the locals do hold it
        logging.getLogger("vidette").error("%s", text)
        log = capsys.readouterr().err
        assert "connection_refused" in log or "refused the connection" in log
        assert leaks(log) == []
    finally:
        for secret in secrets_of(settings):
            forget_secret(secret)


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Basic YWRtaW46c2VjcmV0",
        "authorization: Bearer abcdef",
        'Authorization: Digest username="admin", realm="x", response="0123456789abcdef"',
        "{'Authorization': 'Basic YWRtaW46c2VjcmV0'}",
        "(b'authorization', b'Bearer abcdef')",
    ],
)
def test_what_a_request_proves_itself_with_is_redacted(line: str) -> None:
    shown = redacted(f"sent {line}")
    assert shown.startswith("sent ")
    assert not any(word in shown for word in ("YWRtaW46c2VjcmV0", "abcdef"))


def test_a_short_password_is_in_no_url_and_no_header() -> None:
    """It is too short to be looked for in free text; where it has a place of its own it is taken out all the same."""
    settings = resolve({"url": "rtsp://admin:abc@camera.test/1?pwd=abc", "id": "cam"}, media_dir=None)
    assert "abc" not in repr(settings)
    for secret in secrets_of(settings):
        register_secret(secret)
    try:
        basic = base64.b64encode(b"admin:abc").decode()
        assert "abc" not in redacted("open rtsp://admin:abc@camera.test/1?pwd=abc failed")
        assert basic not in redacted(f"sent {basic}")
    finally:
        for secret in secrets_of(settings):
            forget_secret(secret)


@pytest.mark.parametrize("value", ["a\"b'c", "a;b", "a<b>c", "a%26b", "a/b?c", "p@ss:w"])
def test_a_value_in_a_url_s_query_is_taken_out_whole(value: str) -> None:
    settings = resolve({"url": f"rtsp://camera.test/1?pwd={value}&channel=1", "id": "cam"}, media_dir=None)
    assert masked(settings.url) == "rtsp://camera.test/1?pwd=***&channel=1"
    assert value in secrets_of(settings)
