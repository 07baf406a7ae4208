"""Known secrets, taken out of text wherever they appear."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from app.cameras.urls import REMOVED, encode_user_info, redact

_MIN_SECRET_LENGTH = 4
_NOTHING: tuple[tuple[int, ...], set[str]] = ((), set())


class Redactor:
    """A set of known secrets, to be removed from text wherever they appear. Thread-safe.

    Each is known plain, percent-encoded and escaped as in JSON and `repr`. One that is shorter than four characters
    is left to `redact`, since it would tear holes into unrelated text.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: Counter[str] = Counter()  # two cameras may share a password
        self._known: Counter[str] = Counter()  # forms of secrets, which two of them may share
        # Forms by how they begin, and their lengths, longest first, so that none is torn by a shorter one inside it. A
        # pattern of all of them would be made anew for each secret, and tried at each place of a text.
        self._heads: dict[str, tuple[tuple[int, ...], set[str]]] = {}

    def add(self, secret: str | None) -> None:
        """Know a secret from now on. Count one `discard` for each `add`."""
        if secret is not None and len(secret) >= _MIN_SECRET_LENGTH:
            with self._lock:
                self._secrets[secret] += 1
                if self._secrets[secret] == 1:
                    for form in set(_forms(secret)):
                        self._know(form)

    def discard(self, secret: str | None) -> None:
        """Forget a secret once nobody else added it too."""
        with self._lock:
            if secret is not None and secret in self._secrets:
                self._secrets[secret] -= 1
                if not self._secrets[secret]:
                    del self._secrets[secret]
                    for form in set(_forms(secret)):
                        self._forget(form)

    def redact(self, text: str) -> str:
        """Remove URL user information and every known secret from `text`."""
        text = redact(text)
        heads = self._heads
        if not heads:
            return text
        kept: list[str] = []
        start = at = 0
        while at <= len(text) - _MIN_SECRET_LENGTH:
            lengths, forms = heads.get(text[at : at + _MIN_SECRET_LENGTH], _NOTHING)
            found = next((length for length in lengths if text[at : at + length] in forms), 0)
            if found:
                kept += (text[start:at], REMOVED)
                start = at + found
            at += found or 1
        return "".join((*kept, text[start:]))

    def _know(self, form: str) -> None:
        self._known[form] += 1
        if self._known[form] == 1:
            head = form[:_MIN_SECRET_LENGTH]
            lengths, forms = self._heads.get(head, ((), set()))
            forms.add(form)
            if len(form) not in lengths:
                self._heads[head] = tuple(sorted((*lengths, len(form)), reverse=True)), forms

    def _forget(self, form: str) -> None:
        self._known[form] -= 1
        if not self._known[form]:
            del self._known[form]
            head = form[:_MIN_SECRET_LENGTH]
            forms = self._heads[head][1]
            forms.discard(form)
            if not forms:
                del self._heads[head]


def _forms(secret: str) -> Iterator[str]:
    quoted = quote(secret, safe="", errors="surrogatepass")
    yield secret
    yield encode_user_info(secret, colon=True)
    yield encode_user_info(secret, colon=False)
    yield quoted
    yield quote_plus(secret, errors="surrogatepass")
    yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
