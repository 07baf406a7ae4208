"""The RTSP server that simulated cameras live in."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from app.simulator.auth import AuthGate, AuthScheme
from app.simulator.camera import Camera, CameraOptions, CameraStats
from app.simulator.clip import Clip
from app.simulator.errors import SimulatorError
from app.simulator.faults import CLIP_FAULTS, OK, Fault, FaultKind
from app.simulator.port import BlackHole
from app.simulator.session import Session
from app.simulator.tracks import UdpSockets

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REQUEST_LIMIT_BYTES = 128 * 1024
_STOP_TIMEOUT_S = 3.0
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server listens and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    auth: AuthScheme = "none"
    username: str = ""
    password: str = ""
    certificate: Path | None = None  # PEM; with `key` the server speaks RTSPS
    key: Path | None = None
    seed: int = 0
    max_backlog_bytes: int = 4_000_000  # unsent media held for one client
    send_buffer_bytes: int | None = None  # of each connection's socket; None: as the operating system likes
    report_interval_s: float = 5.0  # between RTCP sender reports


class RtspServer:
    """Serves simulated cameras over RTSP while its context is open; owns every socket, timer and task of theirs.

    All methods belong to the event loop's thread and never block it.
    """

    def __init__(self, options: ServerOptions | None = None, *, wall: Callable[[], float] = time.time) -> None:
        self._options = options or ServerOptions()
        self._wall = wall
        self._gate = AuthGate(
            scheme=self._options.auth,
            username=self._options.username,
            password=self._options.password,
            nonce=secrets.token_hex(16),
        )
        self._cameras: dict[str, Camera] = {}
        self._clips: dict[str, Clip] = {}
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._listener: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._port = 0  # kept while nobody listens on it
        self._hole: BlackHole | None = None
        self._returning: asyncio.Task[None] | None = None
        self._udp: UdpSockets | None = None

    async def __aenter__(self) -> RtspServer:
        options = self._options
        self._tls = _tls_context(options.certificate, options.key)
        try:
            if self._tls is None:  # plain RTP over UDP beside an encrypted connection would be a lie
                self._udp = await UdpSockets.open(options.host)
            await self._listen(options.port)
        except OSError as exc:
            if self._udp is not None:
                self._udp.close()
            raise SimulatorError(f"cannot listen on {options.host} port {options.port}: {exc.strerror or exc}") from exc
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop everybody and free every port. Idempotent; bounded by a few seconds."""
        # 1. Nobody new.
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        self._fill_hole()
        listener = self._hang_up()
        self._port = 0
        # 2. No more media, and nobody left: an aborted connection ends its own task.
        for name in tuple(self._cameras):
            self.remove_camera(name)
        for session in tuple(self._sessions.values()):
            session.abort()
        if self._sessions:
            _done, stuck = await asyncio.wait(self._sessions, timeout=_STOP_TIMEOUT_S)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        # 3. The sockets that were shared.
        if self._udp is not None:
            self._udp.close()
        if listener is not None:
            await listener.wait_closed()

    @property
    def port(self) -> int:
        """The port that it listens on, or that it will come back to."""
        if not self._port:
            raise SimulatorError("the simulator is not listening")
        return self._port

    @property
    def clips(self) -> tuple[str, ...]:
        return tuple(self._clips)

    def url(self, name: str, *, credentials: bool = False) -> str:
        """A camera's URL; with user name and password in it, percent-encoded, if asked."""
        self._camera(name)
        user = ""
        if credentials and self._options.auth != "none":
            user = f"{quote(self._options.username, safe='')}:{quote(self._options.password, safe='')}@"
        scheme = "rtsps" if self._options.certificate else "rtsp"
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"{scheme}://{user}{host}:{self.port}/{name}"

    def urls(self) -> dict[str, str]:
        """The URL of every camera, without credentials."""
        return {name: self.url(name) for name in self._cameras}

    def add_clip(self, clip: Clip) -> None:
        """Make a clip known by its name, for the fault `resolution=NAME`."""
        if self._clips.setdefault(clip.name, clip) is not clip:
            raise SimulatorError(f"there is another clip called {clip.name!r}")

    def add_camera(
        self, name: str, clip: Clip, *, phase_s: float = 0.0, audio_first: bool = False, sprop: bool = True
    ) -> None:
        """Start a camera that plays `clip` for ever; its first frame is due in `phase_s`."""
        if not self._port:
            raise SimulatorError("the simulator is not listening")
        if not _NAME.fullmatch(name):
            raise SimulatorError(f"camera name {name!r} is not made of letters, digits, dots, dashes and underscores")
        if name in self._cameras:
            raise SimulatorError(f"there is a camera {name} already")
        options = CameraOptions(
            phase_s=phase_s,
            audio_first=audio_first,
            sprop=sprop,
            seed=self._options.seed,
            max_backlog_bytes=self._options.max_backlog_bytes,
            report_interval_s=self._options.report_interval_s,
        )
        self._cameras[name] = Camera(name, clip, options, wall=self._wall)

    def remove_camera(self, name: str) -> None:
        """Drop a camera's clients and forget it; its URL then answers 404."""
        self._camera(name).close()
        del self._cameras[name]

    def set_fault(self, name: str, fault: Fault | str) -> None:
        """Start a fault of one camera, given as `Fault` or as text (`drop=0.05`); it ends the one before.

        `hole` and `restart` hit every camera of the server; whatever follows a `hole`, on any camera, ends it for all.
        """
        camera = self._camera(name)
        parsed = Fault.parse(fault) if isinstance(fault, str) else fault
        clip = self._clip_for(camera, parsed) if parsed.kind in CLIP_FAULTS else None
        if self._hole is not None:
            for each in self._cameras.values():
                each.set_fault(OK)
            self._come_back(after_s=0.0)
        if parsed.kind is FaultKind.HOLE:
            self._vanish(parsed)
        elif parsed.kind is FaultKind.RESTART:
            camera.set_fault(parsed)
            self._restart(parsed.amount)
        else:
            camera.set_fault(parsed, clip=clip)

    def stats(self) -> dict[str, CameraStats]:
        """What each camera has done so far."""
        return {name: camera.stats() for name, camera in self._cameras.items()}

    def _camera(self, name: str) -> Camera:
        camera = self._cameras.get(name)
        if camera is None:
            raise SimulatorError(f"there is no camera {name}; there are: {', '.join(self._cameras) or 'none'}")
        return camera

    def _clip_for(self, camera: Camera, fault: Fault) -> Clip:
        name, clip = fault.clip, self._clips.get(fault.clip)
        if clip is None:
            raise SimulatorError(f"there is no clip {name}; there are: {', '.join(self._clips) or 'none'}")
        if fault.kind is FaultKind.RESOLUTION and clip.codec != camera.codec:
            # The payload format was agreed on in SETUP; only a reconnect could change it.
            raise SimulatorError(f"camera {camera.name} sends {camera.codec}; clip {name} is {clip.codec}")
        return clip

    async def _listen(self, port: int) -> None:
        self._listener = await asyncio.start_server(
            self._accept, self._options.host, port, ssl=self._tls, limit=_REQUEST_LIMIT_BYTES
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    def _hang_up(self) -> asyncio.Server | None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        return listener

    def _vanish(self, fault: Fault) -> None:
        for camera in self._cameras.values():
            camera.set_fault(fault)
        self._stop_returning()
        self._hang_up()
        try:
            self._hole = BlackHole(self._options.host, self._port)
        except OSError as exc:
            raise SimulatorError(f"port {self._port} cannot be made a hole: {exc.strerror or exc}") from exc

    def _restart(self, seconds: float) -> None:
        self._hang_up()
        for session in tuple(self._sessions.values()):
            session.abort()
        self._come_back(after_s=seconds)

    def _come_back(self, *, after_s: float) -> None:
        self._stop_returning()
        self._fill_hole()
        self._returning = asyncio.get_running_loop().create_task(self._listen_later(after_s), name="simulator:return")

    async def _listen_later(self, seconds: float) -> None:
        for wait_s in itertools.chain([seconds], itertools.repeat(_RETRY_S)):
            await asyncio.sleep(wait_s)
            if await self._could_listen():
                return

    async def _could_listen(self) -> bool:
        try:
            await self._listen(self._port)
        except OSError:  # somebody took the port meanwhile, or its last connection has not quite ended
            return False
        return True

    def _stop_returning(self) -> None:
        if self._returning is not None:
            self._returning.cancel()

    def _fill_hole(self) -> None:
        hole, self._hole = self._hole, None
        if hole is not None:
            hole.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._options.send_buffer_bytes is not None:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._options.send_buffer_bytes)
        session_id = secrets.token_hex(4)
        session = Session(reader, writer, session_id=session_id, cameras=self._cameras, gate=self._gate, udp=self._udp)
        task = asyncio.get_running_loop().create_task(session.run(), name=f"simulator:session-{session_id}")
        self._sessions[task] = session
        task.add_done_callback(self._sessions.pop)


def _tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise SimulatorError(f"certificate {certificate} or its key cannot be used: {exc.strerror or exc}") from exc
    return context
