"""The CUDA source against the simulator, on a host driver with FFmpeg in NVDEC's place: as good as the CPU source."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.cuda.choice import RETRY_AFTER_S, DecoderChoice, DecoderMode
from app.backends.cuda.guard import FILE_NAME, QUIET_S, OpeningGuard
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.nvdec import NvdecError
from app.backends.cuda.ring import SurfacePool
from app.backends.cuda.source import CudaSource, CudaVideo, open_cuda_video
from app.backends.ffmpeg.source import PyavSource
from app.cameras.doctor import diagnose
from app.cameras.source import SourceRequest
from app.errors import SourceError, SourceErrorCode
from app.simulator.clip import Clip, load_clip
from app.simulator.server import RtspServer
from app.types import FrameTimes, StreamInfo
from tests.support.clips import Codec, read_frame_number, write_test_clip
from tests.support.fake_nvdec import FakeNvdec
from tests.support.host_driver import HostDriver
from tests.support.wait import wait_until

FPS = 50
GOP = 5
FRAMES = 40
STALL_S = 0.5
CLIPS: dict[str, tuple[Codec, int, str]] = {
    "h264": ("h264", 0, "nvdec"),
    "hevc": ("hevc", 0, "nvdec"),
    "av1": ("av1", 0, "nvdec"),
    "h264-b": ("h264", 2, "nvdec"),
    "hevc-b": ("hevc", 2, "nvdec"),
    "mjpeg": ("mjpeg", 0, "software"),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Clip]:
    folder = tmp_path_factory.mktemp("clips")
    seconds = FRAMES / FPS
    made = {}
    for name, (codec, b_frames, _) in CLIPS.items():
        path = folder / f"{name}.mp4"
        write_test_clip(path, codec=codec, width=192, height=128, fps=FPS, gop=GOP, seconds=seconds, b_frames=b_frames)
        made[name] = load_clip(path)
    wide = write_test_clip(folder / "wide.mp4", width=256, height=144, fps=FPS, gop=GOP, seconds=seconds)
    return {**made, "wide": load_clip(wide)}


class Device:
    """A host driver, NVDEC on it, and what its cameras share; `now` is the clock of failures."""

    def __init__(self, data_dir: Path, *, mode: DecoderMode = "auto", budget_bytes: int = 1 << 26) -> None:
        self.now = 1000.0
        self.driver = HostDriver()
        self.nvdec = FakeNvdec(self.driver)
        self.guard = OpeningGuard(data_dir / FILE_NAME)
        choice = DecoderChoice(
            mode=mode, nvdec=self.nvdec, guard=self.guard, driver=self.driver, clock=lambda: self.now
        )
        pool = SurfacePool(self.driver, MemoryBudget(budget_bytes))
        self.video = CudaVideo(driver=self.driver, choice=choice, pool=pool, slots=6)

    def assert_nothing_left(self) -> None:
        self.video.close()
        assert self.driver.left_open == []


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.assert_nothing_left()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    number: int  # that the camera drew into the picture
    bgr: NDArray[np.uint8]
    pts_s: float | None
    times: FrameTimes
    info: StreamInfo | None


class Viewing:
    """A source that is read in a thread, and what came of it."""

    def __init__(self, source: CudaSource | PyavSource) -> None:
        self.source = source
        self.seen: list[Seen] = []
        self.error: SourceError | None = None
        self.ended = False
        self._thread = threading.Thread(target=self._read, name="camera:viewing")
        self._thread.start()

    def _read(self) -> None:
        try:
            for frame in self.source.frames():
                bgr = frame.surface.to_bgr()
                frame.surface.release()
                number = read_frame_number(bgr)
                seen = Seen(number=number, bgr=bgr, pts_s=frame.pts_s, times=frame.times, info=self.source.info)
                self.seen.append(seen)
        except SourceError as exc:
            self.error = exc
        finally:
            self.source.close()
            self.ended = True

    async def frames(self, count: int) -> list[Seen]:
        """Wait for `count` frames from now on and give them; fail at once when the source fails."""
        start = len(self.seen)
        await wait_until(lambda: len(self.seen) >= start + count or self.ended, what=f"{count} frames")
        assert self.error is None, self.error
        return self.seen[start:]

    async def end(self) -> SourceErrorCode | None:
        """Wait until the source ends by itself, and give the code of its error."""
        await wait_until(lambda: self.ended)
        return None if self.error is None else self.error.code

    async def stop(self) -> None:
        self.source.interrupt()
        await wait_until(lambda: not self._thread.is_alive())


@contextlib.asynccontextmanager
async def viewing(device: Device | None, url: str, *, camera_id: str = "cam", **more: Any) -> AsyncIterator[Viewing]:
    """Watch with the device, or in software without one."""
    request = SourceRequest(camera_id=camera_id, url=url, **{"stall_timeout_s": 5.0, **more})
    view = Viewing(PyavSource(request) if device is None else CudaSource(request, video=device.video))
    try:
        yield view
    finally:
        await view.stop()


@contextlib.asynccontextmanager
async def serving(clip: Clip, **more: Any) -> AsyncIterator[RtspServer]:
    async with RtspServer() as server:
        server.add_camera("cam", clip, **more)
        yield server


def follows(seen: list[Seen]) -> bool:
    numbers = [each.number for each in seen]
    return len(numbers) > 1 and all((after - before) % FRAMES == 1 for before, after in itertools.pairwise(numbers))


@pytest.mark.parametrize("name", CLIPS)
async def test_pictures_and_dates_are_those_of_the_cpu_source(
    clips: Mapping[str, Clip], device: Device, name: str
) -> None:
    async with serving(clips[name]) as server:
        async with viewing(None, server.url("cam")) as theirs:
            await theirs.frames(FRAMES)
        async with viewing(device, server.url("cam")) as ours:
            await ours.frames(FRAMES)
    assert follows(ours.seen)
    by_number = {each.number: each.bgr for each in theirs.seen}
    for each in ours.seen[:FRAMES]:
        assert np.array_equal(each.bgr, by_number[each.number]), f"picture {each.number} differs"
    ours_s = [each.pts_s for each in ours.seen if each.pts_s is not None]
    steps = [after - before for before, after in itertools.pairwise(ours_s)]
    assert len(ours_s) == len(ours.seen)
    assert steps[0] == pytest.approx(1 / FPS, abs=0.015)
    assert steps[1:] == pytest.approx([1 / FPS] * len(steps[1:]), abs=1e-3)
    our_info, their_info = ours.seen[-1].info, theirs.seen[-1].info
    assert our_info is not None and their_info is not None
    codec, _, decoder = CLIPS[name]
    assert (our_info.codec, our_info.width, our_info.height, our_info.decoder) == (codec, 192, 128, decoder)
    assert our_info.declared_fps == their_info.declared_fps
    for each in ours.seen:
        assert each.times.arrived_at <= each.times.decoded_at
        assert 0 <= each.times.decode_s < 1


async def test_parameter_sets_in_the_stream_alone_suffice(clips: Mapping[str, Clip], device: Device) -> None:
    async with serving(clips["hevc"], sprop=False) as server, viewing(device, server.url("cam")) as view:
        await view.frames(6)
    assert follows(view.seen)
    assert device.nvdec.opened


async def test_a_sender_report_dates_the_frames(clips: Mapping[str, Clip], device: Device) -> None:
    late_s = 20.0
    async with RtspServer(wall=lambda: time.time() - late_s) as server:
        server.add_camera("cam", clips["h264"])
        opened_utc = time.time()
        async with viewing(device, server.url("cam")) as view:
            seen = await view.frames(10)
            now_utc = time.time()
    assert seen[-1].times.clock == "rtcp"
    assert opened_utc - 0.3 <= seen[-1].times.captured_utc + late_s <= now_utc + 0.3
    assert device.nvdec.opened


async def test_keyframes_suffice_for_a_slow_pace_and_everything_comes_back(
    clips: Mapping[str, Clip], device: Device
) -> None:
    async with serving(clips["h264-b"]) as server, viewing(device, server.url("cam")) as view:
        view.source.pace(5.0)
        await wait_until(lambda: view.source.stats.skipped)
        keyframes = await view.frames(4)
        assert all(frame.number % GOP == 0 for frame in keyframes[1:])
        view.source.pace(None)
        await view.frames(1)
        everything = await view.frames(20)
    assert follows(everything[GOP:])


async def test_a_new_picture_size_goes_on_with_a_new_decoder(clips: Mapping[str, Clip], device: Device) -> None:
    async with serving(clips["h264"]) as server, viewing(device, server.url("cam")) as view:
        server.add_clip(clips["wide"])
        await view.frames(5)
        server.set_fault("cam", "resolution=wide")
        await wait_until(lambda: view.seen[-1].bgr.shape == (144, 256, 3))
        await view.frames(5)
    assert {each.bgr.shape[:2] for each in view.seen} == {(128, 192), (144, 256)}
    for each in view.seen:
        assert each.info is not None and (each.info.height, each.info.width) == each.bgr.shape[:2]
    assert len(device.nvdec.opened) == 2


@pytest.mark.parametrize(
    ("name", "fault", "codes"),
    [
        ("h264", "stall", {SourceErrorCode.READ_TIMEOUT}),
        ("mjpeg", "stall", {SourceErrorCode.READ_TIMEOUT}),
        ("h264", "close", {SourceErrorCode.END_OF_STREAM}),
        ("av1", "eof", {SourceErrorCode.END_OF_STREAM}),
        ("h264", "missing", {SourceErrorCode.END_OF_STREAM}),
        (
            "h264",
            "garbage",
            {SourceErrorCode.READ_TIMEOUT, SourceErrorCode.END_OF_STREAM, SourceErrorCode.DECODE_FAILED},
        ),
        ("av1", "corrupt=1", {SourceErrorCode.DECODE_FAILED}),
    ],
)
async def test_a_camera_that_fails_has_the_code_that_it_has_in_software(
    clips: Mapping[str, Clip], device: Device, name: str, fault: str, codes: set[SourceErrorCode]
) -> None:
    # Where silence is not what ends it, that of a busy machine must not either.
    stall_s = 5.0 if codes == {SourceErrorCode.END_OF_STREAM} else STALL_S
    async with (
        serving(clips[name]) as server,
        viewing(device, server.url("cam"), stall_timeout_s=stall_s) as view,
    ):
        await view.frames(5)
        server.set_fault("cam", fault)
        assert await view.end() in codes, view.error


async def test_a_damaged_stream_ends_no_process_and_heals(clips: Mapping[str, Clip], device: Device) -> None:
    # Damage reaches parameter sets too; the fake fails the test if NVDEC ever sees what it would end the process for.
    async with serving(clips["h264"]) as server, viewing(device, server.url("cam")) as view:
        await view.frames(3)
        server.set_fault("cam", "corrupt=0.3")
        await asyncio.sleep(0)
        packets = view.source.stats.packets
        await wait_until(lambda: view.source.stats.packets > packets + 60 or view.ended)
        server.set_fault("cam", "ok")
        await view.frames(2 * GOP)
        last = await view.frames(10)
    assert view.error is None
    assert follows(last)


async def test_a_failure_of_nvdec_reconnects_in_software_and_comes_back(
    clips: Mapping[str, Clip], device: Device
) -> None:
    async with serving(clips["h264"]) as server:
        async with viewing(device, server.url("cam")) as view:
            await view.frames(3)
            device.nvdec.error = NvdecError("NVDEC failed: cuvid returned error 999")
            assert await view.end() is SourceErrorCode.DECODE_FAILED
        async with viewing(device, server.url("cam")) as view:
            (seen, *_) = await view.frames(3)
            assert seen.info is not None
            assert (seen.info.decoder, seen.info.decoder_reason) == (
                "software",
                "NVDEC failed: cuvid returned error 999",
            )
        assert follows(view.seen)
        device.nvdec.error = None
        device.now += RETRY_AFTER_S
        async with viewing(device, server.url("cam")) as view:
            (seen, *_) = await view.frames(3)
            assert seen.info is not None and seen.info.decoder == "nvdec"
    assert device.video.choice.fallbacks == {"failure": 1}


async def test_an_interrupt_ends_a_running_and_a_silent_source_quietly(
    clips: Mapping[str, Clip], device: Device
) -> None:
    for fault in ("ok", "stall"):
        async with serving(clips["h264"]) as server, viewing(device, server.url("cam"), stall_timeout_s=1.0) as view:
            await view.frames(3)
            server.set_fault("cam", fault)
            view.source.interrupt()
            assert await view.end() is None


async def test_a_source_that_is_closed_early_lets_go_of_everything(clips: Mapping[str, Clip], device: Device) -> None:
    bound_after = []

    def read_some(url: str) -> None:
        source = CudaSource(SourceRequest(camera_id="cam", url=url, stall_timeout_s=5.0), video=device.video)
        frames = source.frames()
        for _ in range(3):
            next(frames).surface.release()
        source.close()
        source.close()
        bound_after.append(device.driver._thread.depth)

    async with serving(clips["h264-b"]) as server:
        await asyncio.to_thread(read_some, server.url("cam"))
    assert bound_after == [0]
    device.assert_nothing_left()


def test_pictures_that_came_together_are_all_let_go_when_reading_ends_between_them(
    device: Device, tmp_path: Path
) -> None:
    write_test_clip(tmp_path / "clip.mp4", width=96, height=64, fps=FPS, gop=GOP, seconds=0.2, b_frames=2)
    request = SourceRequest(camera_id="cam", url="file:clip.mp4", media_dir=tmp_path, stall_timeout_s=5.0)
    source = CudaSource(request, video=device.video)
    for frame in itertools.islice(source.frames(), 9):  # of 10: the last two come with the end of the file
        frame.surface.release()
    assert source.stats.frames == 10
    source.close()


async def test_surfaces_outlive_their_camera(clips: Mapping[str, Clip], device: Device) -> None:
    def read_three(url: str) -> list[Any]:
        source = CudaSource(SourceRequest(camera_id="cam", url=url, stall_timeout_s=5.0), video=device.video)
        kept = list(itertools.islice(source.frames(), 3))
        source.close()
        return kept

    async with serving(clips["h264"]) as server:
        kept = await asyncio.to_thread(read_three, server.url("cam"))
    images = [await asyncio.to_thread(frame.surface.to_bgr) for frame in kept]
    numbers = [read_frame_number(image) for image in images]
    assert [(after - before) % FRAMES for before, after in itertools.pairwise(numbers)] == [1, 1]
    for frame in kept:
        frame.surface.release()  # on the event loop, where nothing may block
    await asyncio.to_thread(device.assert_nothing_left)


async def test_the_third_camera_finds_no_memory_and_the_first_two_go_on(
    clips: Mapping[str, Clip], tmp_path: Path
) -> None:
    picture = 256 * (128 + 64)
    device = Device(tmp_path, budget_bytes=2 * picture)
    async with (
        serving(clips["h264"]) as server,
        viewing(device, server.url("cam"), camera_id="a") as first,
        viewing(device, server.url("cam"), camera_id="b") as second,
    ):
        await first.frames(2)
        await second.frames(2)
        async with viewing(device, server.url("cam"), camera_id="c") as third:
            assert await third.end() is SourceErrorCode.RESOURCE_EXHAUSTED
            assert third.error is not None and f"{picture} bytes each" in third.error.message
        await first.frames(5)
        await second.frames(5)
    await asyncio.to_thread(device.assert_nothing_left)


async def test_the_doctor_passes_a_healthy_camera_and_finds_what_ails_others(
    clips: Mapping[str, Clip], device: Device
) -> None:
    async with serving(clips["h264"]) as server:

        async def ail(fault: str, timeout_s: float) -> tuple[list[str], SourceErrorCode | None]:
            server.set_fault("cam", fault)
            diagnosis = await diagnose(
                SourceRequest(camera_id="doctor", url=server.url("cam")),
                open_source=lambda request: CudaSource(request, video=device.video),
                timeout_s=timeout_s,
            )
            return [result.step for result in diagnosis.steps if result.state == "failed"], diagnosis.code

        assert await ail("ok", 15.0) == ([], None)
        assert await ail("missing", 15.0) == (["sdp"], SourceErrorCode.NOT_FOUND)
        assert await ail("stall", 1.5) == (["first_packet"], SourceErrorCode.READ_TIMEOUT)


DYING = """
import os, sys
from pathlib import Path
from app.backends.cuda.memory import MemoryBudget
from app.backends.cuda.source import CudaSource, open_cuda_video
from app.cameras.source import SourceRequest
from tests.support.fake_nvdec import FakeNvdec
from tests.support.host_driver import HostDriver

