"""Every error of the contract's table is a problem document, and no request, however malformed, gives a 500."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from tests.support.app import API, RunningApp, StartApp, make_settings, on_shared, running_app
from tests.support.wait import wait_until

URL = "rtsp://camera.test/1"
JSON = {"content-type": "application/json"}


def problem(response: httpx.Response, status: int, code: str) -> Any:
    """The problem document, after the checks that hold for every one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == code, document
    assert document["status"] == status
    assert {"type", "title", "detail"} <= set(document)
    assert document["detail"]
    return document


def fields(response: httpx.Response) -> dict[str, str]:
    """The fields that a 422 names, with their sentences."""
    document = problem(response, 422, "invalid_request")
    assert document["errors"]
    assert all(set(each) == {"field", "message"} for each in document["errors"])
    return {each["field"]: each["message"] for each in document["errors"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningApp]:
    """One application for all requests that change nothing; its one camera is switched off."""
    made = await asyncio.to_thread(make_settings, tmp_path_factory.mktemp("shared") / "data")
    async with running_app(made) as running:
        await running.register("gate-1", enabled=False)
        yield running


# The table, row by row


async def test_401_metrics_without_its_token(start_app: StartApp) -> None:
    running = await start_app(metrics={"token": "hunter2"})
    for header in (None, "Bearer wrong", "Bearer", "Basic aHVudGVyMg==", "hunter2", "Bearer hunter22"):
        response = await running.http.get("/metrics", headers={} if header is None else {"authorization": header})
        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        assert "hunter2" not in response.text
    assert (await running.http.get("/metrics", headers={"authorization": "Bearer hunter2"})).status_code == 200
    assert (await running.http.get(f"{API}/cameras")).status_code == 200


@on_shared
@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://[", "https://127.0.0.1:1", "", "http://é"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_403_a_page_of_another_site_changes_nothing(shared: RunningApp, method: str, origin: str) -> None:
    response = await shared.http.request(
        method,
        f"{API}/cameras/gate-1",
        json={"url": URL},
        headers={"origin": origin.encode()},  # type: ignore[arg-type]
    )
    problem(response, 403, "forbidden")
    assert (await shared.camera("gate-1"))["url"] != URL


@on_shared
async def test_our_own_page_and_programs_without_an_origin_may(shared: RunningApp) -> None:
    for headers in ({}, {"origin": f"http://127.0.0.1:{shared.port}"}, {"origin": f"HTTP://127.0.0.1:{shared.port}"}):
        response = await shared.http.patch(f"{API}/cameras/gate-1", json={}, headers=headers)
        assert response.status_code == 200
    assert (await shared.http.get(f"{API}/cameras", headers={"origin": "http://evil.test"})).status_code == 200


@on_shared
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/restart"),
        ("GET", "/detections"),
        ("GET", "/snapshot.jpg"),
    ],
)
async def test_404_an_unknown_camera(shared: RunningApp, method: str, path: str) -> None:
    body = {"json": {"url": URL}} if method in ("PUT", "PATCH") else {}
    response = await shared.http.request(method, f"{API}/cameras/nobody{path}", **body)  # type: ignore[arg-type]
    assert problem(response, 404, "camera_not_found")["detail"] == "camera 'nobody' is not registered"


@on_shared
async def test_404_an_unknown_route_and_405_an_unknown_method(shared: RunningApp) -> None:
    problem(await shared.http.get(f"{API}/nothing"), 404, "not_found")
    response = await shared.http.put(f"{API}/cameras")
    problem(response, 405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) <= {"GET", "POST"}


@on_shared
async def test_409_a_camera_that_exists(shared: RunningApp) -> None:
    response = await shared.http.post(f"{API}/cameras", json={"id": "gate-1", "url": URL, "enabled": False})
    assert problem(response, 409, "camera_exists")["detail"] == "camera 'gate-1' is registered already"


