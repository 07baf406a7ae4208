"""What docker-compose.yml starts besides the service: the secrets' maker, the demo's cameras, the health check."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.auth.admin_file import read_admin_token
from app.auth.tokens import recognise
from app.settings import load_settings
from app.simulator.scenes import DEMO_SCENES
from deploy.compose import first_start
from tests.support.ports import free_port
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
TOKEN = f"vdt_setup_{'0' * 64}"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for secret in first_start.SECRETS:
        (tmp_path / secret.path).parent.mkdir()
    return tmp_path


def test_secrets_are_made_once_and_shown_once(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_start.main([str(volumes)]) == 0
    first = capsys.readouterr().out
    values = {secret.path: (volumes / secret.path).read_text() for secret in first_start.SECRETS}
    assert all(first.count(value) == 1 for value in values.values())
    assert first_start.main([str(volumes)]) == 0
    assert not any(value in capsys.readouterr().out for value in values.values())
    assert values == {path: (volumes / path).read_text() for path in values}
    # Every image has another user.
    assert {stat.S_IMODE((volumes / path).stat().st_mode) for path in values} == {0o444}


def test_own_secret_is_kept_and_an_empty_file_is_filled(volumes: Path) -> None:
    own, empty, _ = (volumes / secret.path for secret in first_start.SECRETS)
    own.write_text("mine")
    empty.touch()
    assert len(first_start.make_secrets(volumes)) == 2
    assert own.read_text() == "mine" and len(empty.read_text()) >= 20


def test_first_start_says_why_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_start.main([str(tmp_path)]) == 1  # the volumes are not mounted
    assert "the secrets cannot be written" in capsys.readouterr().err
    assert first_start.main([]) == 2


def test_service_takes_the_metrics_token_from_its_file(volumes: Path) -> None:
    first_start.make_secrets(volumes)
    token = load_settings(environ={}, secrets_dir=volumes / "metrics").metrics.token
    assert token is not None
    assert token.get_secret_value() == (volumes / "metrics" / "vidette_metrics__token").read_text()


def test_service_takes_the_admin_token_from_its_file(volumes: Path) -> None:
    first_start.make_secrets(volumes)
    token = read_admin_token(volumes / "api" / "admin_token")
    text = (volumes / "api" / "admin_token").read_text()
    assert (token.scope, token.cameras) == ("admin", None)
    assert recognise(text, {token.id: token}, now_utc=0) is token


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("service")
    auth = {"VIDETTE_AUTH__MODE": "token", "VIDETTE_AUTH__ADMIN_TOKEN_FILE": str(folder / "admin_token")}
    (folder / "admin_token").write_text(TOKEN)
    with ServeProcess(folder / "data", environ={**SETTLED, **auth}, token=TOKEN) as running:
        yield running


def test_demo_cameras_serve_and_register_themselves_once(service: ServeProcess, tmp_path: Path) -> None:
    port = free_port()
    script = [sys.executable, str(ROOT / "deploy" / "compose" / "cameras.py"), "--service", service.url]
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    script += ["--token-file", str(tmp_path / "token")]
    options = ["--host", LOOPBACK, "--port", str(port), "--at", f"rtsp://{LOOPBACK}:{port}", "--folder", str(tmp_path)]
    ids = sorted(f"demo-{name}" for name in DEMO_SCENES)
    for said in ("registered: " + ", ".join(DEMO_SCENES), "registered: none, all of them were"):
        with (tmp_path / "log").open("w+") as log:
            process = subprocess.Popen([*script, *options], cwd=ROOT, stdout=log, stderr=log)
            try:
                wait_in_thread(lambda: "registered" in (tmp_path / "log").read_text(), 60, every_s=0.1)
                service.wait_running(*ids)
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(20)
        assert code == 0
        assert said in (tmp_path / "log").read_text()
    assert sorted(camera["id"] for camera in service.get("/api/v1/cameras")) == ids


def test_health_check_follows_the_service(service: ServeProcess) -> None:
    def check(port: int) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "deploy" / "container" / "healthcheck.py")
        environ = {"VIDETTE_SERVER__PORT": str(port)}
        return subprocess.run(
            [sys.executable, "-I", script], env=environ, capture_output=True, text=True, timeout=30, check=False
        )

    well = check(httpx.URL(service.url).port or 0)
    assert (well.returncode, well.stdout.split()[0]) == (0, "200")
    gone = check(free_port())
    assert gone.returncode == 1 and "does not answer" in gone.stdout
