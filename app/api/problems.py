"""Errors as RFC 9457 problem documents, each with a stable code."""

from __future__ import annotations

import errno
import json
import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from app import errors
from app.sentences import field_errors

logger = logging.getLogger("vidette.api")
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN})
MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.AppError], tuple[int, str]] = {
    errors.Unauthorized: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.CameraNotFound: (404, "camera_not_found"),
    errors.CameraExists: (409, "camera_exists"),
    errors.CameraDeclared: (409, "camera_declared"),
    errors.OverCapacity: (409, "over_capacity"),
    errors.TooManyRequests: (429, "too_many_requests"),
    errors.NotReady: (503, "not_ready"),
    errors.PictureFailed: (503, "picture_failed"),
    errors.ResourceExhausted: (503, "resource_exhausted"),
    errors.StoreError: (503, "storage_unavailable"),
}
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Body too large",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available",
}
HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def problem(status: int, code: str, detail: str, **more: Any) -> Response:
    """A problem document. ASCII JSON, so that no text a client sent can break its encoding."""
    title = TITLES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, **more}
    headers = {429: {"Retry-After": "2"}, 503: {"Retry-After": "2"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return Response(json.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def invalid(fields: list[tuple[str, str]]) -> Response:
    """422 with every field that is wrong, by name."""
    listed = [{"field": field, "message": message} for field, message in fields]
    detail = "; ".join(f"{field}: {message}" for field, message in fields)
    return problem(422, "invalid_request", detail, errors=listed)


def exhausted(exc: Exception) -> bool:
    """Whether a request failed for want of memory, file descriptors, threads or disk: not its fault, nor a bug."""
    if isinstance(exc, RuntimeError):
        return "can't start new thread" in str(exc)
    return isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in _NO_RESOURCES)


def answer(exc: errors.AppError) -> Response:
    """The problem document of an error of ours; 500 for one that no client should meet."""
    if isinstance(exc, errors.InvalidField):
        return invalid([(exc.field, exc.message)])
    for kind, (status, code) in STATUS.items():
        if isinstance(exc, kind):
            return problem(status, code, str(exc))
    logger.error("a request failed", exc_info=exc)
    return _unforeseen()


def _unforeseen() -> Response:
    return problem(500, "internal", "the request failed for a reason nobody foresaw; the log has the details")


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""

    async def app_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, errors.AppError)
        return answer(exc)

    async def validation_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, (RequestValidationError, ValidationError))
        return invalid(list(field_errors(exc.errors())))

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 400:  # FastAPI could not read the body: nested too deep, or not even text
            return invalid([("body", "cannot be read as JSON")])
        code = HTTP_CODES.get(exc.status_code, "invalid_request")
        response = problem(exc.status_code, code, str(exc.detail))
        response.headers.update(exc.headers or {})
        return response

    async def unforeseen(request: Request, exc: Exception) -> Response:
        if exhausted(exc):
            return await app_error(request, errors.ResourceExhausted("no memory, descriptors or threads are left now"))
        logger.error("%s %s failed", request.method, request.url.path, exc_info=exc)
        return _unforeseen()

    app.add_exception_handler(errors.AppError, app_error)
    for kind in (MemoryError, OSError, RuntimeError):  # handled inside the middleware, so that the log stays quiet
        app.add_exception_handler(kind, unforeseen)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unforeseen)
