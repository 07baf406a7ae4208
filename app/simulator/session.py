"""One client's RTSP connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.simulator.auth import AuthGate
from app.simulator.camera import Camera
from app.simulator.faults import FaultKind
from app.simulator.rtsp import (
    BadRequest,
    InterleavedTransport,
    Request,
    Response,
    UdpTransport,
    choose_transport,
    parse_request,
)
from app.simulator.tracks import InterleavedSink, LiveTrack, MediaSink, UdpSink, UdpSockets

_CLOSE_TIMEOUT_S = 1.0
_TRICKLE_S = 0.25  # a byte
_SILENT = frozenset({FaultKind.MUTE, FaultKind.VANISH, FaultKind.HOLE})
_SESSION_TIMEOUT_S = 60
_PUBLIC = {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"}


@dataclass(frozen=True, slots=True)
class _Ready:
    """A track that was set up and waits for PLAY."""

    track: LiveTrack
    sink: MediaSink


class Session:
    """Answers requests until the connection ends. Decisions are made in `_answer`, which awaits nothing.

    So the answer to PLAY is written before the first packet.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        session_id: str,
        cameras: Mapping[str, Camera],
        gate: AuthGate,
        udp: UdpSockets | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._id = session_id
        self._cameras = cameras
        self._gate = gate
        self._udp = udp
        self._camera: Camera | None = None
        self._ready: dict[str, _Ready] = {}
        self._methods: dict[str, Callable[[Camera, str, Request], Response]] = {
            "DESCRIBE": self._describe,
            "SETUP": self._set_up,
            "PLAY": self._play,
            "GET_PARAMETER": self._keep_alive,
            "SET_PARAMETER": self._keep_alive,
            "TEARDOWN": self._tear_down,
        }

    async def run(self) -> None:
        """Serve until the client or the camera ends it. A broken connection is no error: clients come and go."""
        try:
            while await self._serve_request():
                pass
        except (EOFError, asyncio.LimitOverrunError, ConnectionError, ssl.SSLError, BadRequest):
            self.abort()
        finally:
            self._leave()
            await self._close()

    def abort(self) -> None:
        self._writer.transport.abort()

    def finish(self) -> None:
        self._writer.close()

    def vanish(self) -> None:
        # The kernel keeps the socket and acknowledges what comes, until its buffer is full.
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        # Whoever comes back from the dead answers the old connection's packets with RST, not with FIN.
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _serve_request(self) -> bool:
        first = await self._reader.readexactly(1)
        if first == b"$":  # the client's RTCP
            header = await self._reader.readexactly(3)
            await self._reader.readexactly(int.from_bytes(header[1:], "big"))
            return True
        request = parse_request(first + await self._reader.readuntil(b"\r\n\r\n"))
        await self._reader.readexactly(request.body_bytes)
        response = self._answer(request)
        if response is None:
            return True
        if self._camera is not None and self._camera.fault.kind is FaultKind.TRICKLE:
            await self._trickle(response.encode(request))
        else:
            self._writer.write(response.encode(request))
        await self._writer.drain()  # a client that takes nothing gets to ask for nothing more
        return not response.ends_connection

    async def _trickle(self, data: bytes) -> None:
        for byte in data:
            if self._writer.is_closing():
                raise ConnectionResetError
            self._writer.write(bytes([byte]))
            await asyncio.sleep(_TRICKLE_S)

    def _answer(self, request: Request) -> Response | None:
        """Decide what to say; None is silence."""
        name, control = request.target()
        camera = self._cameras.get(name)
        fault = FaultKind.MISSING if camera is None else camera.fault.kind
        self._attach(camera)
        if fault in _SILENT:
            if fault is not FaultKind.MUTE:
                self.vanish()
            return None
        if request.method == "OPTIONS":
            return Response(status=200, headers=_PUBLIC)
        if fault is FaultKind.UNAUTHORIZED or not self._gate.admits(request.method, request.header("authorization")):
            return Response(status=401, headers={"WWW-Authenticate": self._gate.challenge})
        if camera is None or fault is FaultKind.MISSING:
            return Response(status=404)
        if fault is FaultKind.REFUSE:
            return Response(status=503)
        method = self._methods.get(request.method)
        if method is None:
            return Response(status=405, headers={"Allow": _PUBLIC["Public"]})
        return method(camera, control, request)

    def _describe(self, camera: Camera, control: str, request: Request) -> Response:
        headers = {"Content-Base": request.url.split("?")[0].rstrip("/") + "/", "Content-Type": "application/sdp"}
        return Response(status=200, headers=headers, body=camera.describe())

    def _set_up(self, camera: Camera, control: str, request: Request) -> Response:
        track = camera.track(control)
        if track is None:
            return Response(status=404)
        transport = choose_transport(request.header("transport"), allow_udp=self._udp is not None)
        ssrc = f"ssrc={track.stream.ssrc:08X}"
        if isinstance(transport, InterleavedTransport):
            channel = 2 * len(self._ready) if transport.channel is None else transport.channel
            sink: MediaSink = InterleavedSink(self._writer.transport, channel)
            accepted = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1};{ssrc}"
        elif isinstance(transport, UdpTransport) and self._udp is not None:
            ports = (transport.rtp_port, transport.rtcp_port)
            host = self._writer.get_extra_info("peername")[0]
            sink = UdpSink(self._udp, host, rtp_port=ports[0], rtcp_port=ports[1])
            server_ports = "server_port={}-{}".format(*self._udp.ports)
            accepted = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]};{server_ports};{ssrc}"
        else:
            return Response(status=461)
        self._forget(control)
        self._ready[control] = _Ready(track, sink)
        return Response(status=200, headers={"Transport": accepted, **self._session_header()})

    def _play(self, camera: Camera, control: str, request: Request) -> Response:
        if not self._ready:
            return Response(status=455)
        if camera.fault.kind is FaultKind.ZERO:
            for ready in self._ready.values():
                ready.sink.send_control(ready.track.stream.goodbye())
            return Response(status=200, headers=self._session_header(), ends_connection=True)
        for ready in self._ready.values():
            ready.track.join(ready.sink)
        camera.start_audio()
        return Response(status=200, headers={"Range": "npt=now-", **self._session_header()})

    def _keep_alive(self, camera: Camera, control: str, request: Request) -> Response:
        return Response(status=200, headers=self._session_header())

    def _tear_down(self, camera: Camera, control: str, request: Request) -> Response:
        self._leave()
        return Response(status=200, ends_connection=True)

    def _session_header(self) -> dict[str, str]:
        return {"Session": f"{self._id};timeout={_SESSION_TIMEOUT_S}"}

    def _attach(self, camera: Camera | None) -> None:
        if camera is None or camera is self._camera:
            return
        self._leave()
        self._camera = camera
        camera.attach(self)

    def _leave(self) -> None:
        for control in tuple(self._ready):
            self._forget(control)
        if self._camera is not None:
            self._camera.detach(self)
            self._camera = None

    def _forget(self, control: str) -> None:
        ready = self._ready.pop(control, None)
        if ready is not None:
            ready.track.leave(ready.sink)

    async def _close(self) -> None:
        """Flush and close, but never wait long for a client that does not read."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), _CLOSE_TIMEOUT_S)
        except (asyncio.TimeoutError, ConnectionError, ssl.SSLError):
            self.abort()
