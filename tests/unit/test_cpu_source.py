"""The CPU source without a camera: its decisions, its error table, and files."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pytest

from app.backends.ffmpeg.blocks import MAX_BLOCK_BYTES, bound_blocks
from app.backends.ffmpeg.decoder import FrameDecoder
from app.backends.ffmpeg.faults import open_failed, read_failed, resolve_failed
from app.backends.ffmpeg.reader import PacketReader
from app.backends.ffmpeg.source import PyavSource
from app.backends.ffmpeg.surface import HostSurface
from app.backends.ffmpeg.timing import Decode, DecodeGate, LagMeter, Pacer, date_packet
from app.cameras.source import FrameSource, SourceRequest
from app.cameras.urls import parse_camera_url
from app.errors import SourceError, SourceErrorCode
from app.types import SourceFrame, StreamInfo
from tests.support.clips import Codec, read_frame_number, write_test_clip

FPS = 20
GOP = 5


def shedding(meter: LagMeter) -> bool:
    return meter.shedding


def info(source: PyavSource) -> StreamInfo | None:
    return source.info


class TestLag:
    """Frames come at 20 fps of media time; the reader's own time decides whether it keeps up."""

    def read(self, meter: LagMeter, times: Iterator[tuple[float, float]]) -> None:
        for media_s, at in times:
            meter.observe(media_s, at)

    def test_a_reader_that_keeps_up_has_none(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n / FPS, 100 + n / FPS + 0.02 * (n % 3)) for n in range(200)))
        assert meter.lag_s <= 0.04
        assert not shedding(meter)

    def test_a_slow_reader_sheds_after_a_second_and_until_it_has_caught_up(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n / FPS, n / FPS * 1.2) for n in range(100)))
        assert meter.lag_s == pytest.approx(0.99, abs=0.02)
        assert not shedding(meter)
        self.read(meter, ((n / FPS, n / FPS * 1.2) for n in range(100, 110)))
        assert shedding(meter)
        behind = 109 / FPS * 0.2
        self.read(meter, ((n / FPS, n / FPS + behind * (120 - n) / 10) for n in range(110, 119)))
        assert shedding(meter)
        meter.observe(119 / FPS, 119 / FPS + 0.1)
        assert not shedding(meter)
        assert meter.lag_s == pytest.approx(0.1, abs=0.01)

    def test_a_lag_that_skipping_cannot_shorten_was_never_ours(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n / FPS, n / FPS) for n in range(20)))
        # The camera's clock stood still for three seconds.
        self.read(meter, ((n / FPS, n / FPS + 3) for n in range(20, 30)))
        assert shedding(meter)
        self.read(meter, ((n / FPS, n / FPS + 3) for n in range(30, 60)))
        assert not shedding(meter)
        assert meter.lag_s == pytest.approx(0, abs=0.01)

    def test_a_drifting_camera_clock_is_no_lag(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n, n * 1.0001) for n in range(100_000)))
        assert meter.lag_s < 0.01

    @pytest.mark.parametrize("drift", [0.001, 0.005, 0.02, 0.04])
    def test_a_clock_that_drifts_worse_than_any_crystal_is_taken_for_lag_once(self, drift: float) -> None:
        meter, skipped = LagMeter(), []
        for n in range(round(20 / drift)):
            meter.observe(float(n), n * (1 + drift))
            skipped += [n] * shedding(meter)
        assert 0 < len(skipped) <= 4
        assert meter.lag_s < 0.01

    def test_a_pause_teaches_no_drift(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n / FPS, n / FPS) for n in range(2000)))
        self.read(meter, ((n / FPS, n / FPS + 1.2) for n in range(2000, 2200)))
        assert not shedding(meter)
        self.read(meter, ((n / FPS, n / FPS * 1.02 + 1.2 - 2200 / FPS * 0.02) for n in range(2200, 3220)))
        assert shedding(meter)

    @pytest.mark.parametrize("rate", [0.9, 0.5, 1 / 90, 0.0, -1.0])
    def test_a_clock_that_is_slow_or_stands_still_is_taken_for_lag_once(self, rate: float) -> None:
        meter, skipped = LagMeter(), 0
        for n in range(FPS * 120):
            meter.observe(rate * n / FPS, n / FPS)
            skipped += shedding(meter)
        assert 0 < skipped <= 1.2 * FPS
        assert meter.lag_s < 0.01

    def test_a_clock_that_is_right_again_tells_lag_again(self) -> None:
        meter = LagMeter()
        self.read(meter, ((n / FPS / 2, n / FPS) for n in range(200)))
        self.read(meter, ((5 + n / FPS, 10 + n / FPS) for n in range(200)))
        self.read(meter, ((15 + n / FPS / 2, 20 + n / FPS) for n in range(50)))
        assert shedding(meter)

    def test_jumps_of_the_media_clock_are_no_lag(self) -> None:
        meter = LagMeter()
        for jump in (-100.0, 100.0):
            self.read(meter, ((n / FPS, n / FPS) for n in range(20)))
            self.read(meter, ((n / FPS + jump, n / FPS) for n in range(20, 40)))
            assert meter.lag_s < 0.01
            assert not shedding(meter)


