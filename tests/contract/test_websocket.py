"""Detections over WebSocket: order, filters, gaps, resuming, and clients that stand still."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.batching.mailbox import Batch
from app.results.hub import MAX_SUBSCRIBERS
from app.results.subscription import Interest
from tests.support.app import STREAM, RunningApp, StartApp, on_shared
from tests.support.fakes import CrowdDetector, SlowOpeningBackend, make_detections, make_frame
from tests.support.wait import wait_until


async def receive(socket: ClientConnection) -> Any:
    data = await asyncio.wait_for(socket.recv(), 20)
    return json.loads(data) if isinstance(data, str) else msgspec.msgpack.decode(data)


async def results(socket: ClientConnection, count: int) -> list[Any]:
    """The next `count` results; camera changes and the greeting are passed over, gaps are not."""
    found: list[Any] = []
    while len(found) < count:
        message = await receive(socket)
        if message["type"] in ("detections", "gap"):
            found.append(message)
    return found


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """The code and reason that the server closes with, whatever it sends before."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await asyncio.wait_for(socket.recv(), 20)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def publish(
    running: RunningApp,
    camera_id: str,
    seq: int,
    scores: Sequence[float] = (0.9,),
    class_ids: Sequence[int] = (0,),
) -> None:
    """Give the hub a result, as the batcher does; for tests that choose results themselves."""
    lane, hub = running.parts.registry.get(camera_id).lane, running.parts.hub
    frame = make_frame(camera_id, seq)
    lane.ledger.decoded()
    hub.started(lane, seq)
    batch = Batch(frames=(frame,), lanes=(lane,), formed_at=0.0, reason="context_free")
    hub.finished(lane, frame, make_detections(frame, scores, class_ids), batch)


