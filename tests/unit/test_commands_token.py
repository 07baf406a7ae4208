"""`vidette token create|list|revoke`: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.auth.database import TokenDatabase
from app.auth.known import LOOK_EVERY_S
from app.auth.tokens import Token, recognise
from app.cameras.database import FILE_NAME, open_database
from app.cli import main
from app.commands.token import expiry
from app.errors import ConfigError

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z


def token(*arguments: str, data_dir: Path) -> int:
    return main(["token", *arguments, "--data-dir", str(data_dir)])


def stored(data_dir: Path) -> list[Token]:
    with closing(TokenDatabase(data_dir)) as database:
        return database.all()


def made(capsys: pytest.CaptureFixture[str], data_dir: Path, *arguments: str) -> dict[str, Any]:
    assert token("create", *arguments, "--json", data_dir=data_dir) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_create_prints_the_token_alone_and_once(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    assert token("create", "--scope", "read", "--camera", "gate-1", "--name", "wall", data_dir=data_dir) == 0
    printed = capsys.readouterr()
    text = printed.out.strip()
    assert printed.out == f"{text}\n"
    (kept,) = stored(data_dir)
    assert recognise(text, {kept.id: kept}, now_utc=NOW) is kept
    assert (kept.scope, kept.cameras, kept.name, kept.expires_utc) == ("read", frozenset({"gate-1"}), "wall", None)
    secret = text.split("_")[2]
    assert secret not in printed.err
    assert f"token {kept.id}: read, gate-1. Keep it: it is not shown again." in printed.err
    assert token("list", data_dir=data_dir) == 0
    assert secret not in capsys.readouterr().out
    assert secret.encode() not in (data_dir / FILE_NAME).read_bytes()
    assert stat.S_IMODE((data_dir / FILE_NAME).stat().st_mode) == 0o600


def test_json_has_every_field(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    printed = made(capsys, data_dir, "--scope", "operate", "--camera", "b", "--camera", "a", "--expires", "2100-01-31")
    assert set(printed) == {
        "id", "scope", "cameras", "name", "created_at", "expires_at", "revoked_at", "state", "token"
    }  # fmt: skip
    assert (printed["scope"], printed["cameras"], printed["name"]) == ("operate", ["a", "b"], None)
    assert (printed["expires_at"], printed["revoked_at"], printed["state"]) == (
        "2100-01-31T00:00:00.000Z",
        None,
        "active",
    )
    assert token("list", "--json", data_dir=data_dir) == 0
    assert json.loads(capsys.readouterr().out) == [{key: value for key, value in printed.items() if key != "token"}]


def test_a_revoked_token_stays_in_the_list(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    first, second = (made(capsys, data_dir, "--scope", "read", "--name", name) for name in ("one", "two"))
    assert token("revoke", first["id"], data_dir=data_dir) == 0
    assert capsys.readouterr().out.startswith(f"token {first['id']} is revoked")
    assert token("revoke", second["token"], "--json", data_dir=data_dir) == 0  # somebody who has only the token
    assert json.loads(capsys.readouterr().out) == {"id": second["id"], "revoked": True}
    assert token("list", data_dir=data_dir) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "scope", "cameras", "name", "created", "expires", "state"]
    assert [row.split()[-1] for row in rows] == ["revoked", "revoked"]


def test_all_of_it_works_while_a_service_holds_the_folder(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    with closing(open_database(data_dir)):
        printed = made(capsys, data_dir, "--scope", "admin")
        began_at = time.monotonic()
        assert token("revoke", printed["id"], data_dir=data_dir) == 0
        assert time.monotonic() - began_at > LOOK_EVERY_S  # by then the service has looked
        assert [each.revoked_utc is None for each in stored(data_dir)] == [False]


def test_an_empty_list_says_how_to_make_one(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    assert token("list", data_dir=data_dir) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "there is no token; `vidette token create` makes one\n")
    assert token("list", "--json", data_dir=data_dir) == 0
    assert capsys.readouterr().out == "[]\n"
    assert token("revoke", "1a2b3c", data_dir=data_dir) == 1
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["create", "--scope", "read", "--camera", "Gate 1"], 2, "--camera: 'Gate 1' cannot be a camera's id"),
        (["create", "--scope", "read", "--name", ""], 2, "--name: must have 1 to 128 characters"),
        (["create", "--scope", "read", "--name", "a\nb"], 2, "--name: must have 1 to 128 characters"),
        (["create", "--scope", "read", "--expires", "soon"], 2, "--expires: must be like 30m, 12h, 90d or 2027-01-31"),
        (["create", "--scope", "read", "--expires", "2001-01-01"], 2, "--expires: 2001-01-01 is not in the next"),
        (["revoke", "nobody"], 1, "there is no token 'nobody'; `vidette token list` shows those there are"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    capsys: pytest.CaptureFixture[str], data_dir: Path, arguments: list[str], code: int, sentence: str
) -> None:
    assert token(*arguments, data_dir=data_dir) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(f"vidette: {sentence}")
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [[], ["create"], ["create", "--scope", "root"], ["revoke"]])
def test_bad_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", *arguments])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "after_s"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("2026-11-19", 46_400),
        ("2026-11-18T11:30Z", 1400),
    ],
)
def test_an_expiry_is_a_time_from_now_or_a_date(text: str, after_s: float) -> None:
    assert expiry(text, now_utc=NOW) == NOW + after_s


@pytest.mark.parametrize("text", ["0d", "-1d", "1w", "", "9999999999d", "99999d", "2026-13-01", "now", "1.5h"])
def test_an_expiry_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--expires: "):
        expiry(text, now_utc=NOW)