class TestDecodeGate:
    """25 fps with a keyframe a second."""

    def decide(
        self, gate: DecodeGate, seconds: range, *, max_fps: float | None, shedding: bool = False
    ) -> list[Decode]:
        return [
            gate.decide(is_key=frame == 0, media_s=second + frame / 25, max_fps=max_fps, shedding=shedding)
            for second in seconds
            for frame in range(25)
        ]

    @pytest.mark.parametrize("max_fps", [None, 25.0, 1.2])
    def test_everything_is_decoded_when_keyframes_do_not_suffice(self, max_fps: float | None) -> None:
        assert set(self.decide(DecodeGate(), range(6), max_fps=max_fps)) == {Decode.NEXT}

    @pytest.mark.parametrize("max_fps", [1.0, 1.05])
    def test_keyframes_alone_are_decoded_once_they_are_known_to_suffice(self, max_fps: float) -> None:
        decisions = self.decide(DecodeGate(), range(6), max_fps=max_fps)
        assert set(decisions[:50]) == {Decode.NEXT}
        assert decisions[50:] == ([Decode.ALONE] + [Decode.SKIP] * 24) * 4

    @pytest.mark.parametrize(("max_fps", "of_ten"), [(0.7, 7), (0.5, 5), (0.1, 5)])
    def test_of_keyframes_that_come_more_often_those_that_are_wanted_and_one_in_two_seconds_are_decoded(
        self, max_fps: float, of_ten: int
    ) -> None:
        decisions = self.decide(DecodeGate(), range(32), max_fps=max_fps)
        keys, others = decisions[::25], [each for number, each in enumerate(decisions) if number % 25]
        assert keys[2] is Decode.ALONE
        assert keys[2:].count(Decode.ALONE) == 3 * of_ten
        assert set(keys[2:]) == {Decode.ALONE, Decode.SKIP}
        assert set(others[48:]) == {Decode.SKIP}

    @pytest.mark.parametrize("interval_s", [0.96, 1.0, 1.04])
    def test_a_keyframe_about_as_often_as_wanted_suffices_though_clocks_jitter(self, interval_s: float) -> None:
        gate = DecodeGate()
        keys = [
            gate.decide(is_key=True, media_s=number * interval_s + jitter_s, max_fps=1.0, shedding=False)
            for number, jitter_s in zip(range(60), itertools.cycle([0.0, 0.02, -0.02]), strict=False)
        ]
        assert Decode.NEXT not in keys[3:]
        assert keys[3:].count(Decode.ALONE) >= 54

    def test_while_lag_is_shed_every_keyframe_is_decoded_to_find_the_newest(self) -> None:
        gate = DecodeGate()
        self.decide(gate, range(4), max_fps=0.5)
        keys = [gate.decide(is_key=True, media_s=4.0 + n, max_fps=0.5, shedding=True) for n in range(4)]
        assert keys == [Decode.ALONE] * 4

    def test_everything_begins_again_right_at_a_keyframe(self) -> None:
        gate = DecodeGate()
        self.decide(gate, range(3), max_fps=1.0)
        assert gate.decide(is_key=False, media_s=3.0, max_fps=None, shedding=False) is Decode.SKIP
        assert set(self.decide(gate, range(4, 6), max_fps=None)) == {Decode.NEXT}

    def test_lag_skips_at_once_and_up_to_a_keyframe_after_it_is_gone(self) -> None:
        gate = DecodeGate()
        self.decide(gate, range(1), max_fps=None)
        assert gate.decide(is_key=False, media_s=1.0, max_fps=None, shedding=True) is Decode.SKIP
        assert gate.decide(is_key=True, media_s=1.1, max_fps=None, shedding=True) is Decode.ALONE
        assert gate.decide(is_key=False, media_s=1.2, max_fps=None, shedding=False) is Decode.SKIP
        assert gate.decide(is_key=True, media_s=1.3, max_fps=None, shedding=False) is Decode.NEXT
        assert gate.decide(is_key=False, media_s=1.4, max_fps=None, shedding=False) is Decode.NEXT

    def test_a_longer_interval_between_keyframes_ends_it(self) -> None:
        gate = DecodeGate()
        self.decide(gate, range(4), max_fps=1.0)
        assert gate.decide(is_key=True, media_s=8.0, max_fps=1.0, shedding=False) is Decode.NEXT

    def test_packets_without_a_time_are_decoded(self) -> None:
        gate = DecodeGate()
        for _ in range(5):
            assert gate.decide(is_key=True, media_s=None, max_fps=0.1, shedding=False) is Decode.NEXT