async def test_409_over_capacity_unless_forced(start_app: StartApp) -> None:
    slow = SyntheticDetector(contexts=1, max_batch=1, base_s=0.5, frame_s=0.1)  # 1.7 frames a second
    running = await start_app(SyntheticBackend(slow))
    await running.register("first", "fps=1")
    body = {"id": "second", "url": f"{URL}?fps=1"}
    document = problem(await running.http.post(f"{API}/cameras", json=body), 409, "over_capacity")
    assert "1.7 frames a second" in document["detail"]
    assert "?force=true takes it all the same" in document["detail"]
    assert (await running.http.get(f"{API}/capacity")).json()["refusal"] is not None
    problem(await running.http.post(f"{API}/cameras?force=false", json=body), 409, "over_capacity")
    switched_off = {**body, "id": "off", "enabled": False}
    assert (await running.http.post(f"{API}/cameras", json=switched_off)).status_code == 201
    for change in (running.http.patch, running.http.put):
        on = {"enabled": True, "url": body["url"]}
        problem(await change(f"{API}/cameras/off", json=on), 409, "over_capacity")
        assert (await change(f"{API}/cameras/off", json={**on, "enabled": False})).status_code == 200
        assert (await change(f"{API}/cameras/off?force=true", json=on)).status_code == 200
        assert (await change(f"{API}/cameras/off", json={**on, "name": "on already"})).status_code == 200
        assert (await change(f"{API}/cameras/off", json={**on, "enabled": False})).status_code == 200
    assert (await running.http.post(f"{API}/cameras?force=true", json=body)).status_code == 201


@on_shared
async def test_413_a_body_that_says_it_is_too_large(shared: RunningApp) -> None:
    big = json.dumps({"url": URL, "name": "x" * 1_000_001}).encode()
    response = await shared.http.post(f"{API}/cameras", content=big, headers=JSON)
    assert problem(response, 413, "body_too_large")["detail"] == "the body must not be larger than 1000000 bytes"


@on_shared
@pytest.mark.parametrize("path", ["/cameras", "/cameras/gate-1/restart", "/nothing"])
async def test_413_a_body_that_grows_too_large(shared: RunningApp, path: str) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += 1
            yield b" " * 10_000

    try:
        response = await shared.http.post(f"{API}{path}", content=chunks(), headers=JSON)
    except httpx.WriteError:  # it answered and hung up before the last chunk
        return
    if path == "/cameras":
        problem(response, 413, "body_too_large")
    else:  # a route that reads no body answers at once
        assert response.status_code in (200, 404, 413)


@on_shared
async def test_413_comes_before_the_body_has_ended(shared: RunningApp) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    head = f"POST {API}/cameras HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(110):
        writer.write(b"2710\r\n" + b" " * 10_000 + b"\r\n")  # 1.1 MB, and no end
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@on_shared
async def test_a_body_at_the_limit_is_read(shared: RunningApp) -> None:
    body = json.dumps({"url": URL, "labels": {}}).encode()
    response = await shared.http.post(
        f"{API}/cameras", content=body + b" " * (1_000_000 - len(body) - 1) + b"x", headers=JSON
    )
    assert fields(response) == {"body": "must be valid JSON"}


