"""Who may do what: every route of the OpenAPI document by every kind of token, for its own and a foreign camera."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from starlette.routing import Route

from app.api.auth import Table
from app.auth.rules import RULES
from app.auth.tokens import Scope, bearer
from app.backends.synthetic.backend import SyntheticBackend
from app.main import create_app
from tests.support.app import API, make_settings
from tests.support.tokens import Guarded, guarded_app

OWN, FOREIGN, NOBODY = "own", "foreign", "not-registered"
URL = "rtsp://camera.test/1?fps=50"
# What the project promises, written down a second time. A new route fails here until somebody decides who may call it.
PROMISED: dict[str, str] = {
    f"get {API}/cameras": "read",
    f"post {API}/cameras": "admin",
    f"get {API}/cameras/{{camera_id}}": "read",
    f"put {API}/cameras/{{camera_id}}": "operate",
    f"patch {API}/cameras/{{camera_id}}": "operate",
    f"delete {API}/cameras/{{camera_id}}": "admin",
    f"post {API}/cameras/{{camera_id}}/restart": "operate",
    f"get {API}/cameras/{{camera_id}}/detections": "read",
    f"get {API}/cameras/{{camera_id}}/snapshot.jpg": "read",
    f"get {API}/detections/latest": "read",
    f"post {API}/diagnose": "operate",
    f"get {API}/capacity": "read",
    f"get {API}/models": "read",
    f"get {API}/system": "read",
    "get /metrics": "metrics",
    "get /livez": "open",
    "get /readyz": "open",
}
SCOPES: tuple[Scope, ...] = ("read", "operate", "admin")
SAME = {"url": "rtsp://camera.test/kept?fps=50", "username": "admin", "transport": "tcp"}
shared_loop = pytest.mark.asyncio(loop_scope="module")
# What a request is answered with once it is let in; a camera that is not there is told only then.
LET_IN = {200, 201, 204, 404, 409, 422, 503}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    data_dir = tmp_path_factory.mktemp("guarded") / "data"
    async with guarded_app(data_dir) as guarded:
        running, tokens = guarded.running, guarded.tokens
        for scope in SCOPES:
            for cameras in ((), (OWN,)):
                await asyncio.to_thread(tokens.text, scope, *cameras)
        running.http.headers.update(bearer(tokens.text("admin")))
        for camera_id in (OWN, FOREIGN):  # with a result, and then switched off: no test starts their threads again
            await running.register(camera_id)
            await running.wait_published(camera_id)
            await running.patch(camera_id, enabled=False)
        del running.http.headers["authorization"]
        yield guarded


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(module_app: Guarded) -> Guarded:
    """The module's application, whatever wrong tokens an earlier test has shown."""
    module_app.forget_failures()
    return module_app


def operations(app: Guarded) -> Iterator[tuple[str, str, str]]:
    """(method, path template, what is promised) of each operation of the OpenAPI document."""
    for path, methods in app.running.app.openapi()["paths"].items():
        for method in methods:
            assert f"{method} {path}" in PROMISED, f"{method} {path}: nobody has promised who may call it"
            yield method, path, PROMISED[f"{method} {path}"]


def expected(need: str, scope: Scope | None, *, foreign: bool, limited: bool) -> set[int]:
    if need == "open":
        return {200}
    if scope is None:
        return {401}
    if need == "metrics":
        return {403} if limited else {200}
    if SCOPES.index(scope) < SCOPES.index(need) or (limited and foreign):
        return {403}
    return LET_IN


def body_of(method: str, path: str) -> dict[str, Any]:
    """A body that changes nothing that others need; for `POST /cameras` one that is refused once it is let in."""
    if method in ("put", "patch"):
        return {"json": {"colour": "red"}}
    return {"json": {"id": OWN, "url": URL}} if method == "post" and path.endswith("/cameras") else {"json": {}}


# The matrix


