"""Tokens: their text, their hash, their rows, and the decisions of the table."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.auth.admin_file import read_admin_token
from app.auth.database import TokenDatabase
from app.auth.failures import MAX_CLIENTS, MAX_FAILURES, WINDOW_S, FailureLimit
from app.auth.rules import RULES, Need, Principal, check, check_change
from app.auth.tokens import new_token, recognise, secret_sha256, split, without_secrets
from app.cameras.database import FILE_NAME, MIGRATIONS, open_database
from app.cameras.settings import CameraSettings
from app.errors import ConfigError, Forbidden, StoreError, TokenNotFound, TooManyFailures
from tests.support.fakes import FakeClock

NOW = 1_795_000_000.0


# Text


def test_a_token_s_text_carries_its_id_and_256_bits_that_are_kept_nowhere() -> None:
    token, text = new_token("read", now_utc=NOW)
    parts = split(text)
    assert parts is not None
    assert parts[0] == token.id
    assert len(bytes.fromhex(parts[1])) == 32
    assert token.secret_sha256 == hashlib.sha256(parts[1].encode()).digest()
    assert parts[1] not in repr(token)
    assert new_token("read", now_utc=NOW)[1] != text


@pytest.mark.parametrize("text", ["", "vdt_", "vdt_a_b", f"vdt__{'0' * 64}", f"vdt_a_{'0' * 63}", f"vdt_a_{'0' * 65}"])
def test_what_is_no_token_s_text_is_malformed(text: str) -> None:
    assert split(text) is None
    assert recognise(text, {}, now_utc=NOW) == "malformed"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, None),
        ({"expires_utc": NOW + 1}, None),
        ({"expires_utc": NOW}, "expired"),
        ({"revoked_utc": NOW - 9, "expires_utc": NOW - 5}, "revoked"),
    ],
)
def test_a_token_is_good_until_it_expires_or_is_revoked(fields: dict[str, Any], found: str | None) -> None:
    token, text = new_token("read", now_utc=NOW - 10, expires_utc=fields.get("expires_utc"))
    token = replace(token, **fields)
    assert recognise(text, {token.id: token}, now_utc=NOW) == (found or token)


def test_that_a_token_is_over_is_told_only_to_who_knows_its_secret() -> None:
    token, text = new_token("read", now_utc=NOW, expires_utc=NOW - 1)
    wrong = f"vdt_{token.id}_{'0' * 64}"
    assert recognise(wrong, {token.id: token}, now_utc=NOW) == "unknown"
    assert recognise(text, {token.id: token}, now_utc=NOW) == "expired"
    assert recognise(None, {token.id: token}, now_utc=NOW) == "missing"


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    token, text = new_token("read", now_utc=NOW)
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("app.auth.tokens.hmac.compare_digest", compare)
    assert recognise(text, {token.id: token}, now_utc=NOW) is token
    assert compared == [(token.secret_sha256, token.secret_sha256)]


def test_secrets_are_taken_out_of_text() -> None:
    _, text = new_token("read", now_utc=NOW)
    token_id, secret = text.split("_")[1:]
    for around in ("{}", "GET /ws?token={}&a=b", '"{}"', "<{}>", "{0} {0}"):
        shown = without_secrets(around.format(text))
        assert secret not in shown
        assert shown == around.format(f"vdt_{token_id}_***")
    assert without_secrets("vdt_ is how tokens begin, as in vdt_<id>_<secret>") == (
        "vdt_ is how tokens begin, as in vdt_<id>_<secret>"
    )


# On disk


def test_every_field_of_a_token_comes_back(data_dir: Path) -> None:
    full, _ = new_token("operate", now_utc=NOW, cameras=["b", "a"], name="Tür", expires_utc=NOW + 60)
    plain, _ = new_token("admin", now_utc=NOW + 1)
    with closing(TokenDatabase(data_dir)) as database:
        database.add(full)
        database.add(plain)
        assert database.all() == [full, plain]
    with closing(TokenDatabase(data_dir)) as database:
        assert database.all() == [full, plain]


def test_tokens_are_made_and_revoked_beside_a_service(data_dir: Path) -> None:
    token, _ = new_token("read", now_utc=NOW)
    with closing(open_database(data_dir)), closing(TokenDatabase(data_dir)) as reader:  # the service holds the folder
        before = reader.version()
        with closing(TokenDatabase(data_dir)) as writer:
            writer.add(token)
            assert reader.version() != before
            assert reader.all() == [token]
            writer.revoke(token.id, now_utc=NOW + 5)
            writer.revoke(token.id, now_utc=NOW + 9)
            with pytest.raises(TokenNotFound, match="there is no token 'nobody'"):
                writer.revoke("nobody", now_utc=NOW)
        assert [each.revoked_utc for each in reader.all()] == [NOW + 5]


def test_a_database_of_an_older_version_is_brought_up_to_date(data_dir: Path) -> None:
    open_database(data_dir).close()
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as db:
        db.execute("DROP TABLE tokens")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
    with closing(TokenDatabase(data_dir)) as database:
        assert database.all() == []


def test_an_older_vidette_at_work_is_not_disturbed(data_dir: Path) -> None:
    with closing(open_database(data_dir)):
        with closing(sqlite3.connect(data_dir / FILE_NAME)) as db:
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
        with pytest.raises(StoreError, match="is in use by another Vidette"):
            TokenDatabase(data_dir)


@pytest.mark.parametrize(("column", "value"), [("scope", "root"), ("cameras", "{not json")])
def test_a_row_that_is_no_token_opens_nothing(data_dir: Path, column: str, value: str) -> None:
    token, _ = new_token("read", now_utc=NOW)
    with closing(TokenDatabase(data_dir)) as database:
        database.add(token)
        with closing(sqlite3.connect(data_dir / FILE_NAME)) as db, db:
            db.execute(f"UPDATE tokens SET {column} = ?", (value,))
        with pytest.raises(StoreError, match=rf"the {column} of the token '{token.id}'"):
            database.all()


@pytest.mark.parametrize("content", [b"", b"hunter2", b"\xff\xfe", f"vdt_a_{'0' * 64} x".encode()])
def test_an_admin_file_must_hold_a_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^auth.admin_token_file: .*(must hold one token|is not a text file)"):
        read_admin_token(tmp_path / "token")
    with pytest.raises(ConfigError, match=r"^auth.admin_token_file: .* cannot be read: No such file"):
        read_admin_token(tmp_path / "nothing")


def test_an_admin_file_may_end_in_a_line_break(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"vdt_setup_{'a' * 64}\n")
    token = read_admin_token(tmp_path / "token")
    assert (token.id, token.scope, token.secret_sha256) == ("setup", "admin", secret_sha256("a" * 64))


# Rules


def test_every_rule_needs_something_that_there_is() -> None:
    assert set(RULES.values()) == {"open", "read", "operate", "admin", "metrics"}
    assert all(need != "open" for line, need in RULES.items() if "/api/" in line)


def test_a_scope_includes_those_before_it_and_a_list_only_its_cameras() -> None:
    operate = Principal(scope="operate", cameras=frozenset({"a"}))
    check("read", operate, "a")
    check("operate", operate, None)
    refused: list[tuple[Need, str | None]] = [("admin", "a"), ("read", "b"), ("metrics", None)]
    for need, camera_id in refused:
        with pytest.raises(Forbidden):
            check(need, operate, camera_id)


def test_an_admin_may_change_an_address() -> None:
    stored = CameraSettings(id="a", name="a", url="rtsp://camera.test/1")
    check_change(Principal(scope="admin"), stored, {"url": "rtsp://other.test/"}, whole=False)
    with pytest.raises(Forbidden, match=r"^url: only a token of the scope admin may change this$"):
        check_change(Principal(scope="operate"), stored, {"url": "rtsp://other.test/"}, whole=False)


# The limit of failures


def test_operate_does_not_clear_a_password_that_cannot_be_read_now() -> None:
    stored = CameraSettings(id="a", name="a", url="rtsp://camera.test/", unreadable=frozenset({"password"}))
    with pytest.raises(Forbidden, match=r"^password: "):
        check_change(Principal(scope="operate"), stored, {"password": None}, whole=False)


def test_a_client_has_ten_wrong_tokens_a_minute() -> None:
    clock = FakeClock()
    limit = FailureLimit(clock)
    for _ in range(MAX_FAILURES):
        limit.failed("192.0.2.7", "unknown")
        clock.advance(1)
    with pytest.raises(TooManyFailures) as caught:
        limit.failed("192.0.2.7", "malformed")
    assert caught.value.wait_s == WINDOW_S - MAX_FAILURES
    limit.failed("192.0.2.8", "unknown")
    clock.advance(caught.value.wait_s)
    limit.failed("192.0.2.7", "unknown")
    assert limit.counts == {
        "missing": 0, "malformed": 0, "unknown": 12, "expired": 0, "revoked": 0, "limited": 1
    }  # fmt: skip


def test_what_is_no_guess_is_counted_and_not_limited() -> None:
    limit = FailureLimit(FakeClock())
    for _ in range(3 * MAX_FAILURES):
        for reason in ("missing", "expired", "revoked"):
            limit.failed("192.0.2.7", reason)
    assert len(limit) == 0
    assert limit.counts["expired"] == 3 * MAX_FAILURES


def test_many_clients_take_no_more_room_than_there_is() -> None:
    limit = FailureLimit(FakeClock())
    for number in range(MAX_CLIENTS + 100):
        limit.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "unknown")
    assert len(limit) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("192.0.2.7", "192.0.2.8", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_network_is_one_client(one: str, other: str, same: bool) -> None:
    limit = FailureLimit(FakeClock())
    limit.failed(one, "unknown")
    limit.failed(other, "unknown")
    assert len(limit) == (1 if same else 2)
