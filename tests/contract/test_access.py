"""What tokens open and what ends with them: WebSockets, the metrics, the limit of failures, secrets in logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.auth.failures import MAX_FAILURES
from app.auth.tokens import bearer, new_token
from app.cameras.database import FILE_NAME
from app.cli import main
from app.commands.demo import own_token
from app.errors import StoreError
from app.logs import configure_logging
from tests.support.app import API, StartApp, make_settings
from tests.support.tokens import Guarded, guarded_app
from tests.support.wait import wait_until

OWN, FOREIGN = "own", "foreign"
WRONG = f"vdt_0123456789ab_{'f' * 64}"
shared_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    async with guarded_app(tmp_path_factory.mktemp("access") / "data") as guarded:
        text = await asyncio.to_thread(guarded.tokens.text, "admin")
        guarded.running.http.headers.update(bearer(text))
        await guarded.running.register(OWN)
        await guarded.running.register(FOREIGN)
        del guarded.running.http.headers["authorization"]
        yield guarded


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(module_app: Guarded) -> Guarded:
    module_app.forget_failures()
    return module_app


async def texts(guarded: Guarded, *wanted: tuple[Any, ...]) -> list[str]:
    return [await asyncio.to_thread(guarded.tokens.text, *each) for each in wanted]


async def receive(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 20))


# WebSockets


@shared_loop
@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_websocket_takes_a_token_in_its_header_or_its_query(guarded: Guarded, way: str) -> None:
    (text,) = await texts(guarded, ("read",))
    query, headers = (f"?token={text}&mode=all", {}) if way == "query" else ("?mode=all", bearer(text))
    async with guarded.running.socket(query, additional_headers=headers) as socket:
        assert await receive(socket) == {"type": "hello", "version": 1, "cameras": [OWN, FOREIGN]}


@shared_loop
@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("", 4401, "a bearer token is needed"),
        ("?token=", 4401, "a bearer token is needed"),
        (f"?token={WRONG}", 4401, "the bearer token is wrong"),
        ("?token=hunter2", 4401, "the bearer token is not one of Vidette's"),
        ("?camera=nobody&colour=red", 4401, "a bearer token is needed"),  # a bad query is told to nobody else
    ],
)
async def test_a_websocket_without_a_good_token_is_closed_with_4401(
    guarded: Guarded, query: str, code: int, reason: str
) -> None:
    closed = await guarded.close_of(query)
    assert closed[0] == code
    assert closed[1].startswith(reason)


@shared_loop
@pytest.mark.parametrize("camera_id", [FOREIGN, "nobody"])
async def test_a_websocket_for_a_foreign_camera_is_closed_with_4403(guarded: Guarded, camera_id: str) -> None:
    (text,) = await texts(guarded, ("read", OWN))
    closed = await guarded.close_of(f"?camera={OWN}&camera={camera_id}&colour=red", **bearer(text))
    assert closed == (4403, f"the token is not for camera {camera_id!r}")


@shared_loop
async def test_a_websocket_of_a_page_of_another_site_is_closed_whatever_its_token(guarded: Guarded) -> None:
    (text,) = await texts(guarded, ("admin",))
    closed = await guarded.close_of(f"?token={text}", Origin="http://evil.test")
    assert closed == (4403, "the request comes from a page of another site")


@shared_loop
async def test_a_bad_query_is_4400_once_the_token_is_good(guarded: Guarded) -> None:
    (text,) = await texts(guarded, ("read",))
    code, reason = await guarded.close_of(f"?colour=red&token={text}")
    assert (code, reason.split(":")[0]) == (4400, "colour")


async def test_a_websocket_for_some_cameras_hears_of_no_other(data_dir: Path) -> None:
    async with guarded_app(data_dir) as guarded:
        await hear_of_no_other(guarded)


async def hear_of_no_other(guarded: Guarded) -> None:
    everything, own = await texts(guarded, ("admin",), ("read", OWN))
    guarded.running.http.headers.update(bearer(everything))
    for camera_id in (OWN, FOREIGN):
        await guarded.running.register(camera_id)
        await guarded.running.wait_published(camera_id, 3)
    lanes = {camera_id: guarded.running.parts.registry.get(camera_id).lane for camera_id in (OWN, FOREIGN)}
    since = "".join(f"&since={camera_id}:0" for camera_id in lanes)
    async with guarded.running.socket(f"?mode=all{since}", additional_headers=bearer(own)) as socket:
        assert (await receive(socket))["cameras"] == [OWN]
        before = lanes[FOREIGN].counts().published
        for camera_id in (FOREIGN, OWN):  # camera events, of the foreign one first
            await guarded.ask(everything, "PATCH", f"{API}/cameras/{camera_id}", json={"enabled": False})
        await guarded.ask(everything, "PATCH", f"{API}/cameras/{OWN}", json={"enabled": True})
        await guarded.ask(everything, "PATCH", f"{API}/cameras/{FOREIGN}", json={"enabled": True})
        await wait_until(lambda: lanes[FOREIGN].counts().published > before + 3)
        heard: list[Any] = []
        while not {"running", "disabled"} <= {each.get("state") for each in heard}:
            heard.append(await receive(socket))
    assert {each["camera_id"] for each in heard} == {OWN}
    assert any(each["type"] == "detections" for each in heard)


@shared_loop
async def test_a_websocket_may_name_its_own_camera_among_those_of_the_token(guarded: Guarded) -> None:
    (text,) = await texts(guarded, ("read", OWN, "later"))
    async with guarded.running.socket(f"?camera={OWN}", additional_headers=bearer(text)) as socket:
        assert (await receive(socket))["cameras"] == [OWN]
    assert (await guarded.close_of("?camera=later", **bearer(text)))[0] == 4400  # allowed, and not registered


@shared_loop
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_an_open_websocket_ends_with_its_token(guarded: Guarded, how: str) -> None:
    fields = {"expires_utc": time.time() + 2} if how == "expired" else {}
    token_id, text = await asyncio.to_thread(lambda: guarded.tokens.make("read", **fields))
    other = (await texts(guarded, ("read",)))[0]
    async with (
        guarded.running.socket(f"?token={text}") as socket,
        guarded.running.socket(f"?token={other}&min_score=1&empty=false") as lasting,
    ):
        assert (await receive(socket))["type"] == "hello"
        if how == "revoked":
            await asyncio.to_thread(guarded.tokens.revoke, token_id)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await asyncio.wait_for(socket.recv(), 10)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4401, "the token was revoked or has expired")
        assert (await receive(lasting))["type"] == "hello"
        await asyncio.wait_for(await lasting.ping(), 20)  # it is open still
    response = await guarded.ask(text, "GET", f"{API}/system")
    assert (response.status_code, response.json()["detail"].split()[-1]) == (401, how)


@shared_loop
async def test_a_token_that_was_made_a_moment_ago_is_known(guarded: Guarded) -> None:
    for _ in range(5):
        _, text = await asyncio.to_thread(guarded.tokens.make, "read")
        assert (await guarded.ask(text, "GET", f"{API}/system")).status_code == 200


# The limit of failures


@shared_loop
async def test_wrong_tokens_are_limited_and_a_good_one_still_passes(guarded: Guarded) -> None:
    (text,) = await texts(guarded, ("read",))
    for _ in range(MAX_FAILURES):
        assert (await guarded.ask(WRONG, "GET", f"{API}/system")).status_code == 401
    refused = await guarded.ask(WRONG, "GET", f"{API}/system")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await guarded.close_of(f"?token={WRONG}"))[0] == 1013
    assert (await guarded.ask(text, "GET", f"{API}/system")).status_code == 200
    assert (await guarded.ask(None, "GET", f"{API}/system")).status_code == 401
    assert (await guarded.ask(None, "GET", "/livez")).status_code == 200


@shared_loop
async def test_a_client_s_word_for_its_address_does_not_count(guarded: Guarded) -> None:
    statuses = []
    for number in range(MAX_FAILURES + 1):
        headers = {**bearer(WRONG), "x-forwarded-for": f"192.0.2.{number}"}
        statuses.append((await guarded.running.http.get(f"{API}/system", headers=headers)).status_code)
    assert statuses == [401] * MAX_FAILURES + [429]


@shared_loop
async def test_failures_are_counted_by_reason(guarded: Guarded) -> None:
    (text,) = await texts(guarded, ("read",))

    async def counts() -> dict[str, float]:
        families = text_string_to_metric_families((await guarded.ask(text, "GET", "/metrics")).text)
        (family,) = [each for each in families if each.name == "vidette_auth_failures"]
        return {sample.labels["reason"]: sample.value for sample in family.samples}

    before = await counts()
    for shown in (None, WRONG, "hunter2"):
        await guarded.ask(shown, "GET", f"{API}/system")
    after = await counts()
    assert set(after) == {"missing", "malformed", "unknown", "expired", "revoked", "limited"}
    grown = {reason: after[reason] - before[reason] for reason in after}
    assert grown == {"missing": 1, "malformed": 1, "unknown": 1, "expired": 0, "revoked": 0, "limited": 0}


# Metrics


async def test_the_metrics_token_opens_the_metrics_and_nothing_else(data_dir: Path) -> None:
    async with guarded_app(data_dir, metrics={"token": "scrape-me"}) as guarded:
        read, own = await texts(guarded, ("read",), ("read", OWN))
        statuses = {
            shown: [(await guarded.ask(shown, "GET", path)).status_code for path in ("/metrics", f"{API}/system")]
            for shown in ("scrape-me", read, own, None)
        }
    assert statuses == {"scrape-me": [200, 401], read: [200, 200], own: [403, 200], None: [401, 401]}


# Nothing of a token stays anywhere


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_of_a_token_is_in_a_log_line(
    data_dir: Path, capsys: pytest.CaptureFixture[str], own_logging: None, form: Any
) -> None:
    configure_logging("debug", form)
    async with guarded_app(data_dir) as guarded:
        (good,) = await texts(guarded, ("read",))
        for text in (good, WRONG):
            for query in (f"?token={text}", f"?mode=all&token={text}&token=x", f"?%74oken={text}"):
                async with guarded.running.socket(query) as socket:
                    try:
                        await asyncio.wait_for(socket.recv(), 20)
                    except ConnectionClosed:
                        assert text == WRONG
            await guarded.ask(text, "GET", f"{API}/system")
            await guarded.running.http.get(f"{API}/system?token={text}")
        metrics = (await guarded.ask(good, "GET", "/metrics")).text
    log = capsys.readouterr().err
    assert "WebSocket" in log
    assert "the bearer token is wrong" in log
    for text in (good, WRONG):
        secret = text.split("_")[2]
        assert secret not in metrics
        assert [line for line in log.splitlines() if secret in line] == []
    database = await asyncio.to_thread((data_dir / FILE_NAME).read_bytes)
    assert good.split("_")[2].encode() not in database


# Without tokens in the database


async def test_the_token_of_the_admin_file_works_at_once(data_dir: Path, tmp_path: Path, start_app: StartApp) -> None:
    _, text = new_token("admin", now_utc=0)
    (tmp_path / "admin_token").write_text(f"{text}\n")
    running = await start_app(auth={"mode": "token", "admin_token_file": tmp_path / "admin_token"})
    answer = await running.http.get(f"{API}/cameras", headers=bearer(text))
    assert answer.status_code == 200


async def test_an_import_shows_the_token_that_it_was_given(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cameras.yml").write_text(
        "version: 1\ncameras:\n  - {id: gate-1, url: 'rtsp://camera.test/1', enabled: false}\n"
    )
    async with guarded_app(data_dir) as guarded:
        (text,) = await texts(guarded, ("admin",))
        (tmp_path / "token").write_text(f"{text}\n")
        where = ["import", str(tmp_path / "cameras.yml"), "--url", f"http://127.0.0.1:{guarded.running.port}"]
        assert await asyncio.to_thread(main, where) == 1
        assert "a bearer token is needed" in capsys.readouterr().err
        assert await asyncio.to_thread(main, [*where, "--token-file", str(tmp_path / "nothing")]) == 2
        assert "--token-file: " in capsys.readouterr().err
        assert await asyncio.to_thread(main, [*where, "--token-file", str(tmp_path / "token")]) == 0
        assert (await guarded.ask(text, "GET", f"{API}/cameras/gate-1")).status_code == 200


async def test_the_demo_makes_a_token_for_itself_and_its_user(data_dir: Path) -> None:
    async with guarded_app(data_dir) as guarded:
        text = await asyncio.to_thread(own_token, guarded.running.service.settings)
        assert (await guarded.ask(text, "GET", f"{API}/cameras")).status_code == 200
    plain = await asyncio.to_thread(make_settings, data_dir)
    assert own_token(plain) is None


@pytest.mark.parametrize(
    "error",
    [StoreError("vidette.db: the camera database cannot be used: disk I/O error"), OSError(116, "Stale file handle")],
)
async def test_a_database_that_cannot_be_read_changes_nothing_and_is_told(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def broken(self: object) -> int:
        raise error

    async with guarded_app(data_dir) as guarded:
        (text,) = await texts(guarded, ("read",))
        assert (await guarded.ask(text, "GET", f"{API}/system")).status_code == 200
        monkeypatch.setattr("app.auth.database.TokenDatabase.version", broken)
        assert (await guarded.ask(WRONG, "GET", f"{API}/system")).status_code == 401
        assert (await guarded.ask(text, "GET", f"{API}/system")).status_code == 200
        monkeypatch.undo()
        _, later = await asyncio.to_thread(guarded.tokens.make, "read")
        assert (await guarded.ask(later, "GET", f"{API}/system")).status_code == 200
    told = [record.getMessage() for record in caplog.records if "go unnoticed" in record.getMessage()]
    assert told == [f"new and revoked tokens go unnoticed: {error}"]