def test_a_file_is_played_in_real_time() -> None:
    pacer = Pacer()
    assert pacer.delay_s(5.0, 100.0) == 0
    assert pacer.delay_s(5.5, 100.1) == pytest.approx(0.4)
    assert pacer.delay_s(6.0, 101.5) == 0


class TestKeyframes:
    """A camera that sends a packet a second, on a clock of the test's; keyframes where the test wants them."""

    def read(self, keys: set[int], *, count: int) -> SourceError | None:
        now = itertools.count(1000)
        at = 1000.0
        packets = [
            SimpleNamespace(size=9, dts=n, is_keyframe=n in keys, has_sidedata=lambda name: False) for n in range(count)
        ]

        def demux(video: object) -> Iterator[Any]:
            nonlocal at
            for packet in packets:
                at = float(next(now))
                yield packet

        stream: Any = SimpleNamespace(
            camera=CAMERA, patience_s=5.0, video=SimpleNamespace(time_base=1), container=SimpleNamespace(demux=demux)
        )
        stop = threading.Event()
        reader = PacketReader(stream, stall_timeout_s=10.0, opened_at=at, stop=stop, clock=lambda: at)
        try:
            for number, packet in enumerate(reader.packets()):
                if packet.is_keyframe:
                    reader.progressed()
                else:
                    reader.left_out()
                if number == count - 1:
                    stop.set()
        except SourceError as exc:
            return exc
        return None

    def test_what_is_left_out_up_to_the_next_one_is_no_failure(self) -> None:
        assert self.read(set(range(0, 100, 20)), count=100) is None

    def test_one_that_never_comes_is_a_failure_at_last(self) -> None:
        error = self.read({0, 20, 40}, count=100)
        assert error is not None
        assert error.code is SourceErrorCode.DECODE_FAILED
        assert "has sent no keyframe for 40 seconds" in error.message

    def test_where_only_one_was_ever_seen_three_stall_timeouts_count(self) -> None:
        error = self.read({0}, count=100)
        assert error is not None
        assert "for 30 seconds" in error.message


def test_a_late_reader_and_a_jump_in_a_file_start_a_new_count() -> None:
    pacer = Pacer()
    pacer.delay_s(0.0, 100.0)
    assert pacer.delay_s(1.0, 105.0) == 0
    assert pacer.delay_s(1.5, 105.0) == pytest.approx(0.5)
    assert pacer.delay_s(100.0, 105.0) == 0
    assert pacer.delay_s(100.5, 105.0) == pytest.approx(0.5)
    assert pacer.delay_s(0.0, 105.0) == 0


@pytest.mark.parametrize(
    "sender_utc", [None, -2_208_988_800.0, 0.0, 946_684_800.0, 1_800_000_003.0, 1_800_007_200.0, 1_799_999_960.0]
)
def test_a_camera_whose_clock_is_not_set_right_is_dated_by_arrival(sender_utc: float | None) -> None:
    arrival = date_packet(at=5.0, utc=1_800_000_000.0, lag_s=0.5, sender_utc=sender_utc)
    assert (arrival.captured_utc, arrival.clock) == (1_799_999_999.5, "arrival")


def test_a_sender_report_dates_a_packet() -> None:
    arrival = date_packet(at=5.0, utc=1_800_000_000.0, lag_s=0.5, sender_utc=1_799_999_990.0)
    assert (arrival.at, arrival.captured_utc, arrival.clock) == (5.0, 1_799_999_990.0, "rtcp")


