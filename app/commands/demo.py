"""`vidette demo`: the service with four simulated live cameras, which register as any camera would: by REST."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from app.allocator import keep_memory_flat
from app.auth.database import TokenDatabase
from app.auth.tokens import bearer, new_token
from app.commands.clips import demo_clips
from app.commands.progress import Progress
from app.commands.serve import leave, outcome, watch_the_clock
from app.commands.wall import Row, Wall, row
from app.errors import AppError
from app.logs import configure_logging
from app.main import create_app
from app.server import Server, listen, make_server
from app.service import Service
from app.settings import ServerSettings, Settings
from app.simulator.process import SimulatorProcess

FLAPPING = "yard"
FLAP_EVERY_S = 20
LABELS = {"demo": "true"}
# Long for four cameras on one core; it counts from the moment when the service is ready.
CAMERAS_TIMEOUT_S = 60.0
# Of the demo's own token, which a demo that is killed leaves behind.
TOKEN_S = 24 * 3600.0
_POLL_S = 0.1
_SIGNAL_S = 0.5
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def demo(settings: Settings, *, seconds: float | None = None) -> int:
    """Run until SIGTERM or Ctrl-C, or for `seconds` after all cameras run. 0 after a stop, 1 when it broke.

    Everything it writes is below `<data_dir>/demo`, so that a user's cameras are untouched.
    """
    began_at = time.monotonic()
    cameras = settings.cameras.model_copy(update={"declared": ()})
    settings = settings.model_copy(update={"data_dir": settings.data_dir / "demo", "cameras": cameras})
    sock = listen(settings.server, settings.auth)
    # Before the engine measures itself, which it could not do beside this work.
    with Progress() as progress:
        clips = demo_clips(settings.data_dir / "clips", progress)
    with Wall() as wall:
        # The table says what ails a camera; a level that differs from the default was asked for.
        configure_logging("error" if settings.log.level == "info" else settings.log.level, settings.log.format)
        keep_memory_flat()
        app = create_app(settings)
        service: Service = app.state.service
        service.on_stopping = watch_the_clock
        server = make_server(app, service)
        token = own_token(settings)
        guide = Guide(
            _url(sock, settings.server),
            token=token,
            clips=clips,
            wall=wall,
            server=server,
            began_at=began_at,
            seconds=seconds,
        )
        guide.start()
        try:
            server.run(sockets=[sock])
        finally:
            guide.stop()
            sock.close()
    code = outcome(service)
    if guide.error is not None:
        raise guide.error
    return leave(code, abandoned=service.abandoned_threads)


def own_token(settings: Settings) -> str | None:
    """The text of a token for the demo's own requests and for its user; None where none is asked for."""
    if settings.auth.mode == "none":
        return None
    now_utc = time.time()
    token, text = new_token("admin", now_utc=now_utc, name="vidette demo", expires_utc=now_utc + TOKEN_S)
    with closing(TokenDatabase(settings.data_dir, key_file=settings.secrets.key_file)) as database:
        database.add(token)
    return text


