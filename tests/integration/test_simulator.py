"""Simulated cameras as real clients see them: FFmpeg's RTSP client, and a raw one, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import trustme

from app.simulator.clip import Clip, load_clip
from app.simulator.errors import FaultError, SimulatorError
from app.simulator.server import RtspServer, ServerOptions
from tests.support.clips import Codec, write_test_clip
from tests.support.rtsp import RawRtspClient, View, watch
from tests.support.wait import wait_until

FPS = 100
FRAMES = 15
GOP = 5
ENDED_S = 9.0  # a client that is not dropped watches for ten seconds
USERNAME = "admin"
PASSWORD = "p@ss:w/ö#%?"


class ClipShelf:
    """Draws and loads each clip once for the whole module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clips: dict[str, Clip] = {}

    def get(
        self, codec: Codec = "h264", *, b_frames: int = 0, width: int = 320, height: int = 240, fps: int = FPS
    ) -> Clip:
        name = f"{codec}-{b_frames}-{width}x{height}-{fps}"
        if name not in self._clips:
            path = write_test_clip(
                self._folder / f"{name}.mp4",
                codec=codec,
                b_frames=b_frames,
                width=width,
                height=height,
                fps=fps,
                seconds=FRAMES / fps,
                gop=GOP,
            )
            self._clips[name] = load_clip(path)
        return self._clips[name]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> ClipShelf:
    return ClipShelf(tmp_path_factory.mktemp("clips"))


@pytest.fixture
async def server(shelf: ClipShelf) -> AsyncIterator[RtspServer]:
    """A server with one camera, `cam0`: H.264, 100 fps, a keyframe every 5."""
    async with RtspServer() as running:
        running.add_camera("cam0", shelf.get())
        yield running


@contextlib.asynccontextmanager
async def raw_client(url: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawRtspClient]:
    client = await RawRtspClient.connect(url, tls=tls)
    try:
        yield client
    finally:
        await client.close()


async def look(url: str, **arguments: Any) -> View:
    return await asyncio.to_thread(watch, url, **arguments)


@contextlib.asynccontextmanager
async def looking(server: RtspServer, name: str = "cam0", **arguments: Any) -> AsyncIterator[asyncio.Task[View]]:
    """Start to watch a camera; the body runs while frames are coming. Await the task for the view."""
    before = server.stats()[name].frames_sent
    task = asyncio.create_task(look(server.url(name), **arguments))
    try:
        await wait_until(lambda: server.stats()[name].frames_sent > before + GOP)
        yield task
    finally:
        await task


def follows(numbers: Sequence[int], *, count: int = FRAMES) -> bool:
    """Whether the frames' numbers are one after the other, around the loop."""
    return all(after == (before + 1) % count for before, after in itertools.pairwise(numbers))


def rises(values: Sequence[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("codec", "b_frames"), [("h264", 0), ("h264", 2), ("hevc", 0), ("hevc", 2), ("mjpeg", 0), ("av1", 0)]
)
async def test_every_codec_plays_on_over_the_end_of_its_clip(shelf: ClipShelf, codec: Codec, b_frames: int) -> None:
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get(codec, b_frames=b_frames))
        views = await asyncio.gather(
            *(look(server.url("cam0"), frames=2 * FRAMES + 3, transport=transport) for transport in ("tcp", "udp"))
        )
    for view in views:
        assert view.error is None
        assert (view.codec, view.corrupt) == (codec, 0)
        assert len(view.numbers) >= 2 * FRAMES + 3
        assert follows(view.numbers)
        assert view.keyframes[0] and view.numbers[0] % (1 if codec == "mjpeg" else GOP) == 0
        times = sorted(view.pts) if b_frames else view.pts
        assert rises(times)
        assert all(abs(after - before - 90_000 / FPS) <= 1 for before, after in itertools.pairwise(times[4:-4]))


