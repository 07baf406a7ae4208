"""What the OpenAPI document says about access, from the table of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI

from app.api.common import problems
from app.auth.rules import RULES

SCHEME = "bearer"
_METHODS = frozenset({"get", "put", "post", "patch", "delete"})


def document(app: FastAPI, mode: Literal["none", "token"]) -> Callable[[], dict[str, Any]]:
    """FastAPI's document with the bearer scheme, and with what each route needs and may answer for lack of it.

    Where `auth.mode` is none a token is shown as what it then is: possible and not needed.
    """
    generate = app.openapi

    def extended() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = generate()
            found.setdefault("components", {})["securitySchemes"] = {
                SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "vdt_<id>_<secret>",
                    "description": "As `vidette token create` makes it; WebSockets may give it as the query's `token`.",
                }
            }
            for path, operations in found["paths"].items():
                for method in _METHODS & set(operations):
                    # Named once for all routes, so that its shape is in the document; each route tells its own.
                    operations[method]["responses"].pop("default", None)
                    _extend(operations[method], RULES[f"{method.upper()} {path}"], mode)
            app.openapi_schema = found
        return app.openapi_schema

    return extended


def _extend(operation: dict[str, Any], need: str, mode: str) -> None:
    if need == "open":
        return
    operation["security"] = [{SCHEME: []}] if mode == "token" else [{SCHEME: []}, {}]
    operation["x-vidette-scope"] = need
    for status, response in problems(401, 403, 429).items():
        operation["responses"].setdefault(str(status), response)
