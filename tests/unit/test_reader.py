"""A camera's thread: states, retries, thinning, and its end."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.cameras.backoff import Backoff
from app.cameras.lane import Lane, LaneSettings
from app.cameras.motion import MotionState
from app.cameras.reader import Reader, ReaderReport
from app.cameras.settings import MotionSettings
from app.cameras.source import SourceRequest
from app.errors import DeviceLost, SourceError, SourceErrorCode
from app.types import GreyPicture, SourceFrame
from tests.support.fakes import FakeClock, ScriptedSource, Step, SyntheticFrame, make_source_frame, make_times
from tests.support.wait import wait_in_thread

TIMEOUT = SourceError(SourceErrorCode.READ_TIMEOUT, "nothing came for 10 s")


@dataclass
class Slot:
    """Keeps what was offered."""

    frames: list[SyntheticFrame] = field(default_factory=list)
    lost: list[DeviceLost] = field(default_factory=list)

    def offer(self, lane: Lane, frame: SyntheticFrame, now: float) -> None:
        self.frames.append(frame)

    def device_lost(self, error: DeviceLost) -> None:
        self.lost.append(error)


class TickingClock(FakeClock):
    """Moves by a millisecond whenever it is read."""

    def __call__(self) -> float:
        self.advance(0.001)
        return self.now


@dataclass
class Watch:
    """A reader under test and all that it said."""

    lane: Lane
    slot: Slot = field(default_factory=Slot)
    reports: list[ReaderReport] = field(default_factory=list)
    sources: list[ScriptedSource] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    clock: FakeClock = field(default_factory=FakeClock)
    reader: Reader[SyntheticSurface] = field(init=False)

    @property
    def states(self) -> list[str]:
        return [report.state for report in self.reports]

    def stop(self) -> None:
        self.reader.stop()
        assert self.ended.wait(10)
        wait_in_thread(lambda: not self.reader.alive)


@contextmanager
def reading(
    *connections: Sequence[Step] | Exception,
    settings: LaneSettings | None = None,
    backoff: Backoff | None = None,
    url: str = "rtsp://camera.test/1",
    clock: FakeClock | None = None,
) -> Iterator[Watch]:
    """A reader whose first connections play these steps (an exception: opening fails); later ones only wait."""
    watch = Watch(Lane("gate-1", settings), clock=clock or FakeClock())
    scripts = list(connections)

    def open_source(request: SourceRequest) -> ScriptedSource:
        steps = scripts.pop(0) if scripts else [threading.Event()]
        if isinstance(steps, Exception):
            raise steps
        source = ScriptedSource(steps, request)
        watch.sources.append(source)
        return source

    watch.reader = Reader(
        SourceRequest(camera_id="gate-1", url=url, password="secret"),
        lane=watch.lane,
        mailbox=watch.slot,
        open_source=open_source,
        backoff=backoff or Backoff(base_s=0.001, max_s=0.004, rng=random.Random(1)),
        on_report=watch.reports.append,
        on_end=watch.ended.set,
        clock=watch.clock,
        wall=lambda: 1_795_000_000.0,
    )
    watch.reader.start()
    try:
        yield watch
    finally:
        watch.stop()
        assert all(source.closed == 1 for source in watch.sources)


def test_frames_are_numbered_and_offered() -> None:
    with reading([make_source_frame(n, pts_s=n / 25) for n in range(3)]) as watch:
        wait_in_thread(lambda: len(watch.slot.frames) == 3)
        assert [(frame.camera_id, frame.seq, frame.pts_s) for frame in watch.slot.frames] == [
            ("gate-1", 1, 0.0),
            ("gate-1", 2, 1 / 25),
            ("gate-1", 3, 2 / 25),
        ]
        assert watch.lane.last_frame_utc == 1_795_000_000.0
        assert 0 < watch.lane.cpu_s < 1


def test_camera_restarts_after_read_timeout() -> None:
    with reading([make_source_frame(), TIMEOUT], [make_source_frame(), threading.Event()]) as watch:
        wait_in_thread(lambda: len(watch.slot.frames) == 2)
        assert watch.states == ["connecting", "running", "retrying", "connecting", "running"]
        retrying = watch.reports[2]
        assert retrying.error is TIMEOUT
        assert retrying.retry_at is not None
        assert 0 < retrying.retry_at - watch.clock.now <= 0.001
        assert [frame.seq for frame in watch.slot.frames] == [1, 2]


def test_a_stream_that_simply_ends_is_an_error() -> None:
    with reading([make_source_frame()]) as watch:
        wait_in_thread(lambda: "retrying" in watch.states)
        error = watch.reports[2].error
        assert error is not None
        assert error.code is SourceErrorCode.END_OF_STREAM


def test_an_unforeseen_error_waits_longest_and_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Noting(Backoff):
        asked: str = ""

        def longest(self) -> float:
            self.asked += "longest"
            return super().longest()

    backoff = Noting(base_s=0.001, max_s=0.002)
    with reading([make_source_frame(), ZeroDivisionError("secret")], backoff=backoff) as watch:
        wait_in_thread(lambda: watch.states.count("connecting") == 2)
        error = watch.reports[2].error
        assert error is not None
        assert error.code is SourceErrorCode.INTERNAL
        assert error.message == "an unexpected ZeroDivisionError ended the connection; the log has the details"
    assert backoff.asked == "longest"
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


def test_a_source_that_cannot_even_be_made_is_an_error_of_its_camera() -> None:
    with reading(SourceError(SourceErrorCode.FORBIDDEN_URL, "url: no"), RuntimeError("no"), [make_source_frame()]) as w:
        wait_in_thread(lambda: len(w.slot.frames) == 1)
        codes = [report.error.code.value for report in w.reports if report.error is not None]
        assert codes[:2] == ["forbidden_url", "internal"]


def test_a_lost_device_is_told_to_whoever_can_end_the_service() -> None:
    lost = DeviceLost("the GPU fell off the bus")
    with reading([make_source_frame(), lost]) as watch:
        wait_in_thread(lambda: watch.slot.lost == [lost])
        wait_in_thread(lambda: watch.states[-1] == "retrying")
        error = watch.reports[-1].error
        assert error is not None and (error.code, error.message) == (SourceErrorCode.INTERNAL, "the device was lost")


def test_the_time_that_frames_came_is_the_length_of_the_run() -> None:
    runs: list[float] = []
    gate = threading.Event()

    class Noting(Backoff):
        def after(self, run_s: float) -> float:
            runs.append(run_s)
            return 0.0

    with reading([make_source_frame(), gate, TIMEOUT], backoff=Noting()) as watch:
        wait_in_thread(lambda: "running" in watch.states)
        watch.clock.advance(42.0)
        gate.set()
        wait_in_thread(lambda: runs)
    assert runs[0] == pytest.approx(42.0)


@pytest.mark.parametrize(("url", "resets"), [("file:///media/a.mp4", 3), ("rtsp://camera.test/1", 0)])
def test_a_file_that_was_played_to_its_end_starts_over_without_growing_delays(url: str, resets: int) -> None:
    counted: list[None] = []

    class Noting(Backoff):
        def reset(self) -> None:
            counted.append(None)
            super().reset()

    ends: list[Step] = [make_source_frame(), SourceError(SourceErrorCode.END_OF_STREAM, "the file ended")]
    backoff = Noting(base_s=0.0, max_s=0.0)
    with reading(ends, ends, ends, backoff=backoff, url=url, clock=TickingClock()) as watch:
        wait_in_thread(lambda: len(watch.sources) == 4)
    assert len(counted) == resets


def test_the_rate_limit_drops_before_offering() -> None:
    frames = [make_source_frame(n, pts_s=n / 10) for n in range(20)]
    with reading([*frames, threading.Event()], settings=LaneSettings(max_fps=5)) as watch:
        # A frame is counted before it is let go.
        wait_in_thread(lambda: sum(frame.surface.released for frame in frames) == 10)
        wait_in_thread(lambda: len(watch.slot.frames) == 10)
        counts = watch.lane.counts()
        assert (counts.decoded, counts.dropped["rate_limit"]) == (20, 10)
        assert watch.sources[0].paces == [5]


def test_a_stream_without_a_clock_is_thinned_by_arrival() -> None:
    frames = [make_source_frame(n, at=n / 10, pts_s=None) for n in range(20)]
    with reading([*frames, threading.Event()], settings=LaneSettings(max_fps=5)) as watch:
        wait_in_thread(lambda: watch.lane.counts().decoded == 20)
        wait_in_thread(lambda: len(watch.slot.frames) == 10)


def still_scene(seconds: float, *, fps: int = 10, begins_at: float = 0.0) -> list[SourceFrame[SyntheticSurface]]:
    moments = [begins_at + n / fps for n in range(round(seconds * fps))]
    return [make_source_frame(0, at=at, pts_s=at) for at in moments]


def test_a_still_scene_drops_all_but_heartbeats_before_offering() -> None:
    frames = still_scene(20)
    settings = LaneSettings(motion=MotionSettings(heartbeat_s=5, hold_s=1))
    with reading([*frames, threading.Event()], settings=settings) as watch:
        wait_in_thread(lambda: watch.lane.counts().decoded == 200)
        wait_in_thread(lambda: watch.lane.counts().in_flight == len(watch.slot.frames))
        counts = watch.lane.counts()
        assert counts.dropped["still"] + counts.in_flight == 200
        assert counts.dropped["still"] > 170
        wait_in_thread(lambda: sum(frame.surface.released for frame in frames) == counts.dropped["still"])
        assert watch.lane.motion == MotionState(still=True, since_utc=1_795_000_000.0)


def test_the_rate_limit_comes_before_the_motion_gate() -> None:
    settings = LaneSettings(max_fps=5, motion=MotionSettings(hold_s=1))
    with reading([*still_scene(20), threading.Event()], settings=settings) as watch:
        wait_in_thread(lambda: watch.lane.counts().decoded == 200)
        wait_in_thread(lambda: watch.lane.counts().dropped["rate_limit"] == 100)
        assert 0 < watch.lane.counts().dropped["still"] < 100


def test_the_motion_gate_can_be_switched_while_frames_come() -> None:
    go_on = [threading.Event(), threading.Event()]
    steps: list[Step] = [
        *still_scene(5),
        go_on[0],
        *still_scene(5, begins_at=5),
        go_on[1],
        *still_scene(5, begins_at=10),
    ]
    with reading([*steps, threading.Event()]) as watch:
        wait_in_thread(lambda: len(watch.slot.frames) == 50)
        assert watch.lane.motion is None
        watch.lane.settings = LaneSettings(motion=MotionSettings(hold_s=0))
        go_on[0].set()
        wait_in_thread(lambda: watch.lane.counts().decoded == 100)
        wait_in_thread(lambda: watch.lane.counts().in_flight == len(watch.slot.frames))
        assert 35 <= watch.lane.counts().dropped["still"] < 45
        watch.lane.settings = LaneSettings()
        before = len(watch.slot.frames)
        go_on[1].set()
        wait_in_thread(lambda: len(watch.slot.frames) == before + 50)
        assert watch.lane.motion is None


def test_a_frame_that_cannot_be_looked_at_is_released_and_counted() -> None:
    lost = DeviceLost("the GPU fell off the bus")

    class Unseen(SyntheticSurface):
        def luma(self, width: int, height: int) -> GreyPicture:
            raise lost

    surface: SyntheticSurface = Unseen(640, 360, 0.0)
    frame = SourceFrame(pts_s=0.0, times=make_times(), surface=surface)
    with reading([frame], settings=LaneSettings(motion=MotionSettings())) as watch:
        wait_in_thread(lambda: watch.slot.lost == [lost])
        counts = watch.lane.counts()
        assert (surface.released, counts.dropped["shutdown"], counts.in_flight) == (1, 1, 0)


def test_a_new_connection_learns_its_scene_anew() -> None:
    settings = LaneSettings(motion=MotionSettings(hold_s=0, heartbeat_s=100))
    with reading(
        [*still_scene(5), TIMEOUT], [*still_scene(0.9, begins_at=6), threading.Event()], settings=settings
    ) as watch:
        wait_in_thread(lambda: watch.lane.counts().decoded == 59)
        wait_in_thread(lambda: [frame.times.arrived_at >= 6 for frame in watch.slot.frames].count(True) == 9)


def test_a_new_pace_reaches_the_open_source() -> None:
    with reading([make_source_frame(), threading.Event()]) as watch:
        wait_in_thread(lambda: "running" in watch.states)
        watch.lane.settings = LaneSettings(max_fps=2)
        watch.reader.pace()
        assert watch.sources[0].paces == [None, 2]
        assert watch.reader.info is not None
        assert watch.reader.info.codec == "h264"
    assert watch.reader.info is None


def test_stopping_interrupts_a_source_that_hangs() -> None:
    with reading([make_source_frame(), threading.Event()]) as watch:
        wait_in_thread(lambda: "running" in watch.states)
        watch.stop()
        assert watch.states == ["connecting", "running"]


def test_stopping_ends_a_long_wait_for_the_next_attempt() -> None:
    with reading([TIMEOUT], backoff=Backoff(base_s=3600, max_s=3600)) as watch:
        wait_in_thread(lambda: "retrying" in watch.states)
        watch.stop()
        assert watch.states[-1] == "retrying"


def test_a_frame_that_comes_after_the_stop_is_released_and_not_counted() -> None:
    gate = threading.Event()
    late = make_source_frame()

    class Deaf(ScriptedSource):
        def interrupt(self) -> None:
            pass

    watch = Watch(Lane("gate-1"))
    source = Deaf([make_source_frame(), gate, late])
    watch.reader = Reader(
        SourceRequest(camera_id="gate-1", url="rtsp://camera.test/1"),
        lane=watch.lane,
        mailbox=watch.slot,
        open_source=lambda request: source,
        backoff=Backoff(),
        on_report=watch.reports.append,
        on_end=watch.ended.set,
    )
    watch.reader.start()
    wait_in_thread(lambda: len(watch.slot.frames) == 1)
    watch.reader.stop()
    gate.set()
    assert watch.ended.wait(10)
    assert late.surface.released == 1
    assert watch.lane.counts().decoded == 1
    assert "retrying" not in watch.states


def test_an_error_that_the_stop_itself_caused_is_not_reported() -> None:
    class Touchy(ScriptedSource):
        def frames(self) -> Iterator[object]:  # type: ignore[override]
            yield from super().frames()
            raise TIMEOUT

    watch = Watch(Lane("gate-1"))
    source = Touchy([make_source_frame(), threading.Event()])
    watch.reader = Reader(
        SourceRequest(camera_id="gate-1", url="rtsp://camera.test/1"),
        lane=watch.lane,
        mailbox=watch.slot,
        open_source=lambda request: source,  # type: ignore[arg-type, return-value]
        backoff=Backoff(),
        on_report=watch.reports.append,
        on_end=watch.ended.set,
    )
    watch.reader.start()
    wait_in_thread(lambda: "running" in watch.states)
    watch.reader.stop()
    assert watch.ended.wait(10)
    assert watch.states == ["connecting", "running"]


def test_a_stop_while_the_source_is_made_is_not_lost() -> None:
    watch = Watch(Lane("gate-1"))
    source = ScriptedSource([threading.Event()])  # would hang for ever: nobody interrupts what nobody knows of

    def open_source(request: SourceRequest) -> ScriptedSource:
        watch.reader.stop()
        return source

    watch.reader = Reader(
        SourceRequest(camera_id="gate-1", url="rtsp://camera.test/1"),
        lane=watch.lane,
        mailbox=watch.slot,
        open_source=open_source,
        backoff=Backoff(),
        on_report=watch.reports.append,
        on_end=watch.ended.set,
    )
    watch.reader.start()
    ended = watch.ended.wait(5)
    source.interrupt()
    assert ended
    assert source.closed == 1


def test_its_thread_carries_the_camera_s_name() -> None:
    with reading([make_source_frame(), threading.Event()]) as watch:
        wait_in_thread(lambda: "running" in watch.states)
        assert "camera:gate-1" in {thread.name for thread in threading.enumerate()}


def test_a_request_never_shows_its_password() -> None:
    assert "secret" not in repr(SourceRequest(camera_id="a", url="rtsp://camera.test", password="secret"))