async def test_stream_is_paced_live(server: RtspServer) -> None:
    view = await look(server.url("cam0"), frames=2 * FRAMES)
    assert (2 * FRAMES - 2) / FPS <= view.seconds < ENDED_S


async def test_sender_reports_date_the_frames(shelf: ClipShelf) -> None:
    async with RtspServer() as server:
        server.add_camera("plain", shelf.get())
        server.add_camera("reordered", shelf.get(b_frames=2))
        plain, reordered = await asyncio.gather(look(server.url("plain")), look(server.url("reordered")))
    assert plain.ages_s and reordered.ages_s
    assert all(0.0 <= age < 5.0 for age in plain.ages_s + reordered.ages_s)


async def test_first_report_comes_before_the_first_packet_and_more_follow(shelf: ClipShelf) -> None:
    async with RtspServer(ServerOptions(report_interval_s=0.1)) as server:
        server.add_camera("cam0", shelf.get())
        async with raw_client(server.url("cam0")) as client:
            reply = await client.play(transport="RTP/AVP/TCP;unicast;interleaved=6-7")
            channels = [await client.read_media() for _ in range(30)]
    assert [channel for channel, _ in channels[:2]] == [7, 6]
    reports = [packet for channel, packet in channels if channel == 7]
    assert len(reports) >= 2
    ssrc, seconds, fraction, timestamp = struct.unpack_from(">IIII", reports[0], 4)
    first = struct.unpack_from(">HII", channels[1][1], 2)
    assert first[2] == ssrc == int(reply.headers["transport"].split("ssrc=")[1], 16)
    # Where the media clock stood when the report was written, seen from the frame that came with it.
    assert 0 <= (timestamp - first[1]) % (1 << 32) < 90_000 * 0.2
    assert abs(seconds - 2_208_988_800 + fraction / (1 << 32) - time.time()) < 2.0


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_password_with_special_characters_opens_and_a_wrong_one_does_not(shelf: ClipShelf, scheme: Any) -> None:
    async with RtspServer(ServerOptions(auth=scheme, username=USERNAME, password=PASSWORD)) as server:
        server.add_camera("cam0", shelf.get())
        good, none, wrong = await asyncio.gather(
            look(server.url("cam0", credentials=True), frames=3),
            look(server.url("cam0")),
            look(server.url("cam0", credentials=True).replace("p%40ss", "pass")),
        )
    assert good.error is None and len(good.numbers) >= 3
    assert isinstance(none.error, av.HTTPUnauthorizedError)
    assert isinstance(wrong.error, av.HTTPUnauthorizedError)


async def test_rtsps_is_checked_against_its_certificate(shelf: ClipShelf, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key, root = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "root.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    verify = {"tls_verify": "1", "ca_file": str(root)}
    trusting = ssl.create_default_context(cafile=str(root))
    async with RtspServer(ServerOptions(host="localhost", certificate=certificate, key=key)) as server:
        server.add_camera("cam0", shelf.get())
        assert server.url("cam0").startswith("rtsps://localhost:")
        view, stranger = await asyncio.gather(
            look(server.url("cam0"), options=verify, frames=FRAMES),
            look(server.url("cam0"), options={"tls_verify": "1"}),
        )
        async with raw_client(server.url("cam0"), tls=trusting) as client:
            udp = await client.play(transport="RTP/AVP;unicast;client_port=5000-5001")
    assert view.error is None and follows(view.numbers)
    assert stranger.error is not None
    assert udp.status == 461


async def test_certificate_that_is_none_is_refused_with_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("nothing")
    with pytest.raises(SimulatorError, match=r"certificate .*cert\.pem or its key cannot be used"):
        async with RtspServer(ServerOptions(certificate=broken, key=broken)):
            raise AssertionError("it must not start")


async def test_taken_port_is_refused_with_a_sentence(server: RtspServer) -> None:
    with pytest.raises(SimulatorError, match=f"cannot listen on 127.0.0.1 port {server.port}: "):
        async with RtspServer(ServerOptions(port=server.port)):
            raise AssertionError("it must not start")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_audio_may_come_first_and_is_sent_when_asked_for(shelf: ClipShelf, transport: str) -> None:
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get(), audio_first=True)
        both = await look(
            server.url("cam0"),
            transport=transport,
            audio=True,
            done=lambda view: len(view.numbers) >= 5 and view.audio_packets >= 3,
        )
        video = await look(server.url("cam0"), transport=transport, frames=5)
    assert both.error is None and both.streams == ["audio", "video"]
    assert both.audio_packets >= 3 and follows(both.numbers)
    assert video.error is None and video.audio_packets == 0 and follows(video.numbers)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