@shared_loop
@pytest.mark.parametrize("camera_id", [OWN, FOREIGN, NOBODY])
@pytest.mark.parametrize("limited", [False, True], ids=["all-cameras", "one-camera"])
@pytest.mark.parametrize("scope", [None, *SCOPES])
async def test_every_route_by_every_scope(guarded: Guarded, scope: Scope | None, limited: bool, camera_id: str) -> None:
    text = None if scope is None else guarded.tokens.text(scope, *([OWN] if limited else []))
    for method, template, need in operations(guarded):
        if method == "delete" and scope == "admin" and camera_id != NOBODY and not (limited and camera_id == FOREIGN):
            continue  # it would be gone; `test_a_camera_of_its_own_may_be_removed`
        path = template.replace("{camera_id}", camera_id)
        foreign = camera_id != OWN and path != template
        response = await guarded.ask(text, method, path, **body_of(method, path))
        wanted = expected(need, scope, foreign=foreign, limited=limited)
        assert response.status_code in wanted, (method, path, response.text)
        if response.status_code in (401, 403):
            code = {401: "unauthorized", 403: "forbidden"}[response.status_code]
            assert (response.json()["code"], response.headers["content-type"]) == (code, "application/problem+json")
        assert response.headers.get("www-authenticate") == ("Bearer" if response.status_code == 401 else None)


@shared_loop
@pytest.mark.parametrize("kind", ["expired", "revoked", "wrong secret", "another scheme", "no token at all"])
async def test_a_token_that_is_not_good_opens_nothing(guarded: Guarded, kind: str) -> None:
    tokens = guarded.tokens
    if kind == "expired":
        _, text = await asyncio.to_thread(tokens.make, "admin", expires_utc=time.time() - 1)
    else:
        token_id, text = await asyncio.to_thread(tokens.make, "admin")
        if kind == "revoked":
            await asyncio.to_thread(tokens.revoke, token_id)
        elif kind == "wrong secret":
            text = f"{text[:-1]}{'0' if text[-1] != '0' else '1'}"
        elif kind == "no token at all":
            text = "hunter2"
    header = {"authorization": f"Basic {text}"} if kind == "another scheme" else bearer(text)
    for method, template, need in operations(guarded):
        guarded.forget_failures()
        path = template.replace("{camera_id}", OWN)
        response = await guarded.running.http.request(method, path, headers=header)
        assert response.status_code == (200 if need == "open" else 401), (method, path, response.text)
        assert text not in response.text


@shared_loop
async def test_nothing_is_learnt_without_a_token(guarded: Guarded) -> None:
    big = b"x" * 2_000_000
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"{API}/cameras/{NOBODY}", {}),
        ("GET", f"{API}/nothing", {}),
        ("GET", "/nothing", {}),
        ("GET", f"{API}/cameras/", {}),
        ("PUT", f"{API}/cameras", {}),
        ("OPTIONS", f"{API}/cameras", {}),
        ("HEAD", f"{API}/cameras", {}),
        ("POST", f"{API}/cameras", {"content": b"{not json", "headers": {"content-type": "application/json"}}),
        ("POST", f"{API}/cameras", {"content": big}),
        ("GET", f"{API}/cameras/{OWN}/detections?limit=x", {}),
        ("GET", f"{API}/cameras?token={guarded.tokens.text('admin')}", {}),  # only a WebSocket may
    ]
    for method, path, options in requests:
        response = await guarded.running.http.request(method, path, **options)
        assert response.status_code == 401, (method, path)


@shared_loop
async def test_with_a_token_the_usual_answers_come(guarded: Guarded) -> None:
    text = guarded.tokens.text("admin", OWN)
    assert (await guarded.ask(text, "GET", f"{API}/nothing")).json()["code"] == "not_found"
    refused = await guarded.ask(text, "PUT", f"{API}/cameras")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    elsewhere = {**bearer(text), "host": "evil.test"}
    moved = await guarded.running.http.get(f"{API}/cameras/?a=%2F%C3%A9", headers=elsewhere)
    assert (moved.status_code, moved.headers["location"]) == (307, f"{API}/cameras?a=%2F%C3%A9")
    assert (await guarded.ask(text, "POST", f"{API}/cameras", content=b"x" * 2_000_000)).status_code == 413