@on_shared
@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "url", "must be given"),
        ({"url": "http://h"}, "url", "scheme must be rtsp or rtsps, not http"),
        ({"url": "camera.test"}, "url", "must start with rtsp:// or rtsps://"),
        ({"url": "rtsp://"}, "url", "host is missing"),
        ({"url": "rtsp://h:99999/"}, "url", "port must be a number from 1 to 65535"),
        ({"url": "rtsp://h/\r\nx: y"}, "url", "must not hold control characters or lone surrogates"),
        ({"url": "file:///etc/passwd"}, "url", "scheme must be rtsp or rtsps, not file, because media_dir is not set"),
        ({"url": ""}, "url", "string should have at least 1 character"),
        ({"url": "rtsp://h/" + "x" * 3000}, "url", "string should have at most 2048 characters"),
        ({"url": None}, "url", "input should be a valid string"),
        ({"url": ["rtsp://h"]}, "url", "input should be a valid string"),
        ({"id": "Gate 1"}, "id", "string should match pattern '^[a-z0-9][a-z0-9_-]{0,62}$', not 'Gate 1'"),
        ({"id": "a" * 64}, "id", "string should match pattern"),
        ({"id": "../x"}, "id", "string should match pattern"),
        ({"id": ""}, "id", "string should match pattern"),
        ({"name": ""}, "name", "string should have at least 1 character"),
        ({"name": "x" * 129}, "name", "string should have at most 128 characters"),
        ({"name": "a\x00b"}, "name", "must not hold control characters or lone surrogates"),
        ({"name": 7}, "name", "input should be a valid string, not '7'"),
        ({"username": "a:b"}, "username", "must not contain a colon"),
        ({"username": "x" * 257}, "username", "string should have at most 256 characters"),
        ({"password": "x" * 257}, "password", "must be at most 256 characters long"),
        ({"password": "x" * 200}, "password", "username and password must fit into"),
        ({"password": "a\nb"}, "password", "must not contain control characters"),
        ({"password": 12345678}, "password", "input should be a valid string"),
        ({"enabled": "perhaps"}, "enabled", "input should be a valid boolean"),
        ({"enabled": None}, "enabled", "input should be a valid boolean"),
        ({"transport": "sctp"}, "transport", "input should be 'auto', 'tcp' or 'udp', not 'sctp'"),
        ({"max_fps": 0}, "max_fps", "input should be greater than 0, not '0'"),
        ({"motion": {"hold_s": -1}}, "motion.hold_s", "input should be greater than or equal to 0, not '-1'"),
        (
            {"motion": {"heartbeat_s": 0.1}},
            "motion.heartbeat_s",
            "input should be greater than or equal to 0.5, not '0.1'",
        ),
        ({"motion": {"sensitivity": 1.5}}, "motion.sensitivity", "input should be less than or equal to 1, not '1.5'"),
        ({"max_fps": 241}, "max_fps", "input should be less than or equal to 240, not '241'"),
        ({"priority": 0}, "priority", "input should be greater than or equal to 1, not '0'"),
        ({"priority": 11}, "priority", "input should be less than or equal to 10, not '11'"),
        ({"priority": 1.5}, "priority", "input should be a valid integer"),
        ({"priority": None}, "priority", "input should be a valid integer"),
        ({"min_score": 1.01}, "min_score", "input should be less than or equal to 1, not '1.01'"),
        ({"min_score": "high"}, "min_score", "input should be a valid number"),
        ({"classes": []}, "classes", "list should have at least 1 item"),
        ({"classes": ["unicorn"]}, "classes", "'unicorn' is not a class of the model (person, car)"),
        ({"classes": "person"}, "classes", "input should be a valid list"),
        ({"classes": [7]}, "classes.0", "input should be a valid string"),
        ({"labels": {"a": 1}}, "labels.a", "input should be a valid string"),
        ({"labels": []}, "labels", "must be a mapping of names to values"),
        ({"labels": {str(n): n for n in range(65)}}, "labels", "must not have more than 64 names"),
        ({str(n): n for n in range(8_000)}, "body", "must not have more than 64 keys"),
        ({"motion": {str(n): n for n in range(8_000)}}, "motion", "must not have more than 64 keys"),
        ({"colour": "red"}, "colour", "unknown key"),
        ({"password_set": True}, "password_set", "unknown key"),
        ({"status": {}}, "status", "unknown key"),
    ],
)
async def test_422_names_the_field_and_says_what_is_wrong(
    shared: RunningApp, body: dict[str, Any], field: str, message: str
) -> None:
    complete = {"enabled": False, "url": URL, **body} if body else body
    found = fields(await shared.http.post(f"{API}/cameras", content=json.dumps(complete), headers=JSON))
    assert found[field].startswith(message), found
    assert len(shared.parts.registry) == 1


@on_shared
async def test_422_names_every_field(shared: RunningApp) -> None:
    body = {"url": 7, "priority": 99, "colour": "red"}
    assert set(fields(await shared.http.post(f"{API}/cameras", json=body))) == {"url", "priority", "colour"}


@on_shared
@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "/cameras/gate-1", {"url": None}, "url"),
        ("PATCH", "/cameras/gate-1", {"id": "other"}, "id"),
        ("PUT", "/cameras/gate-1", {"id": "other", "url": URL}, "id"),
        ("PUT", "/cameras/gate-1", {}, "url"),
        ("PATCH", "/cameras/gate-1", {"classes": ["unicorn"]}, "classes"),
        ("GET", "/cameras/gate-1/detections?limit=0", None, "limit"),
        ("GET", "/cameras/gate-1/detections?limit=x", None, "limit"),
        ("GET", "/cameras/gate-1/detections?since_seq=-1", None, "since_seq"),
        ("GET", "/cameras/gate-1/detections?since_seq=", None, "since_seq"),
        ("GET", "/cameras/gate-1/snapshot.jpg?overlay=maybe", None, "overlay"),
        ("POST", "/cameras?force=maybe", {"url": URL}, "force"),
        ("POST", "/diagnose", {}, "url"),
        ("POST", "/diagnose", {"url": "http://h"}, "url"),
        ("POST", "/diagnose", {"url": URL, "timeout_s": 0}, "timeout_s"),
    ],
)
async def test_422_of_other_routes(shared: RunningApp, method: str, path: str, body: Any, field: str) -> None:
    assert field in fields(await shared.http.request(method, f"{API}{path}", json=body))