async def test_parameter_sets_in_band_are_enough(shelf: ClipShelf, codec: Codec) -> None:
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get(codec), sprop=False)
        async with raw_client(server.url("cam0")) as client:
            description = (await client.ask("DESCRIBE")).body
        view = await look(server.url("cam0"), frames=8)
    assert "sprop" not in description
    assert view.error is None and view.corrupt == 0 and follows(view.numbers)


async def test_resolution_changes_and_returns_without_a_reconnect(server: RtspServer, shelf: ClipShelf) -> None:
    server.add_clip(shelf.get(width=160, height=120))
    sizes = [(320, 240), (160, 120), (320, 240)]

    def seen(view: View) -> list[tuple[int, int]]:
        return [size for size, _ in itertools.groupby(view.sizes)]

    async with looking(server, done=lambda view: seen(view) == sizes and len(view.sizes) > 30) as task:
        server.set_fault("cam0", "resolution=h264-0-160x120-100")
        sent = server.stats()["cam0"].frames_sent
        await wait_until(lambda: server.stats()["cam0"].frames_sent > sent + 2 * GOP)
        server.set_fault("cam0", "ok")
        view = await task
    assert view.error is None and seen(view) == sizes
    assert rises(view.pts)
    assert server.stats()["cam0"].connects == 1


async def test_clip_of_another_codec_or_name_cannot_be_swapped_in(server: RtspServer, shelf: ClipShelf) -> None:
    server.add_clip(shelf.get("hevc"))
    with pytest.raises(SimulatorError, match="camera cam0 sends h264; clip hevc-0-320x240-100 is hevc"):
        server.set_fault("cam0", "resolution=hevc-0-320x240-100")
    with pytest.raises(SimulatorError, match="there is no clip wide; there are: hevc-0-320x240-100"):
        server.set_fault("cam0", "resolution=wide")
    assert server.stats()["cam0"].fault == "ok"


async def test_stall_is_silence_until_ok_and_then_goes_on_at_a_keyframe(server: RtspServer) -> None:
    async with looking(server, done=lambda view: len(view.numbers) > 40, timeout_s=5.0) as task:
        server.set_fault("cam0", "stall")
        sent = server.stats()["cam0"].frames_sent
        async with raw_client(server.url("cam0")) as client:
            assert (await client.play()).status == 200
            for _ in range(10):  # RTSP is answered all the while, and no packet comes in between
                assert (await client.ask("GET_PARAMETER")).status == 200
            assert server.stats()["cam0"].frames_sent == sent
            server.set_fault("cam0", "ok")
            assert (await client.read_media())[0] == 1
        view = await task
    assert view.error is None and view.corrupt == 0
    gaps = [after for before, after in itertools.pairwise(view.numbers) if after != (before + 1) % FRAMES]
    assert len(gaps) <= 1
    assert all(number % GOP == 0 for number in gaps)


async def test_stall_is_a_read_timeout_to_a_client(server: RtspServer) -> None:
    async with looking(server, frames=1000, timeout_s=0.3) as task:
        server.set_fault("cam0", "stall")
        view = await task
    assert isinstance(view.error, (av.ExitError, TimeoutError))


