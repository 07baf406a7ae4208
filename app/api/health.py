"""Probes and metrics, outside `/api/v1`."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from app.api.common import PartsDep, ServiceDep, problems
from app.errors import Unauthorized
from app.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


@router.get("/livez")
async def livez() -> Health:
    """200 while the process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=problems(503))
async def readyz(parts: PartsDep) -> Health:
    """200 once the engine is warm and the registry is loaded; cameras may be up or down."""
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **problems(401)})
async def metrics(request: Request, service: ServiceDep) -> Response:
    """Prometheus exposition; asks for `metrics.token` when one is set."""
    token = service.settings.metrics.token
    if token is not None:
        given = request.headers.get("authorization", "").encode("latin-1")  # the bytes that were sent
        if not secrets.compare_digest(given, f"Bearer {token.get_secret_value()}".encode()):
            raise Unauthorized("metrics: the bearer token is missing or wrong")
    source: Metrics = request.app.state.metrics
    return Response(await run_in_threadpool(source.text), media_type=CONTENT_TYPE)
