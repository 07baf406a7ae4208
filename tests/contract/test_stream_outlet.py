"""What goes past ASGI: ready-made frames, closing, pings, floods; and that all works without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.backends.synthetic.backend import SyntheticBackend
from app.websocket import StreamProtocol
from tests.contract.test_websocket import StillClient, publish, results, subscribed
from tests.support.app import STREAM, RunningApp, StartApp, on_shared
from tests.support.fakes import CrowdDetector
from tests.support.wait import wait_until


@on_shared
@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("objects", [0, 1, 30, 1000])
async def test_messages_of_every_length_arrive_whole(shared: RunningApp, form: str, objects: int) -> None:
    await shared.register("a", enabled=False)
    async with subscribed(shared, f"?mode=all&format={form}", max_size=None) as socket:
        publish(shared, "a", 1, [0.5] * objects, [0] * objects)
        publish(shared, "a", 2)
        first, second = await results(socket, 2)
    kept = shared.parts.hub.history.newest("a", limit=2)
    assert [first, second] == [each.message for each in kept]
    assert len(first["detections"]) == objects


@on_shared
async def test_compression_that_a_client_offers_is_not_taken_up(shared: RunningApp) -> None:
    async with subscribed(shared) as socket:
        assert socket.request is not None
        assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


@on_shared
async def test_pings_are_answered_between_results(shared: RunningApp) -> None:
    await shared.register("a", "fps=100")
    async with subscribed(shared, "?mode=all") as socket:
        for _ in range(5):
            await asyncio.wait_for(await socket.ping(), 20)
            await results(socket, 2)


@on_shared
async def test_a_client_s_close_is_answered(shared: RunningApp) -> None:
    await shared.register("a", "fps=100")
    async with subscribed(shared) as socket:
        await socket.close(1000, "enough")
        assert (socket.close_code, socket.close_reason) == (1000, "enough")
    await wait_until(lambda: shared.parts.hub.stats.subscribers == 0)


@on_shared
@pytest.mark.parametrize("flood", ["pings", "messages", "fragments"])
async def test_a_client_that_floods_is_closed_with_1008(shared: RunningApp, flood: str) -> None:
    hub = shared.parts.hub
    before = hub.stats.closed.get(1008, 0)
    client = await StillClient.connect(shared)
    frame = {"pings": b"\x89\x80", "messages": b"\x82\x81", "fragments": b"\x00\x81"}[flood] + b"\x00\x00\x00\x00"
    head = b"\x02\x81\x00\x00\x00\x00x" if flood == "fragments" else b""
    client.writer.write(head + (frame + b"x" * (flood != "pings")) * 5000)
    while True:
        opcode, payload = await asyncio.wait_for(client.frame(), 20)
        if opcode == 8:
            break
    assert (int.from_bytes(payload[:2], "big"), payload[2:]) == (1008, b"too many messages")
    await wait_until(lambda: hub.stats.subscribers == 0)
    assert hub.stats.closed[1008] == before + 1
    await client.close()


@on_shared
async def test_a_client_that_sends_nonsense_is_closed_and_others_are_not(shared: RunningApp) -> None:
    await shared.register("a", "fps=50")
    async with subscribed(shared) as other:
        client = await StillClient.connect(shared)
        client.writer.write(b"\xff\xff\xff\xff")
        messages = await client.read_until(lambda opcode, _: opcode == 8)
        assert messages[-1] == {"close": 1002}
        await client.close()
        assert len(await results(other, 3)) == 3


# Clients that hold a connection


async def test_a_client_that_reads_byte_by_byte_is_given_up_too(start_app: StartApp) -> None:
    running = await start_app(SyntheticBackend(CrowdDetector()), options={"stand_still_s": 0.5})
    await running.register("a", "fps=100")
    client = await StillClient.connect(running)
    hub = running.parts.hub

    async def sip() -> None:
        while True:
            await client.reader.readexactly(1)
            await asyncio.sleep(0.05)

    sipping = asyncio.create_task(sip())
    await wait_until(lambda: hub.stats.closed[1013] == 1)
    assert not sipping.done()
    sipping.cancel()
    await client.close()


class Hasty(StreamProtocol):
    cut_off_s = 0.2


@pytest.mark.parametrize("said", ["close", "too much", "nothing"])
async def test_a_client_that_never_reads_its_close_frame_is_cut_off(start_app: StartApp, said: str) -> None:
    running = await start_app(SyntheticBackend(CrowdDetector()), options={"stand_still_s": 0.3})
    running.server.config.ws_protocol_class = Hasty
    await running.register("a", "fps=100")
    client = await StillClient.connect(running)
    connections = running.server.server_state.connections
    await wait_until(lambda: any(isinstance(each, Hasty) and each.blocked for each in connections))
    mask = b"\x00\x00\x00\x00"
    frames = {"close": b"\x88\x82" + mask + b"\x03\xe8", "too much": (b"\x89\x80" + mask) * 500, "nothing": b""}
    client.writer.write(frames[said])
    await wait_until(lambda: not any(isinstance(each, Hasty) for each in connections))
    assert running.parts.hub.stats.subscribers == 0
    client.writer.transport.abort()


@on_shared
async def test_pongs_are_not_kept_for_a_client_that_does_not_read_them(shared: RunningApp) -> None:
    client = await StillClient.connect(shared)
    connections = shared.server.server_state.connections
    (connection,) = (each for each in connections if isinstance(each, StreamProtocol) and not each.close_sent)
    connection.pause_writing()
    client.writer.write(b"\x89\x80\x00\x00\x00\x00" * 20)
    await wait_until(lambda: connection._frames_left < 90)
    assert connection.transport.get_write_buffer_size() == 0
    connection.resume_writing()
    client.writer.write(b"\x89\x81\x00\x00\x00\x00!")
    await client.frame()  # hello
    assert await client.frame() == (10, b"!")
    await client.close()


# Without the extension


class AsgiClient:
    """A client of the application itself, as a server would be that knows nothing of our outlet."""

    def __init__(self, running: RunningApp, query: str = "") -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue(1)  # a second message waits until the first is taken
        self._said: asyncio.Queue[Any] = asyncio.Queue(8)
        self._said.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": STREAM,
            "raw_path": STREAM.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost")],
            "subprotocols": [],
            "state": {},
        }
        self.task = asyncio.create_task(running.app(scope, self._said.get, self.sent.put))

    async def message(self) -> Any:
        sent = await asyncio.wait_for(self.sent.get(), 10)
        if "text" in sent:
            return json.loads(sent["text"])
        return msgspec.msgpack.decode(sent["bytes"]) if "bytes" in sent else sent

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        while not wanted(message := await self.message()):
            pass
        return message

    async def leave(self) -> None:
        await self._said.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self.task, 10)


@on_shared
@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_another_server_is_given_every_message_by_asgi(shared: RunningApp, form: str) -> None:
    await shared.register("a", enabled=False)
    client = AsgiClient(shared, f"mode=all&format={form}")
    assert (await client.message())["type"] == "websocket.accept"
    assert (await client.message())["type"] == "hello"
    for seq in range(1, 6):
        publish(shared, "a", seq)
    assert [(await client.message())["seq"] for _ in range(5)] == [1, 2, 3, 4, 5]
    await client.leave()
    assert shared.parts.hub.stats.subscribers == 0


async def test_a_client_of_another_server_is_given_up_too(start_app: StartApp) -> None:
    running = await start_app(options={"stand_still_s": 0.2})
    await running.register("a", "fps=100")
    client = AsgiClient(running)
    hub = running.parts.hub
    await wait_until(lambda: hub.stats.subscribers == 1)
    await wait_until(lambda: hub.stats.closed[1013] == 1)
    last = await client.until(lambda message: message["type"] == "websocket.close")
    assert (last["code"], last["reason"]) == (1013, "nothing was taken for 0.2 s")
    await asyncio.wait_for(client.task, 10)
    assert hub.stats.subscribers == 0


async def test_a_client_of_another_server_is_told_of_the_end(running: RunningApp) -> None:
    client = AsgiClient(running)
    await client.until(lambda message: message["type"] == "hello")
    stopping = asyncio.create_task(running.stop())
    assert (await client.until(lambda message: message["type"] == "websocket.close"))["code"] == 1001
    await asyncio.wait_for(client.task, 10)
    await stopping