CAMERA = parse_camera_url("rtsp://admin:hush-hush@cam.example:8554/main")
TLS_CAMERA = parse_camera_url("rtsps://cam.example/main")


def raised(kind: type[Exception], number: int = 1) -> Exception:
    return kind(number, "text", "rtsp://admin:hush-hush@cam.example:8554/main")


@pytest.mark.parametrize(
    ("error", "took_s", "code"),
    [
        (raised(av.error.HTTPUnauthorizedError), 0, SourceErrorCode.AUTH_FAILED),
        (raised(av.error.HTTPForbiddenError), 0, SourceErrorCode.AUTH_FAILED),
        (raised(av.error.HTTPNotFoundError), 0, SourceErrorCode.NOT_FOUND),
        (raised(av.error.HTTPBadRequestError), 0, SourceErrorCode.NOT_FOUND),
        (raised(av.error.HTTPOtherClientError), 0, SourceErrorCode.NO_VIDEO),
        (raised(av.error.HTTPServerError), 0, SourceErrorCode.CONNECTION_REFUSED),
        (raised(av.error.ConnectionRefusedError, errno.ECONNREFUSED), 0, SourceErrorCode.CONNECTION_REFUSED),
        (raised(av.error.ConnectionResetError, errno.ECONNRESET), 0, SourceErrorCode.CONNECTION_REFUSED),
        (raised(av.error.ExitError), 5, SourceErrorCode.CONNECT_TIMEOUT),
        (raised(av.error.TimeoutError, errno.ETIMEDOUT), 5, SourceErrorCode.CONNECT_TIMEOUT),
        (raised(av.error.InvalidDataError), 5, SourceErrorCode.CONNECT_TIMEOUT),
        (raised(av.error.InvalidDataError), 0.1, SourceErrorCode.NO_VIDEO),
        (raised(av.error.OSError, errno.EPROTONOSUPPORT), 0.1, SourceErrorCode.NO_VIDEO),
        (raised(av.error.OSError, errno.EHOSTUNREACH), 3, SourceErrorCode.CONNECT_TIMEOUT),
        (raised(av.error.OSError, errno.EMFILE), 0, SourceErrorCode.RESOURCE_EXHAUSTED),
        (raised(av.error.MemoryError, errno.ENOMEM), 0, SourceErrorCode.RESOURCE_EXHAUSTED),
        (MemoryError(), 0, SourceErrorCode.RESOURCE_EXHAUSTED),
    ],
)
def test_an_error_of_opening_has_one_code_and_names_no_secret(
    error: Exception, took_s: float, code: SourceErrorCode
) -> None:
    ours = open_failed(error, CAMERA, took_s=took_s, patience_s=5, anonymous=False)
    assert ours.code is code
    assert ours.message.startswith("cam.example:8554 ")
    assert "hush" not in repr(ours)
    assert "main" not in repr(ours)


@pytest.mark.parametrize("error", [raised(av.error.OSError, errno.EIO), raised(av.error.EOFError)])
def test_an_unclear_error_of_an_encrypted_camera_is_a_failed_handshake_unless_it_took_long(error: Exception) -> None:
    at_once = open_failed(error, TLS_CAMERA, took_s=0.1, patience_s=5, anonymous=True)
    assert at_once.code is SourceErrorCode.TLS_FAILED
    late = open_failed(error, TLS_CAMERA, took_s=5, patience_s=5, anonymous=True)
    assert late.code is SourceErrorCode.CONNECT_TIMEOUT


def test_the_message_tells_a_missing_password_from_a_wrong_one() -> None:
    error = raised(av.error.HTTPUnauthorizedError)
    missing = open_failed(error, CAMERA, took_s=0, patience_s=5, anonymous=True)
    wrong = open_failed(error, CAMERA, took_s=0, patience_s=5, anonymous=False)
    assert missing.message == "cam.example:8554 asks for a username and a password"
    assert wrong.message == "cam.example:8554 refused the username or the password"


