"""Detections over WebSocket: a query is checked here, and the hub delivers what it asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from fastapi import APIRouter, WebSocket
from starlette.datastructures import QueryParams

from app.api.auth import UNAUTHORIZED, principal_of
from app.api.guard import foreign_origin
from app.api.outlet import AsgiOutlet, outlet_of, until_gone
from app.auth.rules import Principal, check_camera
from app.cameras.settings import ID_PATTERN
from app.errors import Forbidden, NotReady, TooManyRequests
from app.results.topic import Interest
from app.results.wire import Format, Message, ResultFilter, encode, hello_message
from app.service import Parts, Service

router = APIRouter()

BAD_QUERY, FORBIDDEN, GOING_AWAY, TRY_AGAIN_LATER = 4400, 4403, 1001, 1013
SAID_TOO_MUCH = (1008, 1009)  # what the server itself ends a connection with
REASON_BYTES = 123
TOKEN_ENDED = "the token was revoked or has expired"
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
    if foreign_origin(socket.headers, service.settings.server.cors_origins):
        await socket.close(FORBIDDEN, "the request comes from a page of another site")
        return
    asking = principal_of(socket)
    try:
        parts = service.parts
        for camera_id in socket.query_params.getlist("camera"):
            check_camera(asking, camera_id)  # before anything is said of whether it is registered
        query = parse_query(
            socket.query_params,
            cameras={camera.settings.id for camera in parts.registry.cameras()},
            labels=parts.engine.classes,
        )
        await _serve(socket, query, service, parts, asking)
        return
    except ValueError as exc:
        code, reason = BAD_QUERY, str(exc)
    except Forbidden as exc:
        code, reason = FORBIDDEN, str(exc)
    except NotReady as exc:
        code, reason = (GOING_AWAY if service.state != "starting" else TRY_AGAIN_LATER), str(exc)
    except TooManyRequests as exc:
        code, reason = TRY_AGAIN_LATER, str(exc)
    if service.running_parts is not None:
        service.running_parts.hub.delivery.closed[code] += 1
    await socket.close(code, fitting(reason))


def limited(interest: Interest, asking: Principal) -> Interest:
    """The interest without cameras that the token is not for. Pure."""
    return replace(interest, cameras=asking.cameras) if interest.cameras is None else interest


def _while_good(service: Service, asking: Principal, on_end: Callable[[], None]) -> AbstractContextManager[None]:
    """Within it, `on_end` is called once the token is revoked or expires."""
    return nullcontext() if service.tokens is None else service.tokens.session(asking.token, on_end)


def fitting(reason: str) -> str:
    """What of a reason fits into a close frame (RFC 6455, 5.5); cut between words, unless one of them is most of it."""
    text = reason.encode()
    if len(text) <= REASON_BYTES:
        return reason
    cut = text[: REASON_BYTES - len("…".encode())].decode(errors="ignore")
    words = cut.rpartition(" ")[0]
    return f"{words if 2 * len(words) > len(cut) else cut}…"


async def _serve(socket: WebSocket, query: StreamQuery, service: Service, parts: Parts, asking: Principal) -> None:
    """Subscribe, and stay until the client is gone or the hub has closed the connection."""
    ids = (camera.settings.id for camera in parts.registry.cameras())
    names = [camera_id for camera_id in ids if asking.sees(camera_id)]
    form, delivery = query.interest.form, parts.hub.delivery
    outlet = outlet_of(socket) or AsgiOutlet(socket)
    with (
        parts.hub.subscribed(
            limited(query.interest, asking),
            query.since,
            outlet=outlet,
            greeting=Message(encode(hello_message(names), form), form),
            patience_s=socket.app.state.stand_still_s,
        ) as subscription,
        _while_good(service, asking, lambda: delivery.close(subscription, UNAUTHORIZED, TOKEN_ENDED)),
    ):
        code = await (outlet.run() if isinstance(outlet, AsgiOutlet) else until_gone(socket))
        if code in SAID_TOO_MUCH:
            delivery.closed[code] += 1
