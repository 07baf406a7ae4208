"""From where the service may be asked: origins, names, listeners; and the headers of every answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from app.api.hosts import guarded_names, is_loopback
from app.errors import ConfigError
from app.server import listen
from app.settings import AuthSettings, ServerSettings
from tests.support.app import API, RunningApp, StartApp, make_settings, on_shared

SITE = "https://wall.example"
EXPLICIT_NONE = {"mode": "none"}


async def close_code(running: RunningApp, **headers: str) -> int | None:
    """The code that a WebSocket is closed with at once; None when it is greeted."""
    async with running.socket("?min_score=1&empty=false", additional_headers=headers) as socket:
        try:
            await socket.recv()
        except ConnectionClosed as exc:
            return exc.rcvd.code if exc.rcvd is not None else 1006
    return None


# Headers


@on_shared
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/console.js"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/livez"),
        ("GET", "/metrics"),
        ("GET", f"{API}/cameras"),
        ("GET", f"{API}/cameras/nobody"),
        ("GET", f"{API}/cameras/nobody/snapshot.jpg"),
        ("POST", f"{API}/cameras"),
        ("GET", "/nothing"),
        ("PUT", f"{API}/cameras"),
    ],
)
async def test_every_answer_carries_the_security_headers(shared: RunningApp, method: str, path: str) -> None:
    headers = (await shared.http.request(method, path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


@on_shared
async def test_refusals_carry_them_too(shared: RunningApp) -> None:
    for options in (
        {"headers": {"host": "evil.test"}},
        {"headers": {"origin": "http://evil.test"}},
        {"content": b" " * 1_000_001},
    ):
        response = await shared.http.post(f"{API}/cameras", **options)
        assert response.status_code in (403, 413)
        assert response.headers["x-content-type-options"] == "nosniff"


@on_shared
async def test_the_console_has_no_script_or_style_inside_its_page(shared: RunningApp) -> None:
    response = await shared.http.get("/")
    policy = response.headers["content-security-policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", response.text)
    for path in re.findall(r'(?:src|href)="(/[^"]*\.(?:js|css))"', response.text):
        assert (await shared.http.get(path)).status_code == 200, path


@on_shared
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_may_load_what_it_loads_and_its_one_script(shared: RunningApp, path: str) -> None:
    response = await shared.http.get(path)
    policy = response.headers["content-security-policy"]
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts is not None
    for source in re.findall(r'<script src="(https://[^/"]*)', response.text):
        assert source in scripts[1]
    assert len(re.findall("'sha256-", scripts[1])) == len(re.findall("<script>", response.text))


# Other sites


@on_shared
async def test_cors_is_closed_by_default(shared: RunningApp) -> None:
    asked = {"origin": SITE, "access-control-request-method": "GET"}
    response = await shared.http.options(f"{API}/cameras", headers=asked)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert await close_code(shared, Origin=SITE) == 4403
    assert await close_code(shared, Origin=f"http://127.0.0.1:{shared.port}") is None


async def test_a_listed_site_may_and_no_other(start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, "cors_origins": [SITE]})
    for origin, allowed in ((SITE, True), ("https://wall.example.evil.test", False), ("http://wall.example", False)):
        preflight = {
            "origin": origin,
            "access-control-request-method": "PATCH",
            "access-control-request-headers": "authorization",
        }
        asked = await running.http.options(f"{API}/cameras/x", headers=preflight)
        assert asked.headers.get("access-control-allow-origin") == (SITE if allowed else None)
        answer = await running.http.get(f"{API}/cameras", headers={"origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (SITE if allowed else None)
        assert "access-control-allow-credentials" not in answer.headers
        changed = await running.http.delete(f"{API}/cameras/x", headers={"origin": origin})
        assert changed.status_code == (404 if allowed else 403)
        assert await close_code(running, Origin=origin) == (None if allowed else 4403)


async def test_a_preflight_needs_no_token_and_the_request_does(start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, "cors_origins": SITE}, auth={"mode": "token"})
    preflight = {
        "origin": SITE,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    assert (await running.http.options(f"{API}/cameras", headers=preflight)).status_code == 200
    refused = await running.http.get(f"{API}/cameras", headers={"origin": SITE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE)


# Names


@on_shared
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("nvr.localhost", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8080", 200),
        ("evil.test", 403),
        ("evil.test:8080", 403),
        ("localhost.evil.test", 403),
        ("127.0.0.1.evil.test", 403),
        ("192.0.2.7", 403),
        ("0.0.0.0", 403),
        ("localhost@evil.test", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_without_tokens_a_loopback_port_is_called_by_loopback_names(
    shared: RunningApp, host: str, status: int
) -> None:
    for path in (f"{API}/cameras", "/", "/metrics"):
        response = await shared.http.get(path, headers={"host": host})
        assert response.status_code == status, response.text
        if status == 403:
            assert "server.allowed_hosts" in response.json()["detail"]


@on_shared
async def test_a_websocket_by_another_name_is_closed_with_4403(shared: RunningApp) -> None:
    # As a page does whose name's address has become 127.0.0.1: its origin and its host agree.
    async with httpx.AsyncClient() as client:
        key = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
        headers = {
            **key,
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "host": "evil.test",
            "origin": "http://evil.test",
        }
        async with client.stream(
            "GET", f"http://127.0.0.1:{shared.port}{API}/ws/detections", headers=headers
        ) as answer:
            assert answer.status_code == 101
            raw = b""
            while len(raw) < 4:
                raw += await answer.extensions["network_stream"].read(100, 10)
    assert raw[0] == 0x88 and int.from_bytes(raw[2:4], "big") == 4403


async def test_other_names_are_those_of_allowed_hosts(start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, "allowed_hosts": ["nvr.lan"]})
    for host, status in (("nvr.lan:8080", 200), ("localhost", 200), ("nvr.lan.evil.test", 403)):
        assert (await running.http.get(f"{API}/cameras", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    ("server", "auth", "names"),
    [
        ({}, {}, frozenset()),
        ({}, EXPLICIT_NONE, frozenset()),
        ({}, {"mode": "token"}, None),  # no page of another site has a token
        ({"host": "0.0.0.0"}, EXPLICIT_NONE, None),  # everybody was let in
        ({"host": "myhost"}, {}, frozenset()),  # listened on only where it is loopback
        ({"host": "0.0.0.0", "allowed_hosts": "NVR.lan"}, {"mode": "token"}, frozenset({"nvr.lan"})),
    ],
)
def test_names_are_guarded_where_nothing_else_is(
    tmp_path: Path, server: dict[str, Any], auth: dict[str, Any], names: frozenset[str] | None
) -> None:
    assert guarded_names(make_settings(tmp_path, server=server, auth=auth)) == names


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "localhost.", "a.localhost"])
def test_a_loopback_name_is_told(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "localhost.test", "128.0.0.1", "fe80::1%eth0"])
def test_any_other_name_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


# Listening


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_port_for_others_takes_a_decision_about_auth(host: str) -> None:
    server = ServerSettings(host=host, port=0)
    sentence = rf"^server.host: {host} can be reached from other machines, .* set auth.mode to token, or to none"
    with pytest.raises(ConfigError, match=sentence):
        listen(server, AuthSettings())
    for auth in (AuthSettings(mode="none"), AuthSettings(mode="token")):
        listen(server, auth).close()


def test_loopback_needs_no_decision() -> None:
    for host in ("127.0.0.1", "localhost"):
        listen(ServerSettings(host=host, port=0), AuthSettings()).close()
