"""What a client may do to a connection: take its time, send too much, read nothing, bring its friends. All bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.source import SyntheticSource, SyntheticSurface
from app.cameras.source import SourceRequest
from app.connections import MAX_HEADER_BYTES, Connections
from app.types import BgrImage
from tests.support.app import API, RunningApp, StartApp
from tests.support.fakes import CrowdDetector
from tests.support.serve_process import SETTLED, ServeProcess
from tests.support.wait import wait_in_thread, wait_until

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
HEAD = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connections.HEADERS_S", 0.3)
    monkeypatch.setattr("app.connections.BODY_S", 0.3)


class Client:
    """A connection that the test does everything with by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, str]:
        """Status and code of a problem document, or the text of anything else."""
        return await asyncio.wait_for(self._answer(), 20)

    async def _answer(self) -> tuple[int, str]:
        # In one go: the server may close, and a reset that is seen before the body is read would hide it.
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = (await self.reader.readexactly(length)).decode()
        status = int(head.split(" ")[1])
        if "application/problem+json" not in head:
            return status, body
        problem = json.loads(body)
        assert problem["status"] == status
        return status, problem["code"]

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 20)
        return b""


@asynccontextmanager
async def connected(running: RunningApp, **options: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def ended(running: RunningApp, reason: str) -> float:
    for line in (await running.metrics()).splitlines():
        if line.startswith(f'vidette_http_connections_ended_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    raise AssertionError(f"no such reason: {reason}")


@pytest.mark.parametrize("sent", [b"x-a: b\r\n", b"x", b""], ids=["headers", "one header", "nothing more"])
async def test_headers_that_trickle_end_the_connection(impatient: None, running: RunningApp, sent: bytes) -> None:
    async with connected(running) as client:
        client.send(HEAD)
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            client.send(sent)
            await asyncio.sleep(0.02)  # the subject: a byte now and then
        assert await answer == (408, "request_timeout")
        assert await client.rest() == b""
    assert await ended(running, "slow_headers") == 1


async def test_a_connection_on_which_nothing_or_only_line_ends_come_is_ended(
    impatient: None, running: RunningApp
) -> None:
    async with connected(running) as silent, connected(running) as empty:
        silent.send(b"")
        reading = asyncio.create_task(empty.answer())
        while not reading.done():
            empty.send(b"\r\n")
            await asyncio.sleep(0.02)
        assert (await reading)[0] == 408
        assert (await silent.answer())[0] == 408


async def test_line_ends_after_an_answer_do_not_keep_a_connection(impatient: None, running: RunningApp) -> None:
    async with connected(running) as client:
        client.send(HEAD + b"\r\n")
        assert (await client.answer())[0] == 200
        reading = asyncio.create_task(client.answer())
        while not reading.done():
            client.send(b"\r\n")
            await asyncio.sleep(0.02)
        assert (await reading)[0] == 408


async def test_a_body_that_trickles_ends_the_connection(impatient: None, running: RunningApp) -> None:
    async with connected(running) as client:
        client.send(b"POST /api/v1/cameras HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n")
        client.send(b"content-length: 100000\r\n\r\n")
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            client.send(b" ")
            await asyncio.sleep(0.02)
        assert await answer == (408, "request_timeout")
    assert await ended(running, "slow_body") == 1
    assert (await running.http.get(f"{API}/cameras")).json() == []


async def test_a_websocket_and_a_kept_connection_are_not_hurried(impatient: None, running: RunningApp) -> None:
    async with running.socket() as stream, connected(running) as kept:
        kept.send(HEAD + b"\r\n")  # at once, for the connection's own time runs
        assert (await kept.answer())[0] == 200
        await asyncio.wait_for(stream.recv(), 10)
        await asyncio.sleep(0.8)  # the subject: longer than headers and a body may take
        await running.register("a")
        assert "connecting" in str(await asyncio.wait_for(stream.recv(), 10))
        kept.send(HEAD + b"\r\n")
        assert (await kept.answer())[0] == 200


class SlowPicture(SyntheticSurface):
    def to_bgr(self) -> BgrImage:
        time.sleep(0.8)
        return super().to_bgr()


class SlowPictures(SyntheticBackend):
    def open_source(self, request: SourceRequest) -> SyntheticSource:
        class Source(SyntheticSource):
            def _frame(self, at_s: float) -> object:  # type: ignore[override]
                frame = super()._frame(at_s)
                picture = frame.surface
                return type(frame)(
                    pts_s=frame.pts_s, times=frame.times, surface=SlowPicture(picture.width, picture.height, at_s)
                )

        return Source(request)


async def test_an_answer_may_take_its_time(impatient: None, start_app: StartApp) -> None:
    running = await start_app(SlowPictures())
    await running.register("a")
    await running.wait_published("a")
    response = await running.http.get(f"{API}/cameras/a/snapshot.jpg")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")


async def test_headers_and_urls_that_are_too_large_are_refused(running: RunningApp) -> None:
    for sent in (b"GET /" + b"a" * 70_000, HEAD + b"x: " + b"a" * 70_000, HEAD + b"x: y\r\n" * 20_000):
        async with connected(running) as client:
            client.send(sent)
            assert await client.answer() == (431, "headers_too_large")
    assert await ended(running, "too_large") == 3
    large = {"x": "a" * (MAX_HEADER_BYTES // 2)}
    assert (await running.http.get("/livez", headers=large)).status_code == 200


async def test_a_request_whose_chunks_never_end_is_cut_off(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.connections.FAREWELL_S", 0.3)
    async with connected(running) as client:
        client.send(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (await client.answer())[0] == 200

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    client.send(b"1;" + b"x" * 8000 + b"\r\na\r\n")
                    await client.writer.drain()

        await asyncio.wait_for(flood(), 20)
    assert await ended(running, "too_large") == 1


async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    start_app: StartApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.connections.TAKE_S", 0.3)
    running = await start_app(SyntheticBackend(CrowdDetector(count=500)))
    await running.register("a", "fps=100")
    await running.wait_published("a", 200)
    with socket.create_connection(("127.0.0.1", running.port)) as deaf:
        deaf.send(b"GET /api/v1/cameras/a/detections?limit=256 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await wait_until(lambda: running.service.connections.stats.ended["slow_reader"] == 1)


async def test_a_client_has_so_many_connections_and_no_more(start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, "max_connections_per_client": 5})
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(running.socket()) for _ in range(2)]
        clients = [await stack.enter_async_context(connected(running)) for _ in range(3)]
        await wait_until(lambda: running.service.connections.stats.open == 5)
        async with connected(running) as one_too_many:
            assert await one_too_many.answer() == (503, "too_many_connections")
            assert await one_too_many.rest() == b""
        clients[0].writer.transport.abort()
        await streams[0].close()
        await wait_until(lambda: running.service.connections.stats.open == 3)
        assert await ended(running, "too_many_of_client") == 1


def test_places_are_counted_for_all_and_for_each() -> None:
    places = Connections(3, 2)
    assert [places.enter(client) for client in "aaabb"] == [None, None, "too_many_of_client", None, "too_many"]
    places.leave("a")
    assert places.enter("b") is None
    for client in "abb":
        places.leave(client)
    assert places.stats.open == 0
    assert not places._clients


CHUNKED = b"transfer-encoding: chunked\r\n"
AMBIGUOUS = {
    "two lengths": b"content-length: 3\r\ncontent-length: 4\r\n\r\n{}  ",
    "a length and chunks": b"content-length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "a signed length": b"content-length: +2\r\n\r\n{}",
    "a length in hex": b"content-length: 0x2\r\n\r\n{}",
    "a length beyond all numbers": b"content-length: 99999999999999999999999\r\n\r\n{}",
    "a space before the colon": b"content-length : 2\r\n\r\n{}",
    "a folded header": b"x: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
    "an unknown coding": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a nearly chunked coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk of a negative size": CHUNKED + b"\r\n-1\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk of a size beyond all numbers": CHUNKED + b"\r\nfffffffffffffffff1\r\n",
    "a chunk longer than it says": CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
    "a NUL in a header": b"x: a\x00b\r\n\r\n",
    "a header without a name": b": a\r\n\r\n",
    "bare line feeds": b"x: a\n\n",
}
MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"FETCH /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bare path": b"GET livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a NUL in the path": b"GET /li\x00vez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "an absurd version": b"GET /livez HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
    **{name: b"POST /api/v1/cameras HTTP/1.1\r\nhost: 127.0.0.1\r\n" + rest for name, rest in AMBIGUOUS.items()},
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_unambiguous_request_is_refused_and_the_connection_ends(
    running: RunningApp, sent: bytes
) -> None:
    async with connected(running) as client:
        client.send(sent + HEAD + b"\r\n")
        status, code = await client.answer()
        assert (status, code) == (400, "invalid_request")
        assert await client.rest() == b""  # what follows is not taken for a second request
    assert (await running.http.get(f"{API}/cameras")).json() == []


async def test_pipelined_requests_are_answered_in_turn(running: RunningApp) -> None:
    async with connected(running) as client:
        client.send((HEAD + b"\r\n") * 50)
        for _ in range(50):
            assert (await client.answer())[0] == 200


def test_idle_connections_by_the_hundred_hold_nobody_up_and_are_gone_again(tmp_path: Path) -> None:
    idle: list[socket.socket] = []
    with ServeProcess(tmp_path / "data", environ={"VIDETTE_BACKEND__DEVICE": "synthetic"}) as service:
        port = int(service.url.rpartition(":")[2])
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (80, HARD))
        try:
            for _ in range(200):  # more than there are descriptors left
                sock = socket.create_connection(("127.0.0.1", port), timeout=10)
                sock.send(HEAD)
                idle.append(sock)
            process = psutil.Process(service.process.pid)
            before = process.cpu_times()
            time.sleep(1.0)  # the subject: what the service does with the rest meanwhile
            after = process.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.7, "it spins"
        finally:
            for sock in idle:
                sock.close()

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200
            return False

        wait_in_thread(answers, 20, what="it answers again")
        assert service.terminate() == 0
        assert "Traceback" not in service.log()


def test_a_camera_without_a_descriptor_says_so_and_recovers(tmp_path: Path) -> None:
    environ = {**SETTLED, "VIDETTE_BACKEND__DEVICE": "cpu"}
    impatient = ("--cameras.stall_timeout_s", "1", "--cameras.backoff_max_s", "1")
    with (
        ServeProcess(tmp_path / "data", *impatient, environ=environ) as service,
        socket.create_server(("127.0.0.1", 0)) as camera,
    ):
        url = f"rtsp://127.0.0.1:{camera.getsockname()[1]}/x"
        with httpx.Client(base_url=service.url) as client:
            client.get("/livez")  # on the connection that stays: a new one would want a descriptor
            # The standard streams hold the only numbers below the limit, so nothing that closes makes room.
            resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (3, HARD))

            def code() -> str | None:
                error = client.get("/api/v1/cameras/a").json()["status"]["error"]
                return None if error is None else str(error["code"])

            body = {"id": "a", "url": url}
            client.post("/api/v1/cameras?force=true", json=body).raise_for_status()
            wait_in_thread(lambda: code() == "resource_exhausted", 20)
            resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (1024, HARD))
            wait_in_thread(lambda: code() != "resource_exhausted", 30)
        assert service.terminate() == 0
