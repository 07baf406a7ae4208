"""One camera: what a change restarts, what its status says, and readers that will not end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.backends.synthetic.source import SyntheticSurface
from app.batching.mailbox import Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.backoff import Backoff
from app.cameras.camera import MAX_ENDING, Camera
from app.cameras.lane import LaneSettings
from app.cameras.settings import CameraSettings, free_id, slug
from app.cameras.source import SourceRequest
from app.errors import SourceError, SourceErrorCode
from tests.support.fakes import ScriptedSource, Step, make_source_frame
from tests.support.wait import wait_in_thread, wait_until

TIMEOUT = SourceError(SourceErrorCode.READ_TIMEOUT, "nothing came for 10 s")


class StubbornSource(ScriptedSource):
    """Hangs in a native read: `interrupt` reaches it only when the test lets it go."""

    let_go: threading.Event

    def interrupt(self) -> None:
        pass


@dataclass
class Surroundings:
    """A `CameraContext` whose sources play scripts, one for each connection; the last one again and again."""

    scripts: Sequence[Sequence[Step]] = ()
    make_source: Callable[[Sequence[Step], SourceRequest], ScriptedSource] = ScriptedSource
    mailbox: Mailbox[SyntheticSurface] = field(default_factory=lambda: Mailbox(BatchPolicy(), on_frame=lambda: None))
    sources: list[ScriptedSource] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def open_source(self, request: SourceRequest) -> ScriptedSource:
        steps = self.scripts[min(len(self.sources), len(self.scripts) - 1)]
        source = self.make_source(steps, request)
        self.sources.append(source)
        return source

    def request(self, settings: CameraSettings) -> SourceRequest:
        return SourceRequest(camera_id=settings.id, url=settings.url, transport=settings.transport)

    def lane_settings(self, settings: CameraSettings) -> LaneSettings:
        return LaneSettings(max_fps=settings.max_fps, priority=settings.priority, min_score=settings.min_score or 0.25)

    def backoff(self) -> Backoff:
        return Backoff(base_s=0.001, max_s=0.001)

    def changed(self, camera: Camera[SyntheticSurface]) -> None:
        self.states.append(camera.status.state)


def settings(**fields: object) -> CameraSettings:
    return CameraSettings.model_validate({"id": "gate-1", "name": "Gate", "url": "rtsp://camera.test/1", **fields})


LIVE: list[Step] = [make_source_frame(), threading.Event()]


@asynccontextmanager
async def camera(surroundings: Surroundings, **fields: object) -> AsyncIterator[Camera[SyntheticSurface]]:
    camera: Camera[SyntheticSurface] = Camera(settings(**fields), surroundings, loop=asyncio.get_running_loop())
    camera.start()
    try:
        yield camera
    finally:
        camera.stop()
        await asyncio.wait_for(camera.ended.wait(), 10)
        assert camera.lane.counts().in_flight == 0


async def is_in(camera: Camera[SyntheticSurface], state: str) -> None:
    await wait_until(lambda: camera.status.state == state, what=f"the camera is {state}")


async def test_a_camera_connects_and_runs() -> None:
    surroundings = Surroundings([LIVE])
    async with camera(surroundings) as c:
        await is_in(c, "running")
        status = c.status
        assert surroundings.states == ["connecting", "running"]
        assert status.info is not None
        assert (status.info.codec, status.info.width, status.info.height) == ("h264", 640, 360)
        assert (status.error, status.retry_in_s, status.restarts) == (None, None, {})
        assert status.frames.decoded == 1


@pytest.mark.parametrize(
    "change",
    [
        {"min_score": 0.9},
        {"classes": ["person"]},
        {"priority": 9},
        {"max_fps": 3.0},
        {"name": "x"},
        {"labels": {"a": "b"}},
    ],
)
async def test_what_does_not_touch_the_stream_does_not_reconnect_it(change: dict[str, object]) -> None:
    surroundings = Surroundings([LIVE])
    async with camera(surroundings) as c:
        await is_in(c, "running")
        since = c.status.since_utc
        c.apply(settings(**change))
        await asyncio.sleep(0)
        assert len(surroundings.sources) == 1
        assert (c.status.state, c.status.since_utc) == ("running", since)
        assert surroundings.sources[0].paces == [None, change.get("max_fps")]


@pytest.mark.parametrize(
    "change",
    [{"url": "rtsp://camera.test/2"}, {"username": "admin"}, {"password": "x"}, {"transport": "udp"}],
)
async def test_what_touches_the_stream_reconnects_it(change: dict[str, object]) -> None:
    surroundings = Surroundings([LIVE])
    async with camera(surroundings) as c:
        await is_in(c, "running")
        c.apply(settings(**change))
        await wait_until(lambda: len(surroundings.sources) == 2)
        await is_in(c, "running")
        assert surroundings.states == ["connecting", "running", "connecting", "running"]
        assert surroundings.sources[0].interrupted.is_set()
        assert c.status.restarts == {}  # nothing failed


async def test_a_disabled_camera_reads_nothing() -> None:
    surroundings = Surroundings([LIVE])
    async with camera(surroundings, enabled=False) as c:
        assert c.status.state == "disabled"
        c.restart()
        assert not surroundings.sources
        c.apply(settings(enabled=True))
        await is_in(c, "running")
        c.apply(settings(enabled=False))
        assert c.status.state == "disabled"
        assert c.status.info is None
        await asyncio.wait_for(c.ended.wait(), 10)
        assert c.status.state == "disabled"  # the old reader's last words change nothing
        assert len(surroundings.sources) == 1


async def test_the_last_words_of_an_earlier_reader_change_nothing() -> None:
    surroundings = Surroundings([LIVE])
    async with camera(surroundings) as c:
        # The thread has said "running", but the event loop has not heard it yet.
        wait_in_thread(lambda: c.lane.counts().decoded == 1)
        c.apply(settings(enabled=False))
        await asyncio.wait_for(c.ended.wait(), 10)
        assert c.status.state == "disabled"
        assert surroundings.states == ["connecting", "disabled"]


async def test_failures_are_counted_by_code_and_the_last_reason_stays_until_frames_come() -> None:
    hold = threading.Event()
    surroundings = Surroundings([[TIMEOUT], [TIMEOUT], [hold, make_source_frame(), threading.Event()]])
    async with camera(surroundings) as c:
        await wait_until(lambda: c.status.restarts == {"read_timeout": 2} and c.status.state == "connecting")
        assert c.status.error is TIMEOUT
        hold.set()
        await is_in(c, "running")
        assert c.status.error is None


async def test_a_retrying_camera_says_when_it_tries_again() -> None:
    class Patient(Surroundings):
        def backoff(self) -> Backoff:
            return Backoff(base_s=3600, max_s=3600)

    surroundings = Patient([[TIMEOUT], LIVE])
    async with camera(surroundings) as c:
        await is_in(c, "retrying")
        assert c.status.retry_in_s is not None
        assert 2600 < c.status.retry_in_s <= 3600
        c.restart()  # now, not in an hour
        await is_in(c, "running")
        assert c.status.retry_in_s is None


async def test_a_reader_that_hangs_does_not_hold_up_its_repair() -> None:
    let_go = threading.Event()
    hanging: list[Step] = [make_source_frame(), let_go, make_source_frame()]

    def make(steps: Sequence[Step], request: SourceRequest) -> ScriptedSource:
        return StubbornSource(steps, request) if steps is hanging else ScriptedSource(steps, request)

    surroundings = Surroundings([hanging, LIVE], make)
    async with camera(surroundings) as c:
        await is_in(c, "running")
        c.apply(settings(url="rtsp://camera.test/2"))
        await wait_until(lambda: len(surroundings.sources) == 2)
        await is_in(c, "running")
        assert len(c.ending) == 2
        decoded = c.lane.counts().decoded
        let_go.set()
        await wait_until(lambda: len(c.ending) == 1)
        assert c.lane.counts().decoded == decoded
        assert not c.ended.is_set()
    assert not c.ending


async def test_readers_that_never_end_are_few_and_the_camera_waits_for_one_of_them() -> None:
    let_go = threading.Event()
    hanging: list[Step] = [make_source_frame(), let_go]

    def make(steps: Sequence[Step], request: SourceRequest) -> ScriptedSource:
        return StubbornSource(steps, request) if steps is hanging else ScriptedSource(steps, request)

    surroundings = Surroundings([*[hanging] * MAX_ENDING, LIVE], make)
    async with camera(surroundings) as c:
        for number in range(MAX_ENDING - 1):
            await wait_until(lambda: c.status.state == "running", what=f"connection {number} runs")
            c.restart()
        await is_in(c, "running")
        assert c.readers_ending == MAX_ENDING - 1
        for _ in range(10):
            c.restart()
        assert c.status.state == "retrying"
        assert c.status.error is not None
        assert c.status.error.code is SourceErrorCode.RESOURCE_EXHAUSTED
        assert "4 earlier connections of this camera have not ended yet" in c.status.error.message
        assert (len(surroundings.sources), c.readers_ending) == (MAX_ENDING, MAX_ENDING)
        let_go.set()
        await wait_until(lambda: len(surroundings.sources) == MAX_ENDING + 1, what="it reads again, at once")
        await is_in(c, "running")


async def test_a_camera_that_waits_for_a_thread_forgets_it_when_it_is_stopped() -> None:
    let_go = threading.Event()
    surroundings = Surroundings([[make_source_frame(), let_go]], StubbornSource)
    async with camera(surroundings) as c:
        for _ in range(MAX_ENDING):
            await wait_until(lambda: c.status.state == "running")
            c.restart()
        assert c.status.state == "retrying"
        c.apply(settings(enabled=False))
        let_go.set()
        await asyncio.wait_for(c.ended.wait(), 10)
        assert (c.status.state, len(surroundings.sources)) == ("disabled", MAX_ENDING)


async def test_a_thread_that_the_system_refuses_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cameras.camera.AGAIN_S", 0.01)
    refusals = iter([RuntimeError("can't start new thread")])
    whole = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("camera:") and (refusal := next(refusals, None)):
            raise refusal
        whole(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    async with camera(Surroundings([LIVE])) as c:
        assert c.status.state == "retrying"
        assert c.status.error is not None
        assert c.status.error.code is SourceErrorCode.RESOURCE_EXHAUSTED
        assert c.status.error.message == "the system has no thread left for this camera; trying again in 0.01 s"
        await is_in(c, "running")
        assert c.status.restarts == {"resource_exhausted": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Gate 1", "gate-1"),
        ("Eingang Süd", "eingang-sud"),
        ("  --x--  ", "x"),
        ("北門", "camera"),
        ("a" * 200, "a" * 56),
        ("!!!", "camera"),
    ],
)
def test_an_id_is_made_from_the_name(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_a_taken_id_gets_a_number() -> None:
    assert free_id("Gate", []) == "gate"
    assert free_id("Gate", ["gate"]) == "gate-2"
    assert free_id("Gate", ["gate", "gate-2", "gate-3"]) == "gate-4"