def _url(sock: socket.socket, server: ServerSettings) -> str:
    """Where a program on this machine reaches what `sock` accepts."""
    scheme = "http" if server.tls_cert_file is None else "https"
    host, port = sock.getsockname()[:2]
    host = _ANYWHERE.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Guide:
    """Does with the service what its user would do, in a thread beside the server, and ends the server when told to."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        clips: Mapping[str, Path],
        wall: Wall,
        server: Server,
        began_at: float,
        seconds: float | None,
    ) -> None:
        self.error: AppError | None = None
        self._url = url
        self._token = token
        self._clips = clips
        self._wall = wall
        self._server = server
        self._seconds = seconds
        self._began_at = began_at
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo:guide")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the cameras and the thread. To be called when the server has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with (
                SimulatorProcess() as simulator,
                # trust_env: a proxy that the environment names is not for our own loopback. verify: nobody is between
                # us and our own port, for which the certificate need not have a name.
                httpx.Client(
                    base_url=self._url, timeout=10.0, trust_env=False, verify=False, headers=bearer(self._token)
                ) as client,
            ):
                self._tour(simulator, Visitor(client))
                # The cameras outlive the service, which would else spend its last moments on retries.
                self._stopped.wait()
        except AppError as exc:
            # A Ctrl-C ends the simulator too, perhaps before the server has heard of it.
            self._stopped.wait(_SIGNAL_S)
            if not self._ending:
                self.error = exc
        except httpx.HTTPError as exc:
            if not self._ending:
                self.error = AppError(f"the demo's own service does not answer: {exc}")
        finally:
            self._server.should_exit = True

    def _tour(self, simulator: SimulatorProcess, visitor: Visitor) -> None:
        urls = {name: simulator.add_camera(name, clip) for name, clip in self._clips.items()}
        if not self._wait(visitor.ready, None):
            return
        visitor.register(urls)
        print(_addresses(self._url, self._token), flush=True)
        if not self._wait(lambda: visitor.running() == len(urls), CAMERAS_TIMEOUT_S):
            if not self._ending:
                raise AppError(f"the demo's cameras did not run within {CAMERAS_TIMEOUT_S:g} s: {visitor.complaint()}")
            return
        took_s = time.monotonic() - self._began_at
        print(f"{len(urls)} cameras running ({took_s:.1f} s after the start)", flush=True)
        print(f"{FLAPPING} loses its connection every {FLAP_EVERY_S} s, on purpose; Ctrl-C ends the demo\n", flush=True)
        simulator.set_fault(FLAPPING, f"flap={FLAP_EVERY_S}")
        ends_at = None if self._seconds is None else time.monotonic() + self._seconds
        while not self._ending and (ends_at is None or time.monotonic() < ends_at):
            self._wall.show(visitor.rows())
            self._stopped.wait(self._wall.interval_s)
        self._server.should_exit = True

    @property
    def _ending(self) -> bool:
        return self._stopped.is_set() or self._server.should_exit

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Ask until the condition holds; False when the time is up or the demo ends."""
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ending and (ends_at is None or time.monotonic() < ends_at):
            if condition():
                return True
            self._stopped.wait(_POLL_S)
        return False


class Visitor:
    """The demo's REST client. Raises `httpx.HTTPError` when the service answers with an error, or not at all."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._seen: dict[str, int] = {}

    def ready(self) -> bool:
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.ConnectError:  # the server starts to listen before it can accept
            return False

    def register(self, urls: Mapping[str, str]) -> None:
        """Register the demo's cameras; those of an earlier demo that was killed go first."""
        for camera in self._cameras():
            self._client.delete(f"/api/v1/cameras/{camera['id']}").raise_for_status()
        for name, url in urls.items():
            body = {"id": f"demo-{name}", "name": name, "url": url, "labels": LABELS}
            # force: what a small machine cannot carry shows in the table.
            self._client.post("/api/v1/cameras", params={"force": True}, json=body).raise_for_status()

    def running(self) -> int:
        """How many demo cameras run and have had a frame inferred."""
        published = (camera["status"]["frames"]["published"] > 0 for camera in self._cameras() if _runs(camera))
        return sum(published)

    def complaint(self) -> str:
        """What the cameras that do not run say of themselves."""
        errors = {camera["name"]: camera["status"]["error"] for camera in self._cameras() if not _runs(camera)}
        return "; ".join(f"{name}: {error['message'] if error else 'no frame'}" for name, error in errors.items()) or (
            "they run, but no frame was inferred"
        )

    def rows(self) -> list[Row]:
        return [self._row(camera) for camera in self._cameras()]

    def _row(self, camera: Mapping[str, Any]) -> Row:
        camera_id = camera["id"]
        query = {"limit": 200, **({"since_seq": self._seen[camera_id]} if camera_id in self._seen else {})}
        results = self._get(f"/api/v1/cameras/{camera_id}/detections", query)
        if results:
            self._seen[camera_id] = results[-1]["seq"]
        return row(camera, results, len(results[-1]["detections"]) if results else None)

    def _cameras(self) -> list[dict[str, Any]]:
        """The demo's cameras; a user may have registered others beside them."""
        return [camera for camera in self._get("/api/v1/cameras") if camera["labels"] == LABELS]

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._client.get(path, params=query).raise_for_status().json()
        return answer


def _runs(camera: Mapping[str, Any]) -> bool:
    return bool(camera["status"]["state"] == "running")


def _addresses(url: str, token: str | None) -> str:
    header = "" if token is None else " -H 'Authorization: Bearer '$TOKEN"
    lines = (
        f"console   {url}/",
        f"API docs  {url}/docs",
        f"metrics   {url}/metrics",
        f"cameras   curl -s {url}/api/v1/cameras{header}",
        f"boxes     curl -s {url}/api/v1/detections/latest{header}",
    )
    return "\n".join((*lines, *(() if token is None else (f"token     {token}",))))