async def test_429_more_diagnoses_than_there_are_places(start_app: StartApp) -> None:
    running = await start_app()
    release = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)  # accepts and never answers
    port = server.sockets[0].getsockname()[1]
    body = {"url": f"rtsp://127.0.0.1:{port}/1", "timeout_s": 30}
    asked = [asyncio.create_task(running.http.post(f"{API}/diagnose", json=body)) for _ in range(8)]
    refused = await wait_until(lambda: [task for task in asked if task.done()])
    response = refused[0].result()
    problem(response, 429, "too_many_requests")
    assert response.headers["retry-after"] == "2"
    release.set()
    answers = [(await task).status_code for task in asked]
    assert set(answers) == {200, 429}
    server.close()
    await server.wait_closed()


async def test_503_a_database_that_cannot_be_used(running: RunningApp, data_dir: Path) -> None:
    def spoil() -> None:
        with sqlite3.connect(data_dir / "vidette.db") as db:
            db.execute("DROP TABLE cameras")
        db.close()

    await asyncio.to_thread(spoil)
    response = await running.http.post(f"{API}/cameras", json={"url": URL})
    document = problem(response, 503, "storage_unavailable")
    assert "the camera database cannot be used: no such table: cameras" in document["detail"]
    assert (await running.http.get(f"{API}/cameras")).json() == []


# Malformed: never a 500


RAW_BODIES = {
    "nothing": b"",
    "not json": b"{url: rtsp://h}",
    "cut off": b'{"url": "rtsp://h',
    "a number": b"7",
    "a string": b'"rtsp://admin:hunter2@h/1"',
    "null": b"null",
    "an array": b"[]",
    "two objects": b"{}{}",
    "not utf-8": b'{"url": "\xff\xfe"}',
    "a byte order mark": b'\xef\xbb\xbf{"url": "rtsp://h", "enabled": false, "priority": 99}',
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "deep and closed": b'{"url": "rtsp://h", "labels": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "NaN": b'{"url": "rtsp://h", "min_score": NaN}',
    "Infinity": b'{"url": "rtsp://h", "max_fps": Infinity}',
    "1e400": b'{"url": "rtsp://h", "max_fps": 1e400}',
    "a huge integer": b'{"url": "rtsp://h", "priority": ' + b"9" * 4000 + b"}",
    "a huge integer for a float": b'{"url": "rtsp://h", "max_fps": ' + b"9" * 4000 + b"}",
    "an integer beyond python's limit": b'{"url": "rtsp://h", "priority": ' + b"9" * 10_000 + b"}",
    "a lone surrogate": b'{"url": "rtsp://h", "name": "\\ud800"}',
    "a lone surrogate in a url": b'{"url": "rtsp://h/\\udfff"}',
    "a lone surrogate in a password": b'{"url": "rtsp://h", "password": "\\ud800x"}',
    "a lone surrogate in a label": b'{"url": "rtsp://h", "labels": {"\\ud800": "\\udc00"}}',
    "a lone surrogate as a key": b'{"url": "rtsp://h", "\\ud800": 1}',
    "a lone surrogate as an id": b'{"url": "rtsp://h", "id": "\\ud800"}',
    "null bytes": b'{"url": "rtsp://h/\\u0000", "name": "a\\u0000b"}',
    "a key twice": b'{"url": "rtsp://h", "url": 7}',
    "an empty key": b'{"url": "rtsp://h", "": 1}',
    "a class that is an object": b'{"url": "rtsp://h", "classes": [{}]}',
}


@on_shared
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("raw", RAW_BODIES.values(), ids=RAW_BODIES.keys())
async def test_a_malformed_body_is_a_422(shared: RunningApp, raw: bytes, method: str) -> None:
    path = "/cameras" if method == "POST" else "/cameras/gate-1"
    response = await shared.http.request(method, f"{API}{path}", content=raw, headers=JSON)
    assert fields(response)
    assert "hunter2" not in response.text


