"""RTSP's Basic and Digest authentication (RFC 7617, RFC 7616), from the server's side."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Literal

AuthScheme = Literal["none", "basic", "digest"]

_REALM = "Simulated camera"
_DIGEST_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthGate:
    """Who may look at the cameras of one server."""

    scheme: AuthScheme = "none"
    username: str = ""
    password: str = field(default="", repr=False)
    nonce: str = ""

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        if self.scheme == "digest":
            return f'Digest realm="{_REALM}", nonce="{self.nonce}"'
        return f'Basic realm="{_REALM}"'

    def admits(self, method: str, authorization: str) -> bool:
        """Whether a request with this Authorization header ("" for none) may pass."""
        if self.scheme == "none":
            return True
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != self.scheme:
            return False
        return self._admits_basic(value) if self.scheme == "basic" else self._admits_digest(method, value)

    def _admits_basic(self, value: str) -> bool:
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:  # binascii's error, and that of text which is not ASCII
            return False
        return hmac.compare_digest(given, f"{self.username}:{self.password}".encode())

    def _admits_digest(self, method: str, value: str) -> bool:
        given = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _DIGEST_PARAMETER.findall(value)
        }
        if given.get("username") != self.username or given.get("nonce") != self.nonce:
            return False
        expected = digest_response(
            username=self.username,
            password=self.password,
            realm=_REALM,
            nonce=self.nonce,
            method=method,
            uri=given.get("uri", ""),
            counted=(given.get("nc", ""), given.get("cnonce", "")) if given.get("qop") == "auth" else None,
        )
        return hmac.compare_digest(given.get("response", "").encode(errors="replace"), expected.encode())


def digest_response(
    *,
    username: str,
    password: str,
    realm: str,
    nonce: str,
    method: str,
    uri: str,
    counted: tuple[str, str] | None = None,
) -> str:
    """Compute a digest (RFC 7616, 3.4.1, with MD5). `counted`: nc and cnonce where the client chose qop=auth."""
    secret = _md5(f"{username}:{realm}:{password}")
    request = _md5(f"{method}:{uri}")
    middle = f"{nonce}:{counted[0]}:{counted[1]}:auth" if counted else nonce
    return _md5(f"{secret}:{middle}:{request}")


def _md5(text: str) -> str:
    # MD5 is what cameras speak; nothing here depends on its strength.
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