@pytest.mark.parametrize(
    ("error", "silent_s", "code"),
    [
        (raised(av.error.OSError, errno.EIO), 5, SourceErrorCode.READ_TIMEOUT),
        (raised(av.error.OSError, errno.EIO), 0.1, SourceErrorCode.END_OF_STREAM),
        (raised(av.error.OSError, errno.ENOMEM), 0.1, SourceErrorCode.RESOURCE_EXHAUSTED),
    ],
)
def test_an_error_of_reading_has_one_code(error: Exception, silent_s: float, code: SourceErrorCode) -> None:
    assert read_failed(error, CAMERA, silent_s=silent_s, patience_s=5).code is code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), SourceErrorCode.DNS_FAILED),
        (socket.gaierror(socket.EAI_AGAIN, "x"), SourceErrorCode.DNS_FAILED),
        (socket.gaierror(socket.EAI_MEMORY, "x"), SourceErrorCode.RESOURCE_EXHAUSTED),
        (OSError(errno.EMFILE, "x"), SourceErrorCode.RESOURCE_EXHAUSTED),
        (UnicodeError("x"), SourceErrorCode.DNS_FAILED),
    ],
)
def test_an_error_of_the_resolver_has_one_code(error: Exception, code: SourceErrorCode) -> None:
    assert resolve_failed(error, CAMERA).code is code


MakeSource = Callable[..., PyavSource]


