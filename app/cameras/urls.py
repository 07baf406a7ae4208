"""Which camera URLs are taken, what they say, and how their secrets stay out of text. Pure: nothing is looked up."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

Scheme = Literal["rtsp", "rtsps", "file"]

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}
# FFmpeg cuts a path at 1023 bytes without a word, and user:password at 127 (see `with_credentials`).
MAX_URL_BYTES = 1000
MAX_CREDENTIAL_BYTES = 127

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # lone surrogates cannot be sent either
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST_NAME = re.compile(r"""[^\s/?#@:%\[\]\\"'<>^`{|}$&;,()!*+=]+""")
_HOST_PORT = re.compile(r"(\[[^\[\]/?#@]*\]|[^\[\]/?#@:]*)(?::([^/?#@:]*))?")
_AUTHORITY_END = re.compile(r"[/?#]")

REMOVED = "***"
_URL_TEXT = re.compile(r"""(rtsps?://)([^\s"<>]*)@""", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"""(authorization["']?\s*[:=,]\s*b?["']?(?:basic|bearer|digest))\s[^\r\n]*""", re.IGNORECASE
)
_URL_AUTHORITY = re.compile(r"(rtsps?://)[^\s/]*@", re.IGNORECASE)
_SECRET_NAME = (
    r"((?:password|passwd|passwort|passwrd|passphrase|pass|pas|pwd|psw|token|secret|authbasic|api_?key|access_?key"
    r"|(?<![a-z])(?:pw|auth|key))=)"
)
_QUERY_SECRET = re.compile(rf"""{_SECRET_NAME}[^\s&"'<>;]+""", re.IGNORECASE)
_URL_SECRET = re.compile(rf"{_SECRET_NAME}([^&]+)", re.IGNORECASE)  # in a URL alone, which no text follows


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraUrl:
    """A camera's address, its credentials apart. `url` never holds any; `repr` never shows what is secret."""

    scheme: Scheme
    url: str  # without user information, otherwise as it was given
    host: str = ""  # no brackets around IPv6; empty for a file
    port: int = 0  # the scheme's own when the URL names none; 0 for a file
    path: Path | None = None  # the file, symlinks resolved; None for a stream
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"CameraUrl({masked(self.url)}, username={self.username!r})"

    @property
    def address(self) -> str:
        """What messages call the camera: host and port, or the file's name. Holds no path, query or credentials."""
        if self.path is not None:
            return self.path.name
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_camera_url(text: str, *, media_dir: Path | None = None) -> CameraUrl:
    """Check `text` and take it apart.

    rtsp and rtsps name a host, and may carry user:password, percent-encoded or, where it can be told apart, raw: the
    last `@` before the host ends them. A file must lie below `media_dir` after symlinks are resolved; `file:a.mp4` is
    relative to it. Raises ValueError with a sentence that starts with `url:` and repeats nothing secret; sources turn
    it into `SourceError(forbidden_url)`, the API into a field error.
    """
    if _CONTROL.search(text):
        raise ValueError("url: must not contain line breaks or other control characters")
    text = text.strip()
    if len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise ValueError(f"url: must be at most {MAX_URL_BYTES} bytes long")
    if text[:5].lower() == "file:":
        return _parse_file(text[5:], media_dir)
    match = _SCHEME.match(text)
    if match is None:
        raise ValueError("url: must start with rtsp:// or rtsps://")
    scheme = match.group(1).lower()
    if scheme == "rtsp":
        return _parse_stream("rtsp", text[match.end() :])
    if scheme == "rtsps":
        return _parse_stream("rtsps", text[match.end() :])
    raise ValueError(f"url: scheme must be rtsp or rtsps, not {scheme}")


def with_credentials(camera: CameraUrl, username: str | None, password: str | None) -> str:
    """Give the URL that FFmpeg opens: user:password encoded as it decodes them, and the host as DNS knows it.

    Only what would end the user information early is encoded, because FFmpeg keeps at most 127 bytes of it. Raises
    ValueError when they cannot be sent: too long, or control characters, which would end up in the request.
    """
    rest = camera.url.partition("://")[2]
    _, host_port, tail = _split_authority(rest)
    if camera.host and not camera.host.isascii():
        host_port = host_port.replace(camera.host, camera.host.encode("idna").decode("ascii"))
    if not username and not password:
        return f"{camera.scheme}://{host_port}{tail}"
    check_credentials(username, password)
    user_info = f"{encode_user_info(username or '', colon=True)}:{encode_user_info(password or '', colon=False)}"
    return f"{camera.scheme}://{user_info}@{host_port}{tail}"


def at_address(camera: CameraUrl, address: str) -> CameraUrl:
    """The same camera by one of its host's addresses, so that nobody looks the name up again."""
    _, host_port, tail = _split_authority(camera.url.partition("://")[2])
    port = host_port.rpartition(":")[2] if host_port != camera.host else ""
    host = f"[{address}]" if ":" in address else address
    return replace(camera, url=f"{camera.scheme}://{host}{':' if port else ''}{port}{tail}", host=address)


def check_credentials(username: str | None, password: str | None) -> None:
    """Raise ValueError with a sentence when FFmpeg could not send these to a camera."""
    if _CONTROL.search(username or ""):
        raise ValueError("username: must not contain control characters")
    if _CONTROL.search(password or ""):
        raise ValueError("password: must not contain control characters")
    if ":" in (username or ""):
        raise ValueError("username: must not contain a colon")  # Basic and Digest both end the name there
    sent = f"{encode_user_info(username or '', colon=True)}:{encode_user_info(password or '', colon=False)}"
    if len(sent.encode("utf-8", "surrogatepass")) > MAX_CREDENTIAL_BYTES:
        raise ValueError(
            f"password: username and password must fit into {MAX_CREDENTIAL_BYTES - 1} bytes together, "
            "where each of %@/?# counts as three"
        )


def encode_user_info(text: str, *, colon: bool) -> str:
    """Percent-encode only what would end a username (`colon`) or a password in a URL early."""
    return re.sub(r"[%@/?# :]" if colon else r"[%@/?# ]", lambda match: f"%{ord(match[0]):02X}", text)


def _parse_stream(scheme: Literal["rtsp", "rtsps"], rest: str) -> CameraUrl:
    user_info, host_port, tail = _split_authority(rest)
    host, port = _parse_host_port(host_port)
    if tail.startswith("#"):  # a fragment is never sent, and after a bare host it could be taken for user information
        tail = ""
    username, password = _parse_user_info(user_info) if user_info is not None else (None, None)
    check_credentials(username, password)
    return CameraUrl(
        scheme=scheme,
        url=f"{scheme}://{host_port}{tail.replace(' ', '%20')}",
        host=host,
        port=port or DEFAULT_PORTS[scheme],
        username=username,
        password=password,
    )


def _split_authority(rest: str) -> tuple[str | None, str, str]:
    """Split what follows `://` into user information, host and port, and the rest."""
    for user_info, host_port, tail in _readings(rest):
        if _is_host_port(host_port):
            return user_info, host_port, tail
    # Nothing reads well: the strict reading gives the error message its reason.
    return next(_readings(rest))


def _readings(rest: str) -> Iterator[tuple[str | None, str, str]]:
    # A RTSP URL has no fragment, so `#` is tried as a part of the password before it ends the host.
    for end_marks in ("/?", "/?#"):
        ends = [index for mark in end_marks if (index := rest.find(mark)) >= 0]
        end = min(ends, default=len(rest))
        user_info, at, host_port = rest[:end].rpartition("@")
        yield (user_info if at else None), host_port, rest[end:]
    # Unescaped `/` or `?` in a password: the first `@` that a plausible host follows.
    for match in re.finditer("@", rest):
        after = rest[match.end() :]
        end_match = _AUTHORITY_END.search(after)
        end = end_match.start() if end_match else len(after)
        if ":" in rest[: match.start()]:
            yield rest[: match.start()], after[:end], after[end:]


def _is_host_port(text: str) -> bool:
    try:
        _parse_host_port(text)
    except ValueError:
        return False
    return True


def _parse_host_port(text: str) -> tuple[str, int | None]:
    match = _HOST_PORT.fullmatch(text)
    # The text is never repeated: with a strange password it may be a part of one.
    if match is None:
        raise ValueError("url: host is not a valid name or address")
    host, port = match.groups()
    if not host:
        raise ValueError("url: host is missing")
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError("url: port must be a number from 1 to 65535")
    return _parse_host(host), None if port is None else int(port)


def _parse_host(host: str) -> str:
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("url: host in brackets must be an IPv6 address") from None
        return host[1:-1]
    try:
        known = host.encode("idna")
    except UnicodeError:
        known = b""
    if not known or len(known) > 253 or not _HOST_NAME.fullmatch(host):
        raise ValueError("url: host is not a valid name or address")
    return host


def _parse_user_info(text: str) -> tuple[str | None, str | None]:
    username, colon, password = text.partition(":")
    return _decode(username) or None, _decode(password) if colon else None


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return unquote(text, encoding="latin-1")


def _parse_file(rest: str, media_dir: Path | None) -> CameraUrl:
    if media_dir is None:
        raise ValueError("url: scheme must be rtsp or rtsps, not file, because media_dir is not set")
    if rest.startswith("//"):
        host, slash, below = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError("url: a file is named by file:///full/path or by file:path below media_dir")
        rest = slash + below
    name = _decode(rest)
    if _CONTROL.search(name):
        raise ValueError("url: must not contain line breaks or other control characters")
    root = Path(os.path.realpath(media_dir))
    path = Path(os.path.realpath(root / name))  # not `resolve`, which raises for links that lead in a circle
    if not path.is_relative_to(root) or path == root:
        raise ValueError("url: a file must lie below media_dir")
    return CameraUrl(scheme="file", url=f"file://{quote(str(path))}", path=path)


def masked(url: str) -> str:
    """A camera's URL, free of credentials before its host, without the values of `password=` and its like."""
    return _URL_SECRET.sub(rf"\1{REMOVED}", url)


def is_masked(url: str) -> bool:
    """Whether `masked` has taken something out of this URL."""
    return any(match[0].endswith(f"={REMOVED}") for match in _URL_SECRET.finditer(url))


def concealed(url: str) -> str:
    """`masked`, for a URL that may hold credentials still, however they are written."""
    scheme, _, rest = url.partition("://")
    shown, at, host = rest.rpartition("@")
    return masked(f"{scheme}://{REMOVED}@{host}" if at and ":" in shown else url)


def query_secrets(url: str) -> tuple[str, ...]:
    """What `masked` takes out of this URL, as it stands there and as it is meant."""
    values = [match[2] for match in _URL_SECRET.finditer(url) if match[2] != REMOVED]
    return tuple(dict.fromkeys(form for value in values for form in (value, unquote(value))))


def redact(text: str) -> str:
    """Remove the user information of every RTSP URL in free text, and the values of `password=` and its like.

    When in doubt it removes too much: everything from `://` to the last `@` of a word that could hold user:password.
    """
    if "uthorization" in text or "UTHORIZATION" in text:
        text = _AUTHORIZATION.sub(rf"\1 {REMOVED}", text)
    if "=" in text:
        text = _QUERY_SECRET.sub(rf"\1{REMOVED}", text)
    if "@" not in text:
        return text
    text = _URL_AUTHORITY.sub(r"\1", text)
    return _URL_TEXT.sub(lambda match: match[1] if ":" in match[2] else match[0], text)