@asynccontextmanager
async def subscribed(running: RunningApp, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    """A client that has been greeted, so that nothing published from now on passes it by."""
    async with running.socket(query, **options) as socket:
        hello = await receive(socket)
        assert hello["type"] == "hello"
        yield socket


# Messages


@on_shared
@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_the_first_message_is_hello_and_then_results_follow(shared: RunningApp, form: str) -> None:
    await shared.register("b")
    await shared.register("a", enabled=False)
    async with shared.socket(f"?format={form}") as socket:
        assert await receive(socket) == {"type": "hello", "version": 1, "cameras": ["b", "a"]}
        (result,) = await results(socket, 1)
    kept = shared.parts.hub.history.newest("b", limit=1000)
    assert result in [each.message for each in kept]


@on_shared
async def test_json_comes_as_text_and_msgpack_as_bytes(shared: RunningApp) -> None:
    async with shared.socket() as text, shared.socket("?format=msgpack") as binary:
        assert isinstance(await text.recv(), str)
        assert isinstance(await binary.recv(), bytes)


async def test_results_of_a_camera_come_in_order_with_several_contexts(start_app: StartApp) -> None:
    class Uneven(SyntheticDetector):
        """Every other batch takes long, so contexts finish out of order."""

        async def detect(self, frames: Any, *, min_scores: Any) -> Any:
            await asyncio.sleep(0.02 if frames[0].seq % 2 else 0)
            return await super().detect(frames, min_scores=min_scores)

    running = await start_app(SyntheticBackend(Uneven(contexts=3)))
    await running.register("a", "fps=100")
    await running.register("b", "fps=100")
    async with running.socket("?mode=all") as socket:
        seen = await results(socket, 60)
    for name in ("a", "b"):
        seqs = [message["seq"] for message in seen if message["camera_id"] == name]
        assert len(seqs) > 10
        assert seqs == sorted(set(seqs))


@on_shared
async def test_all_leaves_out_nothing_that_was_published(shared: RunningApp) -> None:
    await shared.register("a", "fps=100")
    async with shared.socket("?mode=all") as socket:
        seen = [message["seq"] for message in await results(socket, 30)]
    kept = [each.seq for each in shared.parts.hub.history.newest("a", limit=1000)]
    assert seen == kept[kept.index(seen[0]) :][:30]


@on_shared
async def test_changes_of_cameras_are_told(shared: RunningApp) -> None:
    async with subscribed(shared) as socket:
        await shared.register("a", "fps=50&after=2&fail=auth_failed")
        changes: list[Any] = []
        while len(changes) < 3:
            message = await receive(socket)
            if message["type"] == "camera":
                changes.append(message)
        assert [change["state"] for change in changes] == ["connecting", "running", "retrying"]
        assert changes[0] == {"type": "camera", "version": 1, "camera_id": "a", "state": "connecting", "error": None}
        assert changes[2]["error"]["code"] == "auth_failed"
        await shared.remove("a")
        while (message := await receive(socket)).get("state") != "removed":
            pass
        assert message["camera_id"] == "a"


# Filters


@on_shared
async def test_a_camera_filter_passes_that_camera_and_its_changes_alone(shared: RunningApp) -> None:
    await shared.register("a")
    await shared.register("b")
    await shared.register("c")
    async with shared.socket("?camera=a&camera=c") as socket:
        seen = await results(socket, 20)
        await shared.patch("b", enabled=False)
        await shared.patch("a", enabled=False)
        while (message := await receive(socket))["type"] != "camera":
            seen.append(message)
    assert {each["camera_id"] for each in seen} == {"a", "c"}
    assert (message["camera_id"], message["state"]) == ("a", "disabled")


@on_shared
@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("?mode=all", [[0.9, 0.6, 0.3], [0.2], []]),
        ("?mode=all&min_score=0.5", [[0.9, 0.6], [], []]),
        ("?mode=all&class=car", [[0.6], [], []]),
        ("?mode=all&class=car&class=person&min_score=0.25", [[0.9, 0.6, 0.3], [], []]),
        ("?mode=all&empty=false", [[0.9, 0.6, 0.3], [0.2]]),
        ("?mode=all&min_score=0.5&empty=false", [[0.9, 0.6]]),
        ("?mode=all&class=car&min_score=0.7&empty=false", []),
    ],
)
async def test_filters_leave_what_they_name(shared: RunningApp, query: str, left: list[list[float]]) -> None:
    await shared.register("a", enabled=False)
    async with subscribed(shared, query) as socket:
        publish(shared, "a", 1, [0.9, 0.6, 0.3], [0, 1, 0])
        publish(shared, "a", 2, [0.2], [0])
        publish(shared, "a", 3, [], [])
        seen = await results(socket, len(left))
        publish(shared, "a", 9, [1.0, 1.0], [0, 1])  # passes every filter: nothing came before it
        (last,) = await results(socket, 1)
    assert [[found["score"] for found in each["detections"]] for each in seen] == left
    assert last["seq"] == 9


# Resuming


@on_shared
async def test_since_resumes_from_memory_without_a_hole(shared: RunningApp) -> None:
    await shared.register("a", "fps=50")
    async with shared.socket("?mode=all") as socket:
        seen = [message["seq"] for message in await results(socket, 5)]
    await shared.wait_published("a", shared.parts.registry.get("a").lane.counts().published + 10)
    async with shared.socket(f"?mode=all&since=a:{seen[-1]}") as socket:
        again = [message["seq"] for message in await results(socket, 12)]
    kept = [each.seq for each in shared.parts.hub.history.newest("a", limit=1000)]
    assert again == kept[kept.index(seen[-1]) + 1 :][:12]


async def test_since_tells_what_memory_has_lost(start_app: StartApp) -> None:
    running = await start_app(history={"size": 4})
    await running.register("a", enabled=False)
    for seq in range(1, 11):
        publish(running, "a", seq)
    async with running.socket("?since=a:2") as socket:
        gap, *rest = await results(socket, 5)
    assert gap == {
        "type": "gap",
        "version": 1,
        "camera_id": "a",
        "from_seq": 3,
        "to_seq": 6,
        "reason": "slow_consumer",
    }
    assert [message["seq"] for message in rest] == [7, 8, 9, 10]