@pytest.mark.parametrize("fault", ["close", "eof"])
async def test_clients_are_dropped_once_and_can_come_back(server: RtspServer, fault: str) -> None:
    async with looking(server, frames=1000) as task:
        server.set_fault("cam0", fault)
        view = await task
    assert view.error is None and len(view.numbers) < 1000 and view.seconds < ENDED_S
    assert server.stats()["cam0"].fault == "ok"
    again = await look(server.url("cam0"), frames=5)
    assert again.error is None and follows(again.numbers)


async def test_end_of_file_says_goodbye(server: RtspServer) -> None:
    async with raw_client(server.url("cam0")) as client:
        await client.play()
        await client.read_media()
        server.set_fault("cam0", "eof")
        packets = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                packets.append(await client.read_media())
    channel, last = packets[-1]
    assert channel == 1
    assert (last[1], last[-7]) == (200, 203)


async def test_udp_client_is_told_goodbye_too(server: RtspServer) -> None:
    async with looking(server, frames=1000, transport="udp") as task:
        server.set_fault("cam0", "eof")
        view = await task
    assert view.seconds < ENDED_S
    # RTCP has a port of its own: BYE may overtake the last packets, and FFmpeg then decodes a cut-off picture.
    assert view.error is None or isinstance(view.error, av.InvalidDataError)


async def test_audio_stalls_and_says_goodbye_with_the_video(shelf: ClipShelf) -> None:
    async with RtspServer(ServerOptions(report_interval_s=0.05)) as server:
        server.add_camera("cam0", shelf.get(), audio_first=True)
        async with raw_client(server.url("cam0")) as client:
            await client.ask("SETUP", {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"}, track="/trackID=1")
            await client.play(track="/trackID=0", transport="RTP/AVP/TCP;unicast;interleaved=2-3")
            seen: set[int] = set()
            while seen != {0, 1, 2, 3}:
                seen.add((await client.read_media())[0])
            server.set_fault("cam0", "stall")
            await client.ask("GET_PARAMETER")  # what was sent before the stall is read by now
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.reader.readexactly(1), 0.1)
            server.set_fault("cam0", "eof")
            packets = [await client.read_media() for _ in range(2)]
            assert await client.reader.read() == b""
    assert [(channel, packet[1], packet[-7]) for channel, packet in packets] == [(3, 200, 203), (1, 200, 203)]


async def test_camera_that_is_late_goes_on_live_without_a_burst(shelf: ClipShelf) -> None:
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get(), phase_s=-60.0)
        view = await look(server.url("cam0"), frames=FRAMES)
        stats = server.stats()["cam0"]
    assert view.error is None and follows(view.numbers)
    assert stats.frames_sent < 60 * FPS / 2
    assert stats.late_max_ms < 2000


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse", av.HTTPServerError),
        ("unauthorized", av.HTTPUnauthorizedError),
        ("missing", av.HTTPNotFoundError),
    ],
)
async def test_camera_can_turn_clients_away(server: RtspServer, fault: str, error: type[Exception]) -> None:
    async with looking(server, frames=1000) as task:
        server.set_fault("cam0", fault)
        dropped = await task
    refused = await look(server.url("cam0"))
    server.set_fault("cam0", "ok")
    again = await look(server.url("cam0"), frames=3)
    assert dropped.error is None and dropped.seconds < ENDED_S
    assert isinstance(refused.error, error)
    assert again.error is None


async def test_mute_camera_accepts_but_answers_nothing_until_ok(server: RtspServer) -> None:
    server.set_fault("cam0", "mute")
    async with raw_client(server.url("cam0")) as client:
        await client.send(f"OPTIONS {client.url} RTSP/1.0\r\nCSeq: 77\r\n\r\n".encode())
        view = await look(server.url("cam0"), timeout_s=0.3)
        server.set_fault("cam0", "ok")
        reply = await client.ask("OPTIONS")
    assert isinstance(view.error, (av.InvalidDataError, TimeoutError)) and view.seconds >= 0.3
    assert reply.headers["cseq"] == "1"