def dying(driver):
    nvdec = FakeNvdec(driver)
    nvdec.on_open = lambda: os._exit(1)
    return nvdec

folder = Path(sys.argv[1])
video = open_cuda_video(
    HostDriver(), mode="auto", data_dir=folder, budget=MemoryBudget(1 << 26), contexts=1, load=dying
)
request = SourceRequest(camera_id="poison", url="file:clip.mp4", media_dir=folder, stall_timeout_s=5.0)
next(iter(CudaSource(request, video=video).frames()))
"""


def _die_while_opening(folder: Path) -> None:
    write_test_clip(folder / "clip.mp4", width=192, height=128, fps=FPS, gop=GOP, seconds=0.5)
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(folder)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    written = (folder / FILE_NAME).read_bytes()
    assert b"poison" in written and b"clip.mp4" not in written


async def test_after_a_death_while_opening_that_camera_is_opened_last_and_in_software(
    tmp_path: Path, clips: Mapping[str, Clip]
) -> None:
    await asyncio.to_thread(_die_while_opening, tmp_path)
    device = await asyncio.to_thread(Device, tmp_path)
    async with (
        serving(clips["h264"]) as server,
        viewing(device, "file:clip.mp4", camera_id="poison", media_dir=tmp_path) as poison,
        viewing(device, server.url("cam"), camera_id="healthy") as healthy,
    ):
        await healthy.frames(3)
        (seen, *_) = await poison.frames(3)
        waited_s = poison.seen[0].times.arrived_at - healthy.seen[0].times.decoded_at
        # It waits from the moment that the other one was opened, which is before its first picture was decoded.
        assert QUIET_S / 2 < waited_s < 15, "the others come first"
        assert healthy.seen[0].info is not None and healthy.seen[0].info.decoder == "nvdec"
    assert seen.info is not None
    assert (seen.info.decoder, seen.info.decoder_reason) == (
        "software",
        "the process died while opening it on NVDEC",
    )
    assert device.video.choice.fallbacks == {"guard": 1}
    await asyncio.to_thread(device.assert_nothing_left)


async def test_a_suspect_that_waits_for_its_turn_can_be_stopped(tmp_path: Path, clips: Mapping[str, Clip]) -> None:
    def die_and_start_again() -> Device:
        assert OpeningGuard(tmp_path / FILE_NAME).open("cam", codec="h264") is not None
        return Device(tmp_path)

    device = await asyncio.to_thread(die_and_start_again)
    async with serving(clips["h264"]) as server, viewing(device, server.url("cam")) as view:
        view.source.interrupt()
        assert await view.end() is None
    assert view.seen == []


def test_a_library_that_cannot_be_loaded_is_a_reason_and_no_error(tmp_path: Path) -> None:
    driver = HostDriver()

    def fail(driver: object) -> FakeNvdec:
        raise NvdecError("PyNvVideoCodec cannot be loaded: it is not installed")

    budget = MemoryBudget(1 << 20)
    video = open_cuda_video(driver, mode="auto", data_dir=tmp_path, budget=budget, contexts=2, load=fail)
    refusal = video.choice.refuse_camera("cam", "h264")
    assert refusal is not None
    assert refusal.reason == "NVDEC is not available: PyNvVideoCodec cannot be loaded: it is not installed"
    assert video.slots == 6
    never_asked = open_cuda_video(driver, mode="software", data_dir=tmp_path, budget=budget, contexts=2, load=fail)
    assert never_asked.choice.nvdec is None
    video.close()
