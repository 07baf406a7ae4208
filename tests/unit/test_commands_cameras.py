"""`vidette export|import|backup|restore` on a data folder: sentences, exit codes, and what is left behind."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.cameras.database import open_database
from app.cameras.settings import CameraSettings
from tests.support.command import run_command

ROOT = Path(__file__).resolve().parents[2]
FILE = """\
cameras:
  - {id: gate-1, url: "rtsp://admin:hunter2@camera.test/1"}
  - {id: door, url: "rtsp://camera.test/2", priority: 9}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("VIDETTE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cameras_yml(tmp_path: Path) -> str:
    (tmp_path / "cameras.yml").write_text(FILE)
    return "cameras.yml"


def vidette(data_dir: Path, *arguments: str) -> int:
    return run_command(*arguments, "--data-dir", str(data_dir))


def stored(data_dir: Path) -> list[CameraSettings]:
    with closing(open_database(data_dir)) as database:
        return database.all()


def test_an_import_twice_is_an_import_once(
    data_dir: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, "import", cameras_yml) == 0
    assert capsys.readouterr().out == "imported: 2 new, 0 changed, 0 as they were\n"
    before = stored(data_dir)
    assert vidette(data_dir, "import", cameras_yml) == 0
    assert capsys.readouterr().out == "imported: 0 new, 0 changed, 2 as they were\n"
    assert stored(data_dir) == before
    assert [(each.id, each.username, each.priority) for each in before] == [("gate-1", "admin", 5), ("door", None, 9)]


def test_one_bad_camera_stops_an_import_before_the_first_good_one(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yml").write_text(FILE + '  - {id: c, url: "http://camera.test/3"}\n')
    assert vidette(data_dir, "import", "bad.yml") == 2
    assert capsys.readouterr().err == "vidette: cameras[2].url: scheme must be rtsp or rtsps, not http\n"
    assert not data_dir.exists()


def test_a_dry_run_tells_and_changes_nothing(
    data_dir: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, "import", cameras_yml, "--dry-run") == 0
    assert capsys.readouterr().out == "would import: 2 new, 0 changed, 0 as they were\n"
    assert not data_dir.exists()
    with closing(open_database(data_dir)) as running:  # a service that runs is no obstacle
        assert vidette(data_dir, "import", cameras_yml, "--dry-run", "--json") == 0
        assert json.loads(capsys.readouterr().out)["new"] == ["gate-1", "door"]
        assert running.all() == []


def test_a_folder_that_a_service_uses_is_not_imported_into(
    data_dir: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(open_database(data_dir)):
        assert vidette(data_dir, "import", cameras_yml) == 2
    message = capsys.readouterr().err
    assert "is in use by another Vidette" in message
    assert "--url" in message


def test_an_export_goes_to_stdout_or_into_a_private_file(
    data_dir: Path, tmp_path: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vidette(data_dir, "import", cameras_yml)
    capsys.readouterr()
    assert vidette(data_dir, "export") == 0
    told = capsys.readouterr()
    assert "hunter2" not in told.out
    assert told.err == "vidette: left out the password of gate-1 (--with-secrets writes it)\n"
    assert vidette(data_dir, "export", "--with-secrets", "--out", "out.yml") == 0
    assert capsys.readouterr() == ("", "")
    assert "password: hunter2" in (tmp_path / "out.yml").read_text()
    assert stat.S_IMODE((tmp_path / "out.yml").stat().st_mode) == 0o600
    assert vidette(tmp_path / "new", "import", "out.yml") == 0
    assert stored(tmp_path / "new") == stored(data_dir)


def test_an_export_needs_no_service_that_stands_still(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(open_database(data_dir)) as running:
        running.apply(put=[CameraSettings(id="gate-1", name="Gate", url="rtsp://camera.test/1")])
        assert vidette(data_dir, "export") == 0
    assert "id: gate-1" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["missing/out.yml", "file/out.yml"])
def test_an_export_that_cannot_be_written_is_a_sentence(
    data_dir: Path, tmp_path: Path, cameras_yml: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    vidette(data_dir, "import", cameras_yml)
    assert vidette(data_dir, "export", "--out", out) == 2
    assert f"vidette: --out: {out} cannot be written: " in capsys.readouterr().err


def test_backup_and_restore_say_what_they_did(
    data_dir: Path, tmp_path: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vidette(data_dir, "import", cameras_yml)
    capsys.readouterr()
    assert vidette(data_dir, "backup", "cameras.db") == 0
    told = capsys.readouterr()
    assert told.out == "cameras.db holds 2 cameras, with their passwords, encrypted\n"
    key = data_dir / "secret.key"
    assert told.err == f"vidette: the key of the passwords is not in the backup: keep {key} too, in another place\n"
    assert vidette(data_dir, "backup", "cameras.db") == 2
    assert capsys.readouterr().err == "vidette: cameras.db: there is a file already; --force replaces it\n"
    assert vidette(data_dir, "backup", "cameras.db", "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": "cameras.db", "cameras": 2}
    new = tmp_path / "new"
    assert vidette(new, "restore", "cameras.db") == 0
    told = capsys.readouterr()
    assert told.out == f"{new} has 2 cameras again\n"
    assert told.err == (
        f"vidette: the passwords of gate-1 need the key that they were stored with, at {new}/secret.key\n"
    )
    shutil.copy(data_dir / "secret.key", new)
    assert vidette(new, "restore", "cameras.db") == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert stored(new) == stored(data_dir)


def test_a_container_needs_no_file_inside_it(data_dir: Path, tmp_path: Path, cameras_yml: str) -> None:
    def run(folder: Path, *command: str, given: bytes = b"") -> bytes:
        line = [sys.executable, "-m", "app", *command, "--data-dir", str(folder)]
        done = subprocess.run(line, input=given, capture_output=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(data_dir, "import", "-", given=FILE.encode())
    backup = run(data_dir, "backup", "-")
    assert backup.startswith(b"SQLite format 3\0")
    run(tmp_path / "new", "restore", "-", given=backup)
    shutil.copy(data_dir / "secret.key", tmp_path / "new")
    assert stored(tmp_path / "new") == stored(data_dir)
    assert len(stored(data_dir)) == 2


@pytest.mark.parametrize("command", [["export"], ["backup", "x.db"]])
def test_a_folder_without_a_database_is_named(
    data_dir: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, *command) == 2
    assert capsys.readouterr().err == f"vidette: {data_dir}/vidette.db: there is no camera database\n"


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1"])
def test_a_service_is_named_by_its_url(
    data_dir: Path, cameras_yml: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, "import", cameras_yml, "--url", url) == 2
    assert capsys.readouterr().err.startswith("vidette: --url: must start with http:// or https://")


@pytest.mark.parametrize("url", ["http://admin:hunter2/", "http://[::1", "http://admin:hunter2@127.0.0.1:port"])
def test_a_url_that_is_none_is_refused_without_its_words(
    data_dir: Path, cameras_yml: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, "import", cameras_yml, "--url", url) == 2
    assert capsys.readouterr().err == "vidette: --url: must be a host and a port, as in http://127.0.0.1:8080\n"


def test_the_login_of_a_proxy_is_in_no_message(
    data_dir: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert vidette(data_dir, "import", cameras_yml, "--url", f"http://admin:hunter2@127.0.0.1:{port}/vidette/") == 1
    assert capsys.readouterr().err.startswith(f"vidette: http://127.0.0.1:{port}/vidette does not answer: ")


@pytest.fixture
def other_service(request: pytest.FixtureRequest) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "other_service", [b"<html>", b"5", b'["x"]', b'{"a": 1}', b'[{"id": "gate-1"}]', b"[{}]"], indirect=True
)
def test_a_service_that_is_another_one_is_told_apart(
    data_dir: Path, cameras_yml: str, other_service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidette(data_dir, "import", cameras_yml, "--url", other_service) == 1
    assert capsys.readouterr().err.startswith(f"vidette: {other_service} is not Vidette: its answer ")


def test_a_new_key_opens_everything_and_the_old_one_nothing(
    data_dir: Path, cameras_yml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vidette(data_dir, "import", cameras_yml)
    key, before = data_dir / "secret.key", stored(data_dir)
    old = key.read_bytes()
    capsys.readouterr()
    assert vidette(data_dir, "rekey") == 0
    assert capsys.readouterr().out.startswith("the passwords of 2 cameras are encrypted with key ")
    assert key.read_bytes() != old
    assert stored(data_dir) == before
    key.write_bytes(old)
    assert vidette(data_dir, "rekey", "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["unreadable"] == ["gate-1"]
    assert told.err == "vidette: left gate-1 as they are: no key here reads them\n"
    assert vidette(data_dir, "export", "--with-secrets") == 1
    assert "the secrets of gate-1 cannot be read with the key in " in capsys.readouterr().err


def test_a_key_that_somebody_else_keeps_is_never_written_to(
    data_dir: Path, tmp_path: Path, cameras_yml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (base64.b64encode(os.urandom(32)) + b"\n" for _ in range(2))
    key = tmp_path / "elsewhere.key"
    key.write_bytes(old)
    key.chmod(0o600)
    monkeypatch.setenv("VIDETTE_SECRETS__KEY_FILE", str(key))
    vidette(data_dir, "import", cameras_yml)
    key.write_bytes(new + old)
    assert vidette(data_dir, "rekey") == 0
    assert key.read_bytes() == new + old
    key.write_bytes(new)
    assert vidette(data_dir, "export", "--with-secrets") == 0
    assert not (data_dir / "secret.key").exists()