async def test_flapping_camera_drops_its_clients_again_and_again(server: RtspServer) -> None:
    server.set_fault("cam0", "flap=0.3")
    views = [await look(server.url("cam0"), frames=1000) for _ in range(3)]
    server.set_fault("cam0", "ok")
    steady = await look(server.url("cam0"), frames=FRAMES)
    assert all(view.error is None and view.seconds < ENDED_S for view in views)
    assert steady.error is None and len(steady.numbers) >= FRAMES


async def test_lost_packets_break_frames_until_ok(server: RtspServer) -> None:
    server.set_fault("cam0", "drop=0.2")
    lossy = await look(server.url("cam0"), frames=FRAMES)
    server.set_fault("cam0", "ok")
    clean = await look(server.url("cam0"), frames=FRAMES)
    assert lossy.corrupt > 0 or not follows(lossy.numbers)
    assert clean.corrupt == 0 and follows(clean.numbers)


async def test_same_seed_loses_the_same_packets(shelf: ClipShelf) -> None:
    async def lost(seed: int) -> list[int]:
        async with RtspServer(ServerOptions(seed=seed)) as server:
            server.add_camera("cam0", shelf.get())
            server.set_fault("cam0", "drop=0.5")
            async with raw_client(server.url("cam0")) as client:
                await client.play()
                packets = [await client.read_media() for _ in range(21)]
        sequence = [struct.unpack_from(">H", packet, 2)[0] for channel, packet in packets if channel == 0]
        return [(number - sequence[0]) & 0xFFFF for number in sequence]

    first, again, other = await asyncio.gather(lost(1), lost(1), lost(2))
    assert first == again != other


async def test_corrupted_packets_damage_pictures(server: RtspServer) -> None:
    server.set_fault("cam0", "corrupt=0.5")
    view = await look(server.url("cam0"), frames=FRAMES, limit_s=2.0)
    server.set_fault("cam0", "ok")
    clean = await look(server.url("cam0"), frames=5)
    assert view.error is not None or view.corrupt > 0 or not follows(view.numbers)
    assert clean.error is None and clean.corrupt == 0


async def test_garbage_in_the_connection_ends_it(server: RtspServer) -> None:
    server.set_fault("cam0", "garbage")
    view = await look(server.url("cam0"), timeout_s=0.2, limit_s=20.0)
    server.set_fault("cam0", "ok")
    clean = await look(server.url("cam0"), frames=5)
    assert not view.numbers and view.seconds < ENDED_S
    assert clean.error is None and follows(clean.numbers)


async def test_garbage_over_udp_is_no_picture_until_ok(server: RtspServer) -> None:
    server.set_fault("cam0", "garbage")
    async with looking(server, transport="udp", frames=5) as task:
        assert not task.done()
        server.set_fault("cam0", "ok")
        view = await task
    assert view.error is None and len(view.numbers) >= 5


@pytest.mark.parametrize("seconds", [100, -100])
async def test_timestamps_jump_once(server: RtspServer, seconds: int) -> None:
    async with looking(server, frames=40) as task:
        server.set_fault("cam0", f"jump={seconds}")
        view = await task
    steps = [after - before for before, after in itertools.pairwise(view.pts)]
    jumps = [step for step in steps if abs(step) > 90_000]
    assert view.error is None
    assert len(jumps) == 1
    assert abs(jumps[0] - seconds * 90_000) < 90_000
    assert server.stats()["cam0"].fault == "ok"