@on_shared
async def test_since_of_a_camera_without_results_waits_for_the_first(shared: RunningApp) -> None:
    await shared.register("a", enabled=False)
    async with subscribed(shared, "?since=a:7&since=gone:3") as socket:
        publish(shared, "a", 1)
        assert [message["seq"] for message in await results(socket, 1)] == [1]


# Closing


@on_shared
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?camera=nobody", "camera: "),
        ("?class=unicorn", "class: "),
        ("?min_score=2", "min_score: "),
        ("?min_score=x", "min_score: "),
        ("?empty=maybe", "empty: "),
        ("?mode=newest", "mode: "),
        ("?format=xml", "format: "),
        ("?since=a", "since: "),
        ("?speed=9", "speed: "),
        ("?class=" + "x" * 3000, "class: "),
        ("?class=" + "%F0%9F%98%80" * 60, "class: "),
        ("?camera=%00", "camera: "),
    ],
)
async def test_4400_a_bad_query_with_the_parameter_s_name(shared: RunningApp, query: str, named: str) -> None:
    async with shared.socket(query) as socket:
        code, reason = await closed(socket)
    assert code == 4400
    assert reason.startswith(named)


@on_shared
@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://["])
async def test_4403_a_page_of_another_site(shared: RunningApp, origin: str) -> None:
    async with shared.socket(additional_headers={"Origin": origin}) as socket:
        code, _ = await closed(socket)
    assert code == 4403
    async with shared.socket(additional_headers={"Origin": f"http://127.0.0.1:{shared.port}"}) as socket:
        assert (await receive(socket))["type"] == "hello"


async def test_1013_until_the_engine_is_warm(start_app: StartApp) -> None:
    backend = SlowOpeningBackend()
    running = await start_app(backend, wait_ready=False)
    try:
        async with running.socket() as socket:
            assert (await closed(socket))[0] == 1013
    finally:
        backend.go_on.set()


@on_shared
async def test_1013_more_subscribers_than_there_may_be(shared: RunningApp) -> None:
    with ExitStack() as others:
        for _ in range(MAX_SUBSCRIBERS):
            others.enter_context(shared.parts.hub.subscribed(Interest()))
        async with shared.socket() as socket:
            assert await closed(socket) == (1013, f"{MAX_SUBSCRIBERS} subscribers are connected already")


@on_shared
async def test_a_client_that_leaves_is_forgotten(shared: RunningApp) -> None:
    await shared.register("a", "fps=100")
    hub = shared.parts.hub
    for _ in range(5):
        async with subscribed(shared) as socket:
            assert hub.stats.subscribers == 1
            await results(socket, 1)
        await wait_until(lambda: hub.stats.subscribers == 0)
    async with subscribed(shared) as socket:
        socket.transport.abort()
        await wait_until(lambda: hub.stats.subscribers == 0)
    assert "vidette_ws_clients 0.0" in await shared.metrics()


@on_shared
async def test_what_clients_say_is_ignored(shared: RunningApp) -> None:
    await shared.register("a")
    async with subscribed(shared) as socket:
        for word in ("hello?", b"\x00\xff", "{}", "x" * 60_000):
            await socket.send(word)
        assert len(await results(socket, 3)) == 3


@on_shared
async def test_a_client_that_says_too_much_is_closed(shared: RunningApp) -> None:
    async with subscribed(shared) as socket:
        await socket.send("x" * 70_000)
        assert (await closed(socket))[0] == 1009


# Clients that stand still


