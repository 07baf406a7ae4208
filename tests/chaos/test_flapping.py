"""A camera that flaps a hundred times, and one that never answers, leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from app.backends.ffmpeg.source import PyavSource
from app.backends.ffmpeg.surface import HostSurface
from app.cameras.backoff import Backoff
from app.cameras.lane import Lane
from app.cameras.reader import Reader, ReaderReport
from app.cameras.source import SourceRequest
from app.errors import DeviceLost, SourceErrorCode
from app.simulator.clip import Clip, load_clip
from app.simulator.server import RtspServer
from app.types import Frame
from tests.support.clips import write_test_clip
from tests.support.wait import wait_until

pytestmark = pytest.mark.alone

STALL_S = 1.0
FLAPS = 100


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("clips") / "street.mp4"
    return load_clip(write_test_clip(path, fps=50, gop=5, seconds=0.4))


@dataclass
class Slot:
    """Counts what was offered, and lets it go."""

    lane: Lane
    seqs: list[int] = field(default_factory=list)

    def offer(self, lane: Lane, frame: Frame[HostSurface], now: float) -> None:
        self.seqs.append(frame.seq)
        frame.surface.release()
        lane.ledger.published()

    def device_lost(self, error: DeviceLost) -> None:
        raise AssertionError(error)


@dataclass
class Read:
    """A camera that is read, and what came of it."""

    slot: Slot
    reports: list[ReaderReport] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def times(self, state: str) -> int:
        return sum(report.state == state for report in self.reports)


@asynccontextmanager
async def reading(url: str, *, stall_timeout_s: float = STALL_S) -> AsyncIterator[Read]:
    lane = Lane("cam")
    read = Read(Slot(lane))
    reader: Reader[HostSurface] = Reader(
        SourceRequest(camera_id="cam", url=url, stall_timeout_s=stall_timeout_s),
        lane=lane,
        mailbox=read.slot,
        open_source=PyavSource,
        backoff=Backoff(base_s=0.01, max_s=0.01),
        on_report=read.reports.append,
        on_end=read.ended.set,
    )
    reader.start()
    try:
        yield read
    finally:
        reader.stop()
        await wait_until(lambda: read.ended.is_set() and not reader.alive, timeout_s=3 * stall_timeout_s)


async def test_a_hundred_flaps_leave_no_descriptor_and_no_thread_and_numbers_go_on(clip: Clip) -> None:
    process = psutil.Process()
    async with RtspServer() as server:
        server.add_camera("cam", clip)
        # A busy machine's silence must not be taken for a camera's.
        async with reading(server.url("cam"), stall_timeout_s=5.0) as read:
            for number in range(FLAPS):
                if number == FLAPS // 10:
                    threads, fds = process.num_threads(), process.num_fds()
                await wait_until(lambda n=number: read.times("running") > n)  # type: ignore[misc]
                server.set_fault("cam", "close")
                await wait_until(lambda n=number: read.times("retrying") > n)  # type: ignore[misc]
            await wait_until(lambda: read.times("running") > FLAPS)
            await wait_until(lambda: process.num_threads() <= threads + 1 and process.num_fds() <= fds + 2)
        counts = read.slot.lane.counts()
        assert read.slot.seqs == list(range(1, counts.decoded + 1))
        assert counts.decoded == counts.published
        assert {report.error.code for report in read.reports if report.error} == {SourceErrorCode.END_OF_STREAM}


@pytest.mark.parametrize("fault", ["vanish", "hole", "mute", "trickle"])
async def test_a_thread_ends_in_time_though_its_camera_never_answers(clip: Clip, fault: str) -> None:
    async with RtspServer() as server:
        server.add_camera("cam", clip)
        server.set_fault("cam", fault)
        async with reading(server.url("cam")) as read:
            await wait_until(lambda: read.times("connecting"))
        assert not read.slot.seqs


@pytest.mark.parametrize("fault", ["vanish", "garbage"])
async def test_a_thread_ends_in_time_though_its_camera_stopped_answering(clip: Clip, fault: str) -> None:
    async with RtspServer() as server:
        server.add_camera("cam", clip)
        async with reading(server.url("cam")) as read:
            await wait_until(lambda: read.times("running"))
            server.set_fault("cam", fault)


async def test_a_slow_camera_is_not_taken_for_a_silent_one(tmp_path: Path) -> None:
    path = await asyncio.to_thread(write_test_clip, tmp_path / "slow.mp4", fps=1, gop=1, seconds=4.0)
    async with RtspServer() as server:
        server.add_camera("cam", await asyncio.to_thread(load_clip, path))
        async with reading(server.url("cam"), stall_timeout_s=2.5) as read:
            await wait_until(lambda: len(read.slot.seqs) >= 4)
            assert read.times("retrying") == 0
