"""What pydantic finds wrong, in sentences that name the field and repeat no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from app.cameras.urls import REMOVED, redact

# Parts of a pydantic error's place that name no field of ours.
NOISE = frozenset({"body", "query", "path", "int", "constrained-int", "literal['auto']"})
PLAIN_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "must be given",
    "json_invalid": "must be valid JSON",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "tuple_type": "must be a list",
}
_ENTRY = re.compile(r"^cameras(?:\.declared)?\.(\d+)")


def sentences(exc: ValidationError, *, prefix: str = "") -> list[str]:
    """One sentence for each error of a validation: `batching.max_size: must be at most 16, not 99`."""
    return [f"{prefix}{field}: {message}" for field, message in field_errors(exc.errors(include_url=False))]


def field_errors(errors: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(dotted field, message) of each pydantic error. A message never repeats a secret's value."""
    for error in errors:
        kind, message = error["type"], str(error["msg"])
        # A key may be anything that a client made up, such as a URL with a password in it.
        place = [REMOVED if "://" in str(part) else str(part) for part in error["loc"] if part not in NOISE]
        field = _ENTRY.sub(r"cameras[\1]", ".".join(place if kind != "json_invalid" else []) or "body")
        if kind in PLAIN_WORDS:
            message = PLAIN_WORDS[kind]
        elif kind == "too_long" and isinstance(error.get("input"), str):
            message = f"must be at most {error['ctx']['max_length']} characters long"
        elif kind == "too_short" and error.get("input") == "":
            message = "must not be empty"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        else:
            message = message[:1].lower() + message[1:]
            # A body that is only text may be a URL with a password in it.
            secretive = field == "body" or any(word in field for word in ("password", "token", "url"))
            given = error.get("input")
            if isinstance(given, (int, float, str)) and not secretive and "://" not in str(given):
                message += f", not {redact(str(given))[:80]!r}"
        yield field, message