@dataclass
class StillClient:
    """A raw client that shakes hands and then reads nothing until it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, running: RunningApp, query: str = "") -> StillClient:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that it is full soon
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", running.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {STREAM}{query} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(length)

    async def read_until(self, wanted: Callable[[int, Any], bool]) -> list[Any]:
        """Every message up to the one that is wanted; a close frame is `{"close": code}`."""
        messages: list[Any] = []
        while True:
            opcode, payload = await asyncio.wait_for(self.frame(), 20)
            if opcode == 8:
                messages.append({"close": struct.unpack(">H", payload[:2])[0]})
            elif opcode in (1, 2):
                messages.append(json.loads(payload))
            if messages and wanted(opcode, messages[-1]):
                return messages

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize("mode", ["latest", "all"])
async def test_a_slow_consumer_is_told_its_gaps_and_then_gets_the_newest(start_app: StartApp, mode: str) -> None:
    running = await start_app(SyntheticBackend(CrowdDetector()))
    await running.register("a", "fps=400")
    still = await StillClient.connect(running, f"?mode={mode}")
    hub = running.parts.hub
    await wait_until(lambda: hub.stats.messages_dropped["slow_consumer"] > 50, what="the client misses results")
    newest = hub.history.latest("a")
    assert newest is not None
    messages = await still.read_until(lambda _, message: message.get("seq", 0) >= newest.seq)
    await still.close()
    seen = [m for m in messages if m["type"] in ("detections", "gap")]
    gaps = [m for m in seen if m["type"] == "gap"]
    assert gaps
    assert all(gap["reason"] == "slow_consumer" and gap["from_seq"] <= gap["to_seq"] for gap in gaps)
    # Every published result is either there or inside a gap, and order is kept.
    told = sorted(
        [n for gap in gaps for n in range(gap["from_seq"], gap["to_seq"] + 1)]
        + [m["seq"] for m in seen if m["type"] == "detections"]
    )
    kept = [each.seq for each in hub.history.newest("a", limit=1000)]
    assert {seq for seq in kept if told[0] <= seq <= newest.seq} <= set(told)
    seqs = [m["seq"] for m in seen if m["type"] == "detections"]
    assert seqs == sorted(seqs)
    counted = re.search(r'vidette_ws_messages_dropped_total\{reason="slow_consumer"} (\d+)', await running.metrics())
    assert counted is not None
    assert int(counted[1]) > 50


async def test_a_client_that_stands_still_slows_nobody_and_is_closed_with_1013(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start_app(SyntheticBackend(CrowdDetector()), options={"stand_still_s": 0.3})
    await running.register("a", "fps=100")
    still = await StillClient.connect(running)
    hub = running.parts.hub
    async with running.socket("?mode=all") as lively:
        await wait_until(lambda: hub.stats.subscribers == 2)
        seen = []
        while hub.stats.subscribers == 2:  # until the still one is given up
            seen.append(await receive(lively))
        seen += await results(lively, 20)
    seqs = [m["seq"] for m in seen if m["type"] == "detections"]
    assert not [m for m in seen if m["type"] == "gap"]
    kept = [each.seq for each in hub.history.newest("a", limit=1000)]
    assert seqs[-20:] == kept[kept.index(seqs[-20]) :][:20]
    assert "a WebSocket client took nothing for 0.3 s and is closed" in caplog.text
    # The close was sent without waiting for the client to read; nothing of it is left but the socket.
    await wait_until(lambda: not running.server.server_state.tasks, 20)
    messages = await still.read_until(lambda opcode, _: opcode == 8)
    assert messages[-1] == {"close": 1013}
    await still.close()


async def test_a_client_that_has_nothing_to_read_does_not_stand_still(start_app: StartApp) -> None:
    running = await start_app(options={"stand_still_s": 0.1})
    await running.register("a", "fps=3")
    async with running.socket() as socket:
        assert len(await results(socket, 3)) == 3


async def test_a_client_that_stands_still_does_not_hold_up_the_shutdown(start_app: StartApp) -> None:
    running = await start_app(SyntheticBackend(CrowdDetector()))
    await running.register("a", "fps=100")
    still = await StillClient.connect(running)
    await wait_until(lambda: running.parts.hub.stats.messages_dropped["slow_consumer"] > 5)
    started_at = asyncio.get_running_loop().time()
    await running.stop()
    assert asyncio.get_running_loop().time() - started_at < 9
    await still.close()


# The end


async def test_1001_when_the_service_stops(running: RunningApp) -> None:
    await running.register("a", "fps=100")
    async with subscribed(running) as one, subscribed(running, "?mode=all&format=msgpack") as two:
        stopping = asyncio.create_task(running.stop())
        assert await closed(one) == (1001, "the service is stopping")
        assert (await closed(two))[0] == 1001
        await stopping