@shared_loop
async def test_head_is_answered_as_get_is_without_a_body(guarded: Guarded) -> None:
    text = guarded.tokens.text("read", OWN)
    for path, status in (("/livez", 200), (f"{API}/cameras/{OWN}", 200), (f"{API}/cameras/{FOREIGN}", 403)):
        full, head = [await guarded.ask(text, method, path) for method in ("GET", "HEAD")]
        assert (full.status_code, head.status_code, head.content) == (status, status, b"")
        assert head.headers["content-type"] == full.headers["content-type"]


@shared_loop
async def test_of_two_tokens_none_counts(guarded: Guarded) -> None:
    good = f"Bearer {guarded.tokens.text('admin')}"
    for pair in ((good, good), (good, "Bearer x"), ("Bearer x", good), (good, "Basic eDp5"), ("Basic eDp5", good)):
        headers = [("authorization", each) for each in pair]
        response = await guarded.running.http.get(f"{API}/system", headers=headers)
        assert response.status_code == 401, pair


def test_a_route_without_a_rule_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(tmp_path)
    monkeypatch.setattr("app.main.RULES", {line: need for line, need in RULES.items() if "diagnose" not in line})
    with pytest.raises(AssertionError, match=rf"^POST {API}/diagnose: say in .* who may do this$"):
        create_app(settings, SyntheticBackend())
    with pytest.raises(AssertionError, match=r"GET /y: .* a rule for a route that there is not"):
        Table({"GET /x": "open", "GET /y": "open"}).check_complete([Route("/x", lambda request: None)])


@shared_loop
async def test_a_route_that_slips_in_later_is_not_reached(guarded: Guarded) -> None:
    app = guarded.running.app
    app.router.routes.append(Route("/later", lambda request: None))
    try:
        assert (await guarded.ask(guarded.tokens.text("admin"), "GET", "/later")).status_code == 404
        assert (await guarded.ask(None, "GET", "/later")).status_code == 401
    finally:
        app.router.routes.pop()


# Some cameras only


@shared_loop
async def test_lists_leave_foreign_cameras_out(guarded: Guarded) -> None:
    for cameras, seen in (((), {OWN, FOREIGN}), ((OWN,), {OWN})):
        text = guarded.tokens.text("read", *cameras)
        assert {each["id"] for each in (await guarded.ask(text, "GET", f"{API}/cameras")).json()} == seen
        latest = (await guarded.ask(text, "GET", f"{API}/detections/latest")).json()
        assert {each["camera_id"] for each in latest} == seen


@shared_loop
async def test_a_foreign_camera_answers_alike_whether_or_not_it_exists(guarded: Guarded) -> None:
    text = guarded.tokens.text("admin", OWN)
    answers = [await guarded.ask(text, "GET", f"{API}/cameras/{each}") for each in (FOREIGN, NOBODY)]
    assert {answer.status_code for answer in answers} == {403}
    assert answers[0].text.replace(FOREIGN, "?") == answers[1].text.replace(NOBODY, "?")
    made = [
        await guarded.ask(text, "POST", f"{API}/cameras", json={"id": each, "url": URL}) for each in (FOREIGN, NOBODY)
    ]
    assert {answer.status_code for answer in made} == {403}


@shared_loop
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "Hall 1"}, 201),  # becomes hall-1
        ({"name": "Hall 2"}, 403),
        ({"name": "foreign"}, 403),  # it exists, and foreign-2 is on the list
        ({"name": "own"}, 403),  # own is taken, and own-2 is not on the list
        ({}, 403),  # becomes camera-test, after its host
    ],
)
async def test_an_id_that_is_made_from_a_name_must_be_on_the_list(
    guarded: Guarded, body: dict[str, str], status: int
) -> None:
    text = await asyncio.to_thread(guarded.tokens.text, "admin", OWN, "hall-1", "foreign-2")
    response = await guarded.ask(text, "POST", f"{API}/cameras", json={"url": URL, "enabled": False, **body})
    assert response.status_code == status, response.text
    if status == 201:
        assert (await guarded.ask(text, "DELETE", f"{API}/cameras/hall-1")).status_code == 204