async def test_vanished_camera_keeps_its_connections_open_and_silent_until_it_comes_back(server: RtspServer) -> None:
    async with raw_client(server.url("cam0")) as old:
        await old.play()
        await old.read_media()
        server.set_fault("cam0", "vanish")
        async with raw_client(server.url("cam0")) as new:
            await new.send(f"OPTIONS {new.url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            await wait_until(lambda: server.stats()["cam0"].clients == 2)
            await old.send(b"\r\n" * 2000)
            with contextlib.suppress(asyncio.TimeoutError):  # what was sent before the fault
                while await asyncio.wait_for(old.reader.read(65536), 0.2):
                    pass
            assert not old.reader.at_eof() and not new.reader.at_eof()
            server.set_fault("cam0", "ok")
            for client in (old, new):
                with pytest.raises(ConnectionResetError):
                    assert await client.reader.read() != b"?"
    assert (await look(server.url("cam0"), frames=5)).error is None


async def test_a_hole_answers_no_syn_and_the_server_comes_back_on_its_port(shelf: ClipShelf) -> None:
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get())
        server.add_camera("cam1", shelf.get())
        server.set_fault("cam0", "hole")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", server.port), 0.3)
        assert {stats.fault for stats in server.stats().values()} == {"hole"}
        server.set_fault("cam1", "ok")
        view = await seen_again(server)
        assert view.error is None and {stats.fault for stats in server.stats().values()} == {"ok"}


async def seen_again(server: RtspServer, name: str = "cam0") -> View:
    """What a client sees of a camera once it can be reached."""
    while True:
        view = await look(server.url(name), frames=5)
        if not isinstance(view.error, ConnectionError):
            return view


async def test_a_server_restarts_on_its_port(server: RtspServer) -> None:
    url, port = server.url("cam0"), server.port
    async with looking(server, frames=1000) as task:
        server.set_fault("cam0", "restart=60")
        assert (await task).seconds < ENDED_S
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    server.set_fault("cam0", "restart=0.1")  # while it is away: it comes back after this
    view = await seen_again(server)
    assert view.error is None and follows(view.numbers)
    assert (server.url("cam0"), server.stats()["cam0"].fault) == (url, "ok")


async def test_a_server_closes_while_it_is_away(shelf: ClipShelf) -> None:
    for fault in ("restart=60", "hole"):
        async with RtspServer() as server:
            server.add_camera("cam0", shelf.get())
            server.set_fault("cam0", fault)


@pytest.mark.parametrize(("fault", "media"), [("audio", ["audio"]), ("empty", [])])
async def test_a_camera_may_offer_no_video(server: RtspServer, fault: str, media: list[str]) -> None:
    server.set_fault("cam0", fault)
    async with raw_client(server.url("cam0")) as client:
        description = (await client.ask("DESCRIBE")).body
        assert (await client.ask("SETUP", {"Transport": "RTP/AVP/TCP;interleaved=0-1"})).status == 404
    assert [line[2:].split()[0] for line in description.splitlines() if line.startswith("m=")] == media
    server.set_fault("cam0", "ok")
    assert (await look(server.url("cam0"), frames=5)).error is None


async def test_a_stream_of_no_length_ends_with_its_play(server: RtspServer) -> None:
    server.set_fault("cam0", "zero")
    view = await look(server.url("cam0"), timeout_s=8.0)
    assert not view.numbers and view.seconds < 7.0
    server.set_fault("cam0", "ok")
    assert (await look(server.url("cam0"), frames=5)).error is None


async def test_codec_changes_with_a_reconnect_and_returns(server: RtspServer, shelf: ClipShelf) -> None:
    server.add_clip(shelf.get("hevc"))
    async with looking(server, frames=1000) as task:
        server.set_fault("cam0", "codec=hevc-0-320x240-100")
        assert (await task).codec == "h264"
    assert (await look(server.url("cam0"), frames=5)).codec == "hevc"
    server.set_fault("cam0", "ok")
    assert (await look(server.url("cam0"), frames=5)).codec == "h264"


