"""Schemathesis: whatever the OpenAPI document allows, and what it forbids, no answer is a 500 or other than it says."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.auth.rules import RULES
from tests.support.serve_process import ROOT, ServeProcess


def nothing_unforeseen(ctx: object, response: schemathesis.Response, case: object) -> None:
    """503 is an answer that the document tells, such as for a picture before there is one; 500 never is."""
    assert response.status_code != 500, response.text


CHECKS = [
    nothing_unforeseen,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    unsupported_method,
    allow_header_conformance,
]
CAMERAS = {"gate-1": "rtsp://camera.test/1?fps=5", "dead": "rtsp://camera.test/2?fail=auth_failed"}
# Requests for each route and each kind of data, legal and illegal. A diagnosis may take as long as a camera does.
EXAMPLES = {"POST /api/v1/diagnose": 6}
DEFAULT_EXAMPLES = 30
TURNED_AWAY = 6  # without a token every request has the same answer
MODES = ("none", "token", "no token")


@dataclass
class Target:
    """A service under test, and the token to ask it with."""

    mode: str
    service: ServeProcess
    headers: dict[str, str]
    schema: Any

    def operations(self) -> dict[str, Any]:
        found = (each.ok() for each in self.schema.get_all_operations())
        return {f"{each.method.upper()} {each.path}": each for each in found}

    def register(self) -> None:
        """Have the cameras that requests are about, and no other."""
        with httpx.Client(base_url=f"{self.service.url}/api/v1", headers=self.admin, timeout=20) as client:
            there = {camera["id"] for camera in client.get("/cameras").raise_for_status().json()}
            for camera_id in there - set(CAMERAS):
                client.delete(f"/cameras/{camera_id}").raise_for_status()
            for camera_id in set(CAMERAS) - there:
                body = {"id": camera_id, "url": CAMERAS[camera_id]}
                client.post("/cameras?force=true", json=body).raise_for_status()

    admin: dict[str, str]


@pytest.fixture(scope="module", params=MODES)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    load_all_checks()
    data_dir = tmp_path_factory.mktemp("schema") / "data"
    environ = {"VIDETTE_BACKEND__DEVICE": "synthetic"}
    headers = {}
    if request.param != "none":
        environ["VIDETTE_AUTH__MODE"] = "token"
        headers = {"Authorization": f"Bearer {admin_token(data_dir)}"}
    with ServeProcess(data_dir, environ=environ) as service:
        schema = schemathesis.openapi.from_dict(httpx.get(f"{service.url}/openapi.json").json())
        schema.config.base_url = service.url
        asked_with = {} if request.param == "no token" else headers
        found = Target(mode=request.param, service=service, headers=asked_with, schema=schema, admin=headers)
        found.register()
        yield found
        assert "failed for a reason nobody foresaw" not in service.log()
        assert service.terminate() == 0


def admin_token(data_dir: Path) -> str:
    command = [
        sys.executable,
        "-m",
        "app",
        "token",
        "create",
        "--data-dir",
        str(data_dir),
        "--scope",
        "admin",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["token"])


def routes() -> list[str]:
    return [rule for rule in RULES if rule.partition(" ")[2].startswith(("/api/v1/", "/livez", "/readyz", "/metrics"))]


def test_every_route_of_the_document_is_asked(target: Target) -> None:
    assert set(target.operations()) == {route for route in routes() if "/ws/" not in route}


@pytest.mark.parametrize("generation", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["legal", "illegal"])
@pytest.mark.parametrize("route", [route for route in routes() if "/ws/" not in route])
def test_every_answer_is_one_that_the_document_tells(target: Target, route: str, generation: GenerationMode) -> None:
    operation = target.operations()[route]
    examples = TURNED_AWAY if target.mode == "no token" else EXAMPLES.get(route, DEFAULT_EXAMPLES)

    @given(data=st.data())
    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=generation))
        if "camera_id" in (case.path_parameters or {}) and data.draw(st.booleans()):
            case.path_parameters["camera_id"] = data.draw(st.sampled_from(sorted(CAMERAS)))
        # An illegal header is none once the token is in its place, and unknown names in a query are no offence.
        negated = {where for where, what in case.meta.components.items() if what.mode is GenerationMode.NEGATIVE}
        assume(not target.headers or ParameterLocation.HEADER not in negated)
        # That wrong tokens are refused is tested in test_authorisation.py; here their number would be limited.
        case.call_and_validate(headers=target.headers, checks=CHECKS, timeout=30)

    # A route that takes nothing, or any text, has no illegal request.
    nothing = (Unsatisfiable,) if generation is GenerationMode.NEGATIVE else ()
    try:
        with contextlib.suppress(*nothing):
            ask()
    finally:
        target.register()