@shared_loop
async def test_a_camera_of_its_own_may_be_removed(guarded: Guarded) -> None:
    text = await asyncio.to_thread(guarded.tokens.text, "admin", "brief")
    created = await guarded.ask(text, "POST", f"{API}/cameras", json={"id": "brief", "url": URL, "enabled": False})
    assert created.status_code == 201
    assert (await guarded.ask(text, "DELETE", f"{API}/cameras/brief")).status_code == 204


# What operate may change


@shared_loop
@pytest.mark.parametrize(
    ("method", "body", "fields"),
    [
        ("PATCH", {"min_score": 0.4, "classes": ["person"], "labels": {"a": "b"}, "max_fps": 5, "enabled": True}, None),
        ("PATCH", {"url": "rtsp://other.test/1"}, "url"),
        ("PATCH", {"url": "rtsp://admin:guess@camera.test/kept?fps=50"}, "url"),
        ("PATCH", {"url": "rtsp://camera.test/kept?fps=50"}, None),  # the same
        ("PATCH", {"username": "root"}, "username"),
        ("PATCH", {"username": "admin"}, None),
        ("PATCH", {"password": "hunter2"}, "password"),  # the right one: nobody may find that out
        ("PATCH", {"password": None}, "password"),
        ("PATCH", {"transport": "udp"}, "transport"),
        ("PATCH", {"transport": "tcp"}, None),
        ("PATCH", {"transport": "auto", "username": None, "min_score": 0.1}, "username, transport"),
        (
            "PUT",
            {**SAME, "priority": 9},
            None,
        ),
        ("PUT", {**SAME, "url": "rtsp://other.test/1"}, "url"),
        ("PUT", {"url": "rtsp://camera.test/kept?fps=50"}, "username, transport"),
    ],
)
async def test_operate_changes_no_address_and_no_login(
    guarded: Guarded, method: str, body: dict[str, Any], fields: str | None
) -> None:
    admin, operate = guarded.tokens.text("admin"), guarded.tokens.text("operate")
    kept = {**SAME, "password": "hunter2"}
    made = await guarded.ask(admin, "POST", f"{API}/cameras", json={"id": "kept", "enabled": False, **kept})
    assert made.status_code == 201, made.text
    try:
        response = await guarded.ask(operate, method, f"{API}/cameras/kept", json={"enabled": False, **body})
        if fields is None:
            assert response.status_code == 200, response.text
        else:
            assert response.status_code == 403, response.text
            assert response.json()["detail"] == f"{fields}: only a token of the scope admin may change this"
        after = guarded.running.parts.registry.get("kept").settings
        assert (after.url, after.username, after.transport) == (kept["url"], "admin", "tcp")
        assert after.password is not None and after.password.get_secret_value() == "hunter2"
    finally:
        assert (await guarded.ask(admin, "DELETE", f"{API}/cameras/kept")).status_code == 204


# The document


@shared_loop
async def test_the_openapi_document_tells_the_scheme_and_the_refusals(guarded: Guarded) -> None:
    document = (await guarded.ask(None, "GET", "/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for method, path, need in operations(guarded):
        operation = document["paths"][path][method]
        assert operation.get("security") == (None if need == "open" else [{"bearer": []}]), path
        assert operation.get("x-vidette-scope") == (None if need == "open" else need), path
        assert ({"401", "403", "429"} <= set(operation["responses"])) == (need != "open"), path


@shared_loop
async def test_pages_hold_nothing_and_are_open(guarded: Guarded) -> None:
    for path in ("/", "/console.js", "/console.css", "/docs", "/redoc", "/openapi.json"):
        response = await guarded.ask(None, "GET", path)
        assert response.status_code == 200, path
        assert OWN not in response.text or path.endswith((".js", ".css", ".json")), path