@on_shared
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""]
)
async def test_a_body_that_is_not_called_json_is_a_422(shared: RunningApp, content_type: str) -> None:
    raw = b'{"url": "rtsp://admin:hunter2@h/1"}'
    response = await shared.http.post(f"{API}/cameras", content=raw, headers={"content-type": content_type})
    assert fields(response)
    assert "hunter2" not in response.text


@on_shared
@pytest.mark.parametrize(
    "camera_id",
    [
        "%00",
        "..",
        "%2e%2e%2fetc",
        "a%2Fb",
        "%FF%FE",
        "%F0%9F%98%80",
        "a b",
        "'; DROP TABLE cameras",
        "x" * 5000,
        "%",
        "%zz",
        "{}",
    ],
)
async def test_a_strange_id_is_a_404(shared: RunningApp, camera_id: str) -> None:
    for method, suffix in (("GET", ""), ("DELETE", ""), ("GET", "/snapshot.jpg"), ("POST", "/restart")):
        path = f"{API}/cameras/{camera_id if '%' in camera_id else quote(camera_id)}{suffix}"
        reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode("latin-1"))
        status = int((await reader.read()).split(b" ", 2)[1])
        writer.close()
        await writer.wait_closed()
        assert status in (307, 404, 405), (method, path)


@on_shared
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: localhost\r\ncontent-length: \xb2\r\n\r\n",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 400 + b"\r\n\r\n",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/v1/cameras HTTP/1.1\r\nhost: localhost\r\norigin: http://[::1\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: \xff\xfe\r\n\r\n",
        b"GET /api/v1/cameras/gate-1/detections?limit=\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /api/v1/cameras?\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_broken_http_is_answered_without_a_500(shared: RunningApp, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(head)
    writer.write_eof()
    try:
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer = b""
    writer.close()
    assert not answer.startswith(b"HTTP/1.1 500"), answer[:300]
    assert not answer or b"\r\nx-content-type-options: nosniff\r\n" in answer.lower()
    assert (await shared.http.get("/livez")).status_code == 200


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "id",
    "name",
    "url",
    "username",
    "password",
    "enabled",
    "transport",
    "max_fps",
    "motion",
    "priority",
    "min_score",
    "classes",
    "labels",
    "status",
    "extra",
]
URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["rtsp://", "rtsps://", "RTSP://", "http://", "file:", "rtsp:/", ""]),
    st.text(max_size=20),
    st.sampled_from(["", "@h/1", ":554/x", "/a?b=c", "#x", "[::1]/"]),
)
BODIES = st.fixed_dictionaries(
    {"enabled": st.just(False)},
    optional={"url": URLS | JSON_VALUES, **{name: JSON_VALUES for name in NAMES if name not in ("url", "enabled")}},
)


@on_shared
@settings(max_examples=200)
@given(body=BODIES | JSON_VALUES, method=st.sampled_from(["POST", "PUT", "PATCH"]))
async def test_no_body_gives_a_500(shared: RunningApp, body: Any, method: str) -> None:
    path = f"{API}/cameras" if method == "POST" else f"{API}/cameras/gate-1"
    response = await shared.http.request(method, path, content=json.dumps(body).encode(), headers=JSON)
    if response.status_code in (200, 201):
        camera = response.json()
        assert "password" not in camera
        if method == "POST":
            await shared.remove(camera["id"])
        else:
            await shared.patch("gate-1", enabled=False)
    else:
        assert fields(response)


@on_shared
@settings(max_examples=100)
@given(
    route=st.sampled_from(["detections", "snapshot.jpg"]),
    names=st.lists(st.sampled_from(["limit", "since_seq", "overlay", "force", "x"]), max_size=3),
    values=st.lists(st.text(max_size=12) | st.integers().map(str), min_size=3, max_size=3),
)
async def test_no_query_gives_a_500(shared: RunningApp, route: str, names: list[str], values: list[str]) -> None:
    query = "&".join(f"{name}={quote(value, errors='replace')}" for name, value in zip(names, values, strict=False))
    response = await shared.http.get(f"{API}/cameras/gate-1/{route}?{query}")
    assert response.status_code in (200, 422, 503)
