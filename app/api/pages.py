"""The console and the API's documentation: open to everybody, since they hold no data, and each with its own policy."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html

# Where FastAPI's pages get Swagger UI and ReDoc from.
_CDN = "https://cdn.jsdelivr.net"
_NO_ICON = "data:,"
_COMMON = "default-src 'none'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CONSOLE_POLICY = f"{_COMMON}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    content: str
    media_type: str = "text/html"
    policy: str = CONSOLE_POLICY


def read_pages() -> Mapping[str, Page]:
    """Every page by its path. Blocking: reads the console's files."""
    console = files("app.web")
    return {
        "/": Page(content=console.joinpath("index.html").read_text(encoding="utf-8")),
        "/console.js": Page(
            content=console.joinpath("console.js").read_text(encoding="utf-8"), media_type="text/javascript"
        ),
        "/console.css": Page(
            content=console.joinpath("console.css").read_text(encoding="utf-8"), media_type="text/css"
        ),
        "/docs": _documentation(
            get_swagger_ui_html(openapi_url="/openapi.json", title="Vidette", swagger_favicon_url=_NO_ICON).body
        ),
        "/redoc": _documentation(
            get_redoc_html(
                openapi_url="/openapi.json", title="Vidette", redoc_favicon_url=_NO_ICON, with_google_fonts=False
            ).body
        ),
    }


def router_of(pages: Mapping[str, Page]) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, page in pages.items():
        router.add_api_route(path, _answering(page), methods=["GET"], response_class=Response)
    return router


def _answering(page: Page) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(page.content, media_type=page.media_type)

    return answer


def _documentation(body: bytes | memoryview) -> Page:
    """A page of FastAPI's, whose one script of its own is allowed by its hash."""
    html = bytes(body).decode()
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _INLINE.findall(html)]
    own = "".join(f" 'sha256-{each}'" for each in hashes)
    policy = (
        f"{_COMMON}; script-src {_CDN}{own}; style-src {_CDN} 'unsafe-inline'; img-src 'self' data: https:; "
        "font-src data:; worker-src blob:"
    )
    return Page(content=html, policy=policy)
