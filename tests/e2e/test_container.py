"""The CPU image as it is deployed: not root, nothing writable but its volume, and a camera's boxes over WebSocket.

It runs what `scripts/build_image.sh` built last, and is skipped where that cannot run or was built from other code.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from app.commands.clips import render_clip
from app.simulator.process import SimulatorProcess
from tests.support.ports import free_port
from tests.support.wait import wait_in_thread

# In a process of its own: containers are children of pytest, and what other tests' libraries made of it is not theirs.
pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]
STORAGE = ROOT / ".cache" / "container" / "storage.conf"
IMAGE = "localhost/vidette:cpu"
TOKEN = secrets.token_urlsafe(16)
START_S = 60.0
STOP_S = 10.0
ENVIRON = {**os.environ, "CONTAINERS_STORAGE_CONF": str(STORAGE)}
RUN = (
    "podman",
    "--runtime=runc",
    "--cgroup-manager=cgroupfs",
    "run",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1000:1000",
)
CONFINED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
# The digest of all of our code that is in the image; the same in both places.
DIGEST = """
import hashlib, pathlib, sys
digest = hashlib.sha256()
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    digest.update(path.read_bytes())
print(digest.hexdigest())
"""


def podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"podman {arguments[0]}: {done.stderr}"
    return done.stdout.strip()


def code_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Container:
    """The running service."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, scope: str) -> dict[str, str]:
        """The header for a new token, made as its user makes one."""
        return {"Authorization": f"Bearer {self.run('vidette', 'token', 'create', '--scope', scope).stdout.strip()}"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside it, whatever comes of it."""
        return subprocess.run(
            ["podman", "exec", self.name, *command],
            env=ENVIRON,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def inspect(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(podman("inspect", self.name))[0]
        return described

    def log(self) -> str:
        done = subprocess.run(["podman", "logs", self.name], env=ENVIRON, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def ready(self) -> bool:
        assert self.inspect()["State"]["Status"] == "running", self.log()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def image() -> str:
    missing = [tool for tool in ("podman", "runc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"containers need root and {', '.join(missing) or 'podman, runc'}")
    if not STORAGE.is_file():
        pytest.skip("there is no image; scripts/build_image.sh builds it")
    command = ("sh", IMAGE, "-c", 'exec python -c "$0" /opt/vidette/lib/python3*/site-packages/app', DIGEST)
    built = subprocess.run(
        [*RUN, "--rm", "--network=none", "--entrypoint", *command],
        env=ENVIRON,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    if built.stdout.strip() != code_digest(ROOT / "app"):
        pytest.skip("the image was built from other code; scripts/build_image.sh builds it anew")
    return IMAGE


@pytest.fixture(scope="module")
def container(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The service as docker-compose.yml runs it, with a secret for its metrics, on this machine's network."""
    secret = tmp_path_factory.mktemp("secrets")
    (secret / "vidette_metrics__token").write_text(TOKEN)
    secret.chmod(0o755)
    container = Container(name=f"vidette-test-{secrets.token_hex(4)}", port=free_port())
    settings = ("--env=VIDETTE_SERVER__HOST=127.0.0.1", f"--env=VIDETTE_SERVER__PORT={container.port}")
    volumes = (f"--volume={container.name}:/data", f"--volume={secret}:/run/secrets:ro")
    subprocess.run(
        [*RUN, "--detach", f"--name={container.name}", "--network=host", *CONFINED, *settings, *volumes, image],
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    try:
        wait_in_thread(container.ready, START_S, what="the container is ready", every_s=0.1)
        yield container
    finally:
        podman("rm", "--force", "--volumes", container.name)
        podman("volume", "rm", "--force", container.name)


@pytest.fixture(scope="module")
def camera(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated RTSP camera, registered with the container."""
    clip = render_clip(tmp_path_factory.mktemp("clips") / "street.mp4", "street", seconds=4.0)
    with SimulatorProcess([clip], cameras=1) as simulator:
        body = {"id": "street", "url": simulator.url("cam0")}
        headers = container.token("admin")
        httpx.post(f"{container.url}/api/v1/cameras", json=body, headers=headers, timeout=10).raise_for_status()
        yield "street"


def test_process_is_not_root_and_has_no_capability(container: Container) -> None:
    identity = container.run("python", "-c", "import os; print(os.getuid(), os.getgid())")
    assert identity.stdout.split() == ["10001", "10001"]
    status = container.run("cat", "/proc/1/status").stdout
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert {fields[name].strip() for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1"


def test_nothing_but_the_volume_can_be_written(container: Container) -> None:
    for folder in ("/", "/tmp", "/etc/vidette", "/models", "/opt/vidette"):
        refused = container.run("touch", f"{folder}/mark")
        assert refused.returncode != 0 and "Read-only file system" in refused.stderr, folder
    assert container.run("touch", "/data/mark").returncode == 0


def test_no_compiler_and_no_package_installer_is_in_the_environment(container: Container) -> None:
    for tool in ("gcc", "cc", "g++", "pip", "make"):
        assert container.run("sh", "-c", f"command -v {tool}").returncode != 0, tool
    assert container.run("python", "-m", "pip", "--version").returncode != 0


def test_the_image_holds_the_bill_of_its_packages(container: Container) -> None:
    bill = json.loads(container.run("cat", "/opt/vidette/share/doc/vidette/sbom.cdx.json").stdout)
    assert bill["bomFormat"] == "CycloneDX"
    assert {"av", "cryptography", "openvino"} <= {component["name"] for component in bill["components"]}


def test_health_check_of_the_image_says_ready(container: Container) -> None:
    command = container.inspect()["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    health = container.run(*command[1:])
    assert (health.returncode, health.stdout.split()[0]) == (0, "200"), health
    refused = container.run("env", f"VIDETTE_SERVER__PORT={free_port()}", *command[1:])
    assert refused.returncode == 1 and "does not answer" in refused.stdout


def test_metrics_ask_for_the_token_in_the_secrets_folder(container: Container) -> None:
    metrics = f"{container.url}/metrics"
    assert httpx.get(metrics, timeout=10).status_code == 401
    answer = httpx.get(metrics, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    assert answer.status_code == 200 and "vidette_contexts" in answer.text


def test_the_api_asks_for_a_token_unless_told_otherwise(container: Container) -> None:
    assert httpx.get(f"{container.url}/api/v1/cameras", timeout=10).status_code == 401
    answer = httpx.get(f"{container.url}/api/v1/cameras", headers=container.token("read"), timeout=10)
    assert answer.status_code == 200


def test_boxes_of_a_camera_come_over_websocket_and_sigterm_ends_it_in_time(container: Container, camera: str) -> None:
    labels: set[str] = set()
    url = f"ws://127.0.0.1:{container.port}/api/v1/ws/detections?camera={camera}&empty=false"
    with connect(url, additional_headers=container.token("read")) as stream:
        while not labels:
            message = json.loads(stream.recv(timeout=30))
            if message["type"] == "detections":
                labels = {found["label"] for found in message["detections"]}
                assert (message["camera_id"], message["model"]) == ("street", "vidette-demo")
        began_at = time.monotonic()
        podman("kill", "--signal", "TERM", container.name)
        with pytest.raises(ConnectionClosedOK) as closed:
            while True:
                stream.recv(timeout=STOP_S)
    code = int(podman("wait", container.name))
    took_s = time.monotonic() - began_at
    assert labels <= {"person", "bicycle", "car", "bus", "truck", "dog"}
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    assert code == 0, container.log()
    assert took_s < STOP_S
