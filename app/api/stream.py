"""Detections over WebSocket: one subscription a client, filtered here, never waited for by the pipeline."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocketDisconnect

from app.api.guard import foreign_origin
from app.cameras.settings import ID_PATTERN
from app.errors import NotReady, TooManyRequests
from app.results.hub import ResultHub
from app.results.subscription import Interest, Subscription
from app.results.wire import Format, ResultFilter, encode, hello_message
from app.service import Parts, Service

router = APIRouter()
logger = logging.getLogger("vidette.api")

BAD_QUERY, FORBIDDEN, GOING_AWAY, TRY_AGAIN_LATER = 4400, 4403, 1001, 1013
REASON_BYTES = 123
# A client that takes nothing for this long is closed; it may come back with `since`.
STAND_STILL_S = 30.0
KNOWN = frozenset({"camera", "class", "min_score", "empty", "mode", "format", "since"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamQuery:
    """A WebSocket's query, checked."""

    interest: Interest
    since: dict[str, int]


def parse_query(query: QueryParams, *, cameras: Collection[str], labels: Collection[str]) -> StreamQuery:
    """Raises ValueError with a sentence that names the parameter. Pure."""
    unknown = sorted(set(query.keys()) - KNOWN)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such parameter; there are {', '.join(sorted(KNOWN))}")
    wanted_cameras = query.getlist("camera")
    for camera_id in wanted_cameras:
        if camera_id not in cameras:
            raise ValueError(f"camera: {camera_id[:64]!r} is not registered")
    wanted_labels = query.getlist("class")
    for label in wanted_labels:
        if label not in labels:
            raise ValueError(f"class: {label[:64]!r} is not a class of the model")
    mode = query.get("mode", "latest")
    if mode not in ("latest", "all"):
        raise ValueError("mode: must be latest or all")
    form: Format = "msgpack" if query.get("format") == "msgpack" else "json"
    if query.get("format", "json") not in ("json", "msgpack"):
        raise ValueError("format: must be json or msgpack")
    wanted = ResultFilter(
        labels=frozenset(wanted_labels) or None,
        min_score=_score(query.get("min_score", "0")),
        empty=_flag("empty", query.get("empty", "true")),
    )
    interest = Interest(
        cameras=frozenset(wanted_cameras) or None, wanted=wanted, mode="all" if mode == "all" else "latest", form=form
    )
    return StreamQuery(interest=interest, since=dict(_since(text) for text in query.getlist("since")))


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("min_score: must be a number from 0 to 1")
    return value


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}: must be true or false")
    return text.lower() in ("true", "1")


def _since(text: str) -> tuple[str, int]:
    camera_id, _, seq = text.partition(":")
    if not re.fullmatch(ID_PATTERN, camera_id) or not re.fullmatch(r"[0-9]{1,18}", seq):
        raise ValueError("since: must be camera:seq, such as gate-1:1201")
    return camera_id, int(seq)


@router.websocket("/api/v1/ws/detections")
async def detections(socket: WebSocket) -> None:
    """Accept, check, then send until the client leaves, stands still, or the service stops."""
    service: Service = socket.app.state.service
    await socket.accept()
    if foreign_origin(socket.headers):
        await socket.close(FORBIDDEN, "the request comes from a page of another site")
        return
    try:
        parts = service.parts
        query = parse_query(
            socket.query_params,
            cameras={camera.settings.id for camera in parts.registry.cameras()},
            labels=parts.engine.classes,
        )
        with parts.hub.subscribed(query.interest, query.since) as subscription:
            code, reason = await _serve(socket, subscription, parts, query.interest.form)
    except ValueError as exc:
        code, reason = BAD_QUERY, str(exc)
    except NotReady as exc:
        code, reason = (GOING_AWAY if service.state != "starting" else TRY_AGAIN_LATER), str(exc)
    except TooManyRequests as exc:
        code, reason = TRY_AGAIN_LATER, str(exc)
    if code is not None:
        await socket.close(code, fitting(reason))


def fitting(reason: str) -> str:
    """What of a reason fits into a close frame (RFC 6455, 5.5); cut between words, unless one of them is most of it."""
    text = reason.encode()
    if len(text) <= REASON_BYTES:
        return reason
    cut = text[: REASON_BYTES - len("…".encode())].decode(errors="ignore")
    words = cut.rpartition(" ")[0]
    return f"{words if 2 * len(words) > len(cut) else cut}…"


async def _serve(socket: WebSocket, subscription: Subscription, parts: Parts, form: Format) -> tuple[int | None, str]:
    """Send until something ends it; the code to close with, None when the client is gone already."""
    hub, stand_still_s = parts.hub, socket.app.state.stand_still_s
    hello = encode(hello_message([camera.settings.id for camera in parts.registry.cameras()]), form)
    sending = asyncio.create_task(
        _send(socket, subscription, hub, form, hello, stand_still_s=stand_still_s), name="ws:send"
    )
    leaving = asyncio.create_task(_until_gone(socket), name="ws:receive")
    closing = asyncio.create_task(hub.closing.wait(), name="ws:closing")
    tasks: list[asyncio.Task[Any]] = [sending, leaving, closing]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not leaving.cancelled():
        return None, ""
    if not closing.cancelled():
        return GOING_AWAY, "the service is stopping"
    error = sending.exception()
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        logger.warning("a WebSocket client took nothing for %g s and is closed", stand_still_s)
        return TRY_AGAIN_LATER, f"nothing was taken for {stand_still_s:g} s"
    if error is not None and not isinstance(error, WebSocketDisconnect):
        logger.error("a WebSocket client is closed", exc_info=error)
        return 1011, "the service failed to send"
    return None, ""


async def _send(
    socket: WebSocket,
    subscription: Subscription,
    hub: ResultHub[Any],
    form: Format,
    hello: bytes,
    *,
    stand_still_s: float,
) -> None:
    data = hello
    while True:
        message: dict[str, Any] = {"type": "websocket.send"}
        if form == "json":
            message["text"] = data.decode()
        else:
            message["bytes"] = data
        await asyncio.wait_for(socket.send(message), stand_still_s)
        hub.messages_sent += 1
        data = await subscription.next()


async def _until_gone(socket: WebSocket) -> None:
    # Clients have nothing to say; what they say all the same is read and forgotten, so that a close is seen.
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