async def test_packets_of_another_codec_without_a_word_are_no_pictures(server: RtspServer, shelf: ClipShelf) -> None:
    server.add_clip(shelf.get("hevc"))
    async with looking(server, frames=1000, timeout_s=0.3, limit_s=3.0) as task:
        server.set_fault("cam0", "recode=hevc-0-320x240-100")
        view = await task
    assert len(view.numbers) < 1000
    assert server.stats()["cam0"].connects == 1


async def test_timestamps_wrap_and_the_clock_of_a_client_goes_on(server: RtspServer) -> None:
    server.set_fault("cam0", "wrap=0.3")
    view = await look(server.url("cam0"), frames=60)
    assert view.error is None and rises(view.pts) and follows(view.numbers)
    assert view.pts[-1] - view.pts[0] < 2 * 90_000


@pytest.mark.parametrize("seconds", [7200, -7200])
async def test_sender_reports_can_be_off_by_hours(server: RtspServer, seconds: int) -> None:
    server.set_fault("cam0", f"skew={seconds}")
    view = await look(server.url("cam0"), frames=10)
    assert view.ages_s and all(abs(age_s + seconds) < 5 for age_s in view.ages_s)


async def test_a_clock_that_drifts_runs_faster_than_frames_come(server: RtspServer) -> None:
    server.set_fault("cam0", "drift=0.5")
    view = await look(server.url("cam0"), frames=40)
    steps = [after - before for before, after in itertools.pairwise(view.pts)]
    assert view.error is None
    assert sum(steps) / len(steps) == pytest.approx(1.5 * 90_000 / FPS, rel=0.01)