@pytest.fixture
def make_source(tmp_path: Path) -> Iterator[MakeSource]:
    made: list[PyavSource] = []

    def make(url: str, **more: object) -> PyavSource:
        options: dict[str, object] = {"media_dir": tmp_path, "stall_timeout_s": 1.0, **more}
        made.append(PyavSource(SourceRequest(camera_id="cam", url=url, **options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for source in made:
        source.close()


def play(source: FrameSource[HostSurface]) -> tuple[list[int], list[SourceFrame[HostSurface]], SourceError]:
    """Read until the source fails: the frames' own numbers, the frames, the error."""
    numbers, frames = [], []
    try:
        for frame in source.frames():
            numbers.append(read_frame_number(frame.surface.to_bgr()))
            frames.append(frame)
    except SourceError as exc:
        return numbers, frames, exc
    raise AssertionError("the source ended without an error")


@pytest.mark.parametrize(
    ("codec", "b_frames", "suffix"),
    [("h264", 0, "mp4"), ("h264", 2, "mkv"), ("hevc", 2, "mp4"), ("mjpeg", 0, "avi"), ("av1", 0, "mkv")],
)
def test_a_file_gives_every_frame_in_order_and_ends(
    make_source: MakeSource, tmp_path: Path, codec: Codec, b_frames: int, suffix: str
) -> None:
    write_test_clip(tmp_path / f"clip.{suffix}", codec=codec, fps=FPS, gop=GOP, seconds=0.5, b_frames=b_frames)
    source = make_source(f"file:clip.{suffix}")
    assert info(source) is None
    numbers, frames, error = play(source)
    assert numbers == list(range(10))
    assert error.code is SourceErrorCode.END_OF_STREAM
    known = info(source)
    assert known is not None
    assert (known.codec, known.width, known.height, known.decoder) == (codec, 320, 240, "software")
    pts = [frame.pts_s for frame in frames if frame.pts_s is not None]
    assert [after - before for before, after in itertools.pairwise(pts)] == pytest.approx([1 / FPS] * 9, abs=2e-3)
    for frame in frames:
        assert frame.times.arrived_at <= frame.times.decoded_at
        assert 0 <= frame.times.decode_s < 1
        assert frame.times.clock == "arrival"
        assert abs(frame.times.captured_utc - time.time()) < 10


def test_a_frame_is_dated_by_the_packet_that_carried_it(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mkv", fps=FPS, gop=GOP, seconds=0.5, b_frames=2)
    _, frames, _ = play(make_source("file:clip.mkv"))
    arrivals = [frame.times.arrived_at for frame in frames]
    # A B-frame is shown before the frame that it was sent after.
    assert arrivals != sorted(arrivals)


def test_a_file_plays_in_real_time_and_again_after_its_end(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mp4", fps=FPS, gop=GOP, seconds=0.5)
    for _ in range(2):
        started_at = time.monotonic()
        numbers, _, error = play(make_source("file:clip.mp4"))
        assert 0.4 <= time.monotonic() - started_at < 20
        assert numbers == list(range(10))
        assert error.message == "clip.mp4 was played to its end"


def test_the_video_is_found_behind_the_audio(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mp4", fps=FPS, gop=GOP, seconds=0.25, audio_first=True)
    assert play(make_source("file:clip.mp4"))[0] == list(range(5))


def test_keyframes_suffice_for_a_slow_pace(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mp4", fps=50, gop=GOP, seconds=0.6, b_frames=2)
    source = make_source("file:clip.mp4")
    source.pace(10.0)
    numbers, frames, _ = play(source)
    # The distance of keyframes is known with the third one.
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25]
    assert source.stats.skipped == 16
    # None of them waits in the decoder for the next one.
    assert all(one.times.decoded_at <= after.times.arrived_at for one, after in itertools.pairwise(frames[-4:]))


def test_an_interrupted_file_ends_quietly_in_the_middle_of_a_wait(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mp4", fps=Fraction(1, 9), gop=1, seconds=18)
    source = make_source("file:clip.mp4")
    seen: list[float] = []

    def read() -> None:
        for frame in source.frames():
            seen.append(frame.times.decoded_at)
            threading.Timer(0.05, source.interrupt).start()
        seen.append(time.monotonic())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(seen) == 2
    assert seen[1] - seen[0] < 8  # the next frame is due after 9 seconds


def test_a_source_that_was_interrupted_or_closed_before_does_not_connect(make_source: MakeSource) -> None:
    interrupted, closed = make_source("rtsp://127.0.0.1:9/x"), make_source("rtsp://127.0.0.1:9/x")
    interrupted.interrupt()
    closed.close()
    closed.close()
    assert list(interrupted.frames()) == []
    assert list(closed.frames()) == []


def test_a_source_that_was_closed_between_frames_gives_no_more(make_source: MakeSource, tmp_path: Path) -> None:
    write_test_clip(tmp_path / "clip.mp4", fps=FPS, gop=GOP, seconds=0.5)
    source = make_source("file:clip.mp4")
    frames = source.frames()
    first = next(frames)
    source.close()
    assert list(frames) == []
    assert read_frame_number(first.surface.to_bgr()) == 0


def no_such_file(folder: Path) -> str:
    return "file:nothing.mp4"


def folder(folder: Path) -> str:
    (folder / "sub").mkdir()
    return "file:sub"


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "file:pipe"


def text_file(folder: Path) -> str:
    (folder / "notes.mp4").write_text("no video at all\n" * 100)
    return "file:notes.mp4"


def playlist(folder: Path) -> str:
    write_test_clip(folder / "clip.ts", seconds=0.2)
    (folder / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/clip.ts\n#EXT-X-ENDLIST\n"
    )
    return "file:list.m3u8"


def sound_only(folder: Path) -> str:
    with av.open(str(folder / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (folder / "sound.wav").rename(folder / "sound.avi")
    return "file:sound.avi"


def elsewhere(folder: Path) -> str:
    return "file:///etc/hostname"


def other_scheme(folder: Path) -> str:
    return "http://127.0.0.1/x"


def refused(folder: Path) -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"rtsp://127.0.0.1:{unused.getsockname()[1]}/x"


def unknown_name(folder: Path) -> str:
    return "rtsp://camera.invalid/x"


def too_long_a_password(folder: Path) -> str:
    return f"rtsp://u:{'x' * 200}@127.0.0.1/x"


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (no_such_file, SourceErrorCode.NOT_FOUND),
        (folder, SourceErrorCode.FORBIDDEN_URL),
        (fifo, SourceErrorCode.FORBIDDEN_URL),
        (text_file, SourceErrorCode.NO_VIDEO),
        (playlist, SourceErrorCode.NO_VIDEO),
        (sound_only, SourceErrorCode.NO_VIDEO),
        (elsewhere, SourceErrorCode.FORBIDDEN_URL),
        (other_scheme, SourceErrorCode.FORBIDDEN_URL),
        (refused, SourceErrorCode.CONNECTION_REFUSED),
        (unknown_name, SourceErrorCode.DNS_FAILED),
        (too_long_a_password, SourceErrorCode.FORBIDDEN_URL),
    ],
)
def test_what_cannot_be_opened_has_its_code(
    make_source: MakeSource, tmp_path: Path, prepare: Callable[[Path], str], code: SourceErrorCode
) -> None:
    numbers, _, error = play(make_source(prepare(tmp_path)))
    assert numbers == []
    assert error.code is code, error.message


def test_a_lack_of_file_descriptors_is_told_as_such(make_source: MakeSource, tmp_path: Path) -> None:
    url = refused(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        _, _, error = play(make_source(url))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.code is SourceErrorCode.RESOURCE_EXHAUSTED


def test_a_file_whose_video_is_damaged_is_told_as_such(make_source: MakeSource, tmp_path: Path) -> None:
    with (
        av.open(str(write_test_clip(tmp_path / "whole.mp4", fps=50, seconds=0.2))) as whole,
        av.open(str(tmp_path / "clip.mkv"), "w") as damaged,
    ):
        stream = damaged.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                noise = av.Packet(b"\xff" * packet.size)
                noise.stream, noise.pts, noise.dts = stream, packet.pts, packet.dts
                noise.time_base, noise.is_keyframe = packet.time_base, packet.is_keyframe
                damaged.mux(noise)
    source = make_source("file:clip.mkv")
    numbers, _, error = play(source)
    assert numbers == []
    assert error.code is SourceErrorCode.DECODE_FAILED
    assert source.stats.undecodable > 0


class StubbornContext:
    """A codec context that answers each packet as the test says, in turn, and the last way for ever."""

    def __init__(self, *answers: Exception | list[av.VideoFrame], size: tuple[int, int] = (64, 48)) -> None:
        self.answers = list(answers)
        self.options: dict[str, str] = {}
        self.width, self.height = size
        self.framerate = None
        self.codec = av.Codec("h264", "r")

    def decode(self, packet: object) -> list[av.VideoFrame]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def decode_with(context: StubbornContext, packets: int) -> FrameDecoder:
    video: Any = SimpleNamespace(codec_context=context, time_base=None)
    packet: Any = av.Packet(0)
    decoder = FrameDecoder(video, log=logging.getLogger("test"))
    for _ in range(packets):
        decoder.decode(packet, alone=False)
    return decoder


def test_a_picture_for_which_there_is_no_memory_is_left_out_and_counted() -> None:
    now_and_then: list[Any] = [MemoryError(), []] * 50
    assert decode_with(StubbornContext(*now_and_then), 100).undecodable == 50


def test_a_lack_of_memory_that_lasts_ends_the_connection_with_its_code() -> None:
    with pytest.raises(SourceError, match="the decoder found no memory left") as caught:
        decode_with(StubbornContext(MemoryError()), 1000)
    assert caught.value.code is SourceErrorCode.RESOURCE_EXHAUSTED


def test_a_stream_that_announces_absurd_sizes_is_refused_with_a_sentence() -> None:
    refused = StubbornContext(raised(av.error.InvalidDataError), size=(16384, 16384))
    with pytest.raises(SourceError, match=r"announces pictures of 16384x16384; at most 35\.7 million pixels") as caught:
        decode_with(refused, 1)
    assert caught.value.code is SourceErrorCode.UNSUPPORTED_CODEC


def test_ffmpeg_itself_reserves_no_memory_for_such_pictures(
    make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.backends.ffmpeg.decoder.MAX_PIXELS", 100 * 100)
    write_test_clip(tmp_path / "clip.mp4", fps=FPS, gop=GOP, seconds=0.5)
    _, frames, error = play(make_source("file:clip.mp4"))
    assert frames == []
    assert (error.code, "320x240" in error.message) == (SourceErrorCode.UNSUPPORTED_CODEC, True)


def test_a_picture_that_never_ends_takes_no_more_memory_than_one_block() -> None:
    bound_blocks()
    parser, process = av.CodecContext.create("h264", "r"), psutil.Process()
    parser.parse(b"\0\0\1\x65")
    before = process.memory_info().rss
    middle = b"\x55" * (8 << 20)
    for _ in range(2 * MAX_BLOCK_BYTES // len(middle)):
        parser.parse(middle)
    assert process.memory_info().rss - before < 1.25 * MAX_BLOCK_BYTES


def test_a_stream_whose_size_changes_with_every_frame_is_followed(make_source: MakeSource, tmp_path: Path) -> None:
    sizes = [(160, 120), (320, 240), (64, 48), (640, 360)] * 3
    pictures = [cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes() for width, height in sizes]
    (tmp_path / "clip.mjpeg").write_bytes(b"".join(pictures))
    source, seen = make_source("file:clip.mjpeg"), []
    with pytest.raises(SourceError, match="was played to its end"):
        for frame in source.frames():
            known = info(source)
            assert known is not None
            assert (known.width, known.height) == (frame.surface.width, frame.surface.height)
            seen.append((frame.surface.width, frame.surface.height))
    assert seen == sizes
