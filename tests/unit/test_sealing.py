"""Passwords at rest: sealed, bound to their camera, and not lost with a key that is missing or another one."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.cameras.database import APPLICATION_ID, FILE_NAME, MIGRATIONS, copy_in_memory, open_database
from app.cameras.sealing import SecretKeys, key_id, make_key_file, read_keys, write_key_file
from app.cameras.settings import CameraSettings
from app.errors import StoreError

OLD, NEW = os.urandom(32), os.urandom(32)
PASSWORD = "p@ss:w/rd?#%&+ \"'é\ud800"
SECRET_URL = "rtsp://camera.test/live?user=admin&password=hunter2-in-query"


def camera(camera_id: str = "gate-1", **fields: Any) -> CameraSettings:
    url = f"rtsp://camera.test/{camera_id}"
    return CameraSettings.model_validate({"id": camera_id, "name": camera_id, "url": url, **fields})


def password_of(settings: CameraSettings) -> str | None:
    return None if settings.password is None else settings.password.get_secret_value()


def content(data_dir: Path) -> dict[str, CameraSettings]:
    with closing(open_database(data_dir)) as database:
        return {each.id: each for each in database.all()}


def put(data_dir: Path, *cameras: CameraSettings) -> None:
    with closing(open_database(data_dir)) as database:
        database.apply(put=cameras)


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.name.startswith(FILE_NAME))


# Sealing


def test_what_is_sealed_comes_back_and_never_looks_the_same_twice() -> None:
    keys = SecretKeys([NEW])
    sealed = [keys.seal(PASSWORD, camera_id="a", field="password") for _ in range(2)]
    assert sealed[0] != sealed[1]
    assert all(each.startswith(f"v1.{key_id(NEW)}.") for each in sealed)
    assert all(keys.unseal(each, camera_id="a", field="password") == PASSWORD for each in sealed)


def test_the_first_key_seals_and_every_one_opens() -> None:
    sealed = SecretKeys([OLD]).seal("x", camera_id="a", field="password")
    both = SecretKeys([NEW, OLD])
    assert both.unseal(sealed, camera_id="a", field="password") == "x"
    assert both.seal("x", camera_id="a", field="password").startswith(f"v1.{key_id(NEW)}.")


@pytest.mark.parametrize(
    ("camera_id", "field", "keys", "change"),
    [
        ("b", "password", [NEW], lambda text: text),
        ("a", "url", [NEW], lambda text: text),
        ("a", "password", [OLD], lambda text: text),
        ("a", "password", [], lambda text: text),
        ("a", "password", [NEW], lambda text: text[:-8] + "AAAAAAAA"),
        ("a", "password", [NEW], lambda text: text[:20]),
        ("a", "password", [NEW], lambda text: text.replace("v1", "v2")),
        ("a", "password", [NEW], lambda text: "hunter2"),
        ("a", "password", [NEW], lambda text: ""),
    ],
)
def test_what_was_moved_or_changed_or_has_another_key_does_not_open(
    camera_id: str, field: str, keys: list[bytes], change: Any
) -> None:
    sealed = SecretKeys([NEW]).seal("x", camera_id="a", field="password")
    assert SecretKeys(keys).unseal(change(sealed), camera_id=camera_id, field=field) is None


def test_no_repr_shows_a_key() -> None:
    text = repr(SecretKeys([NEW]))
    assert text == f"SecretKeys({key_id(NEW)})"
    assert base64.b64encode(NEW).decode() not in text


# The key file


def test_a_key_file_is_made_for_us_alone(tmp_path: Path) -> None:
    make_key_file(tmp_path / "secret.key")
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert len(read_keys(tmp_path / "secret.key").ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"short", base64.b64encode(b"x" * 31), base64.b64encode(b"x" * 33), b"\xff" * 44, b"A" * 5000],
    ids=["empty", "blank", "no base64", "too short", "too long", "binary", "huge"],
)
def test_a_file_that_holds_no_key_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(
        StoreError, match="this is no key file; it holds one key a line, each 32 bytes in base64"
    ) as told:
        read_keys(path)
    assert str(told.value).startswith(f"{path}: ")


def test_a_key_that_everybody_may_read_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key_file(path, [NEW])
    path.chmod(0o644)
    with pytest.raises(StoreError, match=r"everybody may read this key \(mode 0644\); `chmod 600 "):
        read_keys(path)
    path.chmod(0o440)
    assert read_keys(path).ids == (key_id(NEW),)


def test_a_key_file_that_is_a_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the key file cannot be read: Is a directory"):
        read_keys(tmp_path)


# The database


def test_nothing_secret_is_in_the_file_or_its_journal(data_dir: Path) -> None:
    with closing(open_database(data_dir)) as database:
        database.apply(put=[camera(password="hunter2-in-field"), camera("b", url=SECRET_URL)])
        assert b"hunter2" not in bytes_in(data_dir)
        assert [each.url for each in database.all()] == ["rtsp://camera.test/gate-1", SECRET_URL]
    assert b"hunter2" not in bytes_in(data_dir)
    assert b"password=***" in bytes_in(data_dir)


def old_database(data_dir: Path) -> None:
    """A database as version 2 left it: plain passwords, also of cameras that were changed or removed since."""
    data_dir.mkdir()
    with closing(sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in (*MIGRATIONS[:2], f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 2"):
            db.execute(statement)
        add = "INSERT INTO cameras (id, settings, password) VALUES (?, ?, ?)"
        for number in range(100):
            settings = '{"name": "x", "url": "rtsp://h/?token=hunter2-in-url"}'
            db.execute(add, (f"gone-{number}", settings, f"hunter2-gone-{number}" * 50))
        db.execute("DELETE FROM cameras")
        db.execute(add, ("gate-1", '{"name": "x", "url": "rtsp://h/1"}', "hunter2-in-field"))
        db.execute(add, ("query", f'{{"name": "x", "url": "{SECRET_URL}"}}', None))
        db.execute(add, ("empty", '{"name": "x", "url": "rtsp://h/2"}', ""))
        db.execute(add, ("none", '{"name": "x", "url": "rtsp://h/3"}', None))


def test_an_old_database_is_sealed_and_its_plain_bytes_are_gone(data_dir: Path) -> None:
    old_database(data_dir)
    assert b"hunter2" in bytes_in(data_dir)
    cameras = content(data_dir)
    assert b"hunter2" not in bytes_in(data_dir)
    passwords = {name: password_of(each) for name, each in cameras.items()}
    assert passwords == {"gate-1": "hunter2-in-field", "query": None, "empty": "", "none": None}
    assert cameras["query"].url == SECRET_URL
    assert content(data_dir) == cameras


def test_a_crash_between_sealing_and_wiping_is_made_good_at_the_next_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_database(data_dir)
    with monkeypatch.context() as broken:
        broken.setattr("app.cameras.database.CameraDatabase.wipe", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_database(data_dir)
    assert password_of(content(data_dir)["gate-1"]) == "hunter2-in-field"
    assert b"hunter2" not in bytes_in(data_dir)


def test_without_a_key_an_old_database_stays_as_it_is(data_dir: Path, tmp_path: Path) -> None:
    old_database(data_dir)
    with closing(open_database(data_dir, key_file=tmp_path / "missing")) as database:
        assert password_of(database.all()[0]) == "hunter2-in-field"
        with pytest.raises(StoreError, match="there is no key, so no password can be stored"):
            database.apply(put=[camera(password="new")])
    assert not (tmp_path / "missing").exists()
    assert password_of(content(data_dir)["gate-1"]) == "hunter2-in-field"


@pytest.mark.parametrize("other", [None, NEW], ids=["missing", "another"])
def test_a_lost_key_loses_nothing(data_dir: Path, other: bytes | None) -> None:
    key = data_dir / "secret.key"
    put(data_dir, camera(password="hunter2"), camera("query", url=SECRET_URL), camera("open"))
    original = key.read_bytes()
    key.unlink()
    if other is not None:
        write_key_file(key, [other])
    locked = content(data_dir)
    assert {name: set(each.unreadable) for name, each in locked.items()} == {
        "gate-1": {"password"},
        "query": {"url"},
        "open": set(),
    }
    assert locked["gate-1"].password_set
    assert locked["query"].url == "rtsp://camera.test/live?user=admin&password=***"
    # Other fields may change meanwhile, and a new password mends its camera.
    put(data_dir, locked["gate-1"].model_copy(update={"priority": 9}), locked["query"])
    put(data_dir, camera("open", password="new"))
    meanwhile = key.read_bytes()
    key.write_bytes(original + meanwhile)
    back = content(data_dir)
    assert (password_of(back["gate-1"]), back["gate-1"].priority) == ("hunter2", 9)
    assert back["query"].url == SECRET_URL
    assert password_of(back["open"]) == "new"
    assert not any(each.unreadable for each in back.values())


def test_a_copy_for_an_export_is_read_with_the_key_and_makes_none(data_dir: Path) -> None:
    put(data_dir, camera(password="hunter2"))
    with closing(copy_in_memory(data_dir)) as copy:
        assert password_of(copy.all()[0]) == "hunter2"
    (data_dir / "secret.key").unlink()
    with closing(copy_in_memory(data_dir)) as copy:
        assert copy.all()[0].unreadable == {"password"}
    assert not (data_dir / "secret.key").exists()


def test_a_reader_in_the_way_puts_the_wiping_off_to_the_next_start(data_dir: Path) -> None:
    old_database(data_dir)
    with closing(sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM cameras").fetchone()  # holds the journal as it was
        assert password_of(content(data_dir)["gate-1"]) == "hunter2-in-field"
        assert b"hunter2" in bytes_in(data_dir)
    assert password_of(content(data_dir)["gate-1"]) == "hunter2-in-field"
    assert b"hunter2" not in bytes_in(data_dir)


def test_a_file_system_without_modes_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_key_file(path, [NEW])
    path.chmod(0o777)
    monkeypatch.setattr("app.cameras.sealing._keeps_modes", lambda folder: False)
    assert read_keys(path).ids == (key_id(NEW),)
