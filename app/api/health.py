"""Probes and metrics, outside `/api/v1`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from app.api.common import PartsDep, problems
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


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus exposition; asks for `metrics.token` when one is set, or for a token that reads every camera."""
    source: Metrics = request.app.state.metrics
    return Response(await run_in_threadpool(source.text), media_type=CONTENT_TYPE)