async def test_answers_may_trickle(server: RtspServer) -> None:
    server.set_fault("cam0", "trickle")
    async with raw_client(server.url("cam0")) as client:
        await client.send(f"OPTIONS {client.url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        assert [await client.reader.read(100) for _ in range(3)] == [b"R", b"T", b"S"]


@pytest.mark.parametrize("fault", ["truncate=0.5", "reorder=0.5"])
async def test_packets_that_are_cut_or_late_break_pictures(server: RtspServer, fault: str) -> None:
    server.set_fault("cam0", fault)
    view = await look(server.url("cam0"), frames=FRAMES, limit_s=2.0, timeout_s=0.5)
    server.set_fault("cam0", "ok")
    clean = await look(server.url("cam0"), frames=5)
    assert view.error is not None or view.corrupt > 0 or not follows(view.numbers)
    assert clean.error is None and clean.corrupt == 0


async def test_udp_clients_put_packets_in_order_again(server: RtspServer) -> None:
    server.set_fault("cam0", "reorder=0.3")
    view = await look(server.url("cam0"), frames=30, transport="udp")
    assert view.error is None and follows(view.numbers)


async def test_unknown_fault_changes_nothing(server: RtspServer) -> None:
    server.set_fault("cam0", "stall")
    with pytest.raises(FaultError, match="fault 'explode' is unknown"):
        server.set_fault("cam0", "explode")
    with pytest.raises(SimulatorError, match="there is no camera cam7; there are: cam0"):
        server.set_fault("cam7", "ok")
    assert server.stats()["cam0"].fault == "stall"


async def test_slow_client_is_bounded_and_harms_nobody(shelf: ClipShelf) -> None:
    limit = 64 * 1024
    async with RtspServer(ServerOptions(max_backlog_bytes=limit, send_buffer_bytes=16 * 1024)) as server:
        server.add_camera("cam0", shelf.get("mjpeg", width=640, height=480))
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
        slow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", server.port))
        client = RawRtspClient(*await asyncio.open_connection(sock=slow, limit=8 * 1024), server.url("cam0"))
        try:
            await client.play()
            view = await look(server.url("cam0"), frames=FRAMES)
            await wait_until(lambda: server.stats()["cam0"].frames_skipped > 5)
            skipped = server.stats()["cam0"].frames_skipped
            # It goes on with whole packets as soon as it reads.
            packets = [(await client.read_media())[1] for _ in range(200)]
        finally:
            await client.close()
    assert view.error is None and follows(view.numbers)
    assert all(packet[0] in (0x80, 0x81) for packet in packets)
    sequence = [struct.unpack_from(">H", packet, 2)[0] for packet in packets if not 200 <= packet[1] <= 204]
    gaps = [after - before & 0xFFFF for before, after in itertools.pairwise(sequence)]
    assert skipped > 5 and max(gaps) > 5


async def test_removed_camera_drops_its_clients_and_no_others(server: RtspServer, shelf: ClipShelf) -> None:
    server.add_camera("cam1", shelf.get())
    async with looking(server, "cam0", frames=60) as stays, looking(server, "cam1", frames=1000) as goes:
        url = server.url("cam1")
        server.remove_camera("cam1")
        ended, stayed = await goes, await stays
    gone = await look(url)
    assert ended.error is None and ended.seconds < ENDED_S
    assert stayed.error is None and follows(stayed.numbers)
    assert isinstance(gone.error, av.HTTPNotFoundError)
    assert list(server.stats()) == ["cam0"]


async def test_camera_names_are_checked(server: RtspServer, shelf: ClipShelf) -> None:
    with pytest.raises(SimulatorError, match="there is a camera cam0 already"):
        server.add_camera("cam0", shelf.get())
    with pytest.raises(SimulatorError, match="camera name 'a/b' is not made of"):
        server.add_camera("a/b", shelf.get())


async def test_protocol_is_answered_as_rfc_2326_has_it(server: RtspServer) -> None:
    async with raw_client(server.url("cam0")) as client:
        assert "GET_PARAMETER" in (await client.ask("OPTIONS")).headers["public"]
        described = await client.ask("DESCRIBE", {"Accept": "application/sdp"})
        assert described.headers["content-base"] == client.url + "/"
        assert (await client.ask("PLAY")).status == 455
        assert (await client.ask("SETUP", {"Transport": "RAW/RAW/UDP"}, track="/trackID=0")).status == 461
        assert (await client.ask("SETUP", {"Transport": "RTP/AVP/TCP"}, track="/trackID=1")).status == 404
        assert (await client.ask("RECORD")).status == 405
        assert (await client.ask("DESCRIBE", url=client.url + "x")).status == 404
        assert (
            (await client.play(transport="RTP/AVP/TCP;unicast"))
            .headers["transport"]
            .startswith("RTP/AVP/TCP;unicast;interleaved=0-1;")
        )
        await client.send(b"$\x01\x00\x08" + struct.pack(">BBHI", 0x80, 201, 1, 5))  # a receiver report
        assert (await client.ask("SET_PARAMETER", {"Session": "1"})).status == 200
        assert server.stats()["cam0"].viewers == 1
        assert (await client.ask("TEARDOWN")).status == 200
        assert await client.reader.read() == b""
    assert server.stats()["cam0"].viewers == 0


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\xff" * 40 + b"\r\n\r\n", b"x" * 300_000, b"$\x00\xff\xff"]
)
async def test_noise_ends_its_own_connection_only(server: RtspServer, noise: bytes) -> None:
    async with raw_client(server.url("cam0")) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(noise)
            client.writer.write_eof()
            assert await client.reader.read() == b""
    assert (await look(server.url("cam0"), frames=3)).error is None


async def test_closed_server_leaves_nothing_behind(shelf: ClipShelf) -> None:
    before = asyncio.all_tasks()
    async with RtspServer() as server:
        server.add_camera("cam0", shelf.get())
        port = server.port
        async with looking(server, frames=1000) as task:
            await server.close()
            view = await task
    assert view.error is None and view.seconds < ENDED_S
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(SimulatorError, match="the simulator is not listening"):
        server.add_camera("cam1", shelf.get())
