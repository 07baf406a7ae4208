"""An error in any stage hurts one frame, batch, camera, client or scrape, and is counted; everything else goes on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from app.api import system
from app.backends.synthetic.backend import SyntheticBackend
from app.backends.synthetic.detector import SyntheticDetector
from app.backends.synthetic.source import SyntheticSource, SyntheticSurface
from app.cameras.gate import RateGate
from app.cameras.lane import Lane
from app.cameras.source import SourceRequest
from app.errors import DeviceLost, EngineError
from app.load import Window
from app.results.subscription import Subscription
from app.results.wire import Message, Result
from app.types import BgrImage, Detections, Frame, GpuSnapshot, GreyPicture, SourceFrame
from tests.support.app import API, RunningApp, StartApp
from tests.support.wait import wait_until

Boom: TypeAlias = RuntimeError
VICTIM, OTHER = "victim", "other"


class BrokenSurface(SyntheticSurface):
    """A picture whose pixels nobody can get at."""

    def to_bgr(self) -> BgrImage:
        raise MemoryError

    def luma(self, width: int, height: int) -> GreyPicture:
        raise MemoryError


@dataclass
class Faults:
    """Where the script raises what. The camera `victim` is hurt and `other` must not be."""

    opening: Exception | None = None
    reading: Exception | None = None  # at the third frame of each connection
    surface: type[SyntheticSurface] = SyntheticSurface
    detect: Callable[[list[Detections]], list[Detections]] | None = None  # of a batch with the victim in it
    gpus: Exception | None = None


class FaultySource(SyntheticSource):
    def __init__(self, request: SourceRequest, faults: Faults) -> None:
        super().__init__(request)
        self._faults = faults

    def frames(self) -> Iterator[SourceFrame[SyntheticSurface]]:
        for number, frame in enumerate(super().frames()):
            if number == 3 and self._faults.reading is not None:
                raise self._faults.reading
            picture = frame.surface
            surface = self._faults.surface(picture.width, picture.height, picture.at_s)
            yield SourceFrame(pts_s=frame.pts_s, times=frame.times, surface=surface)


class FaultyDetector(SyntheticDetector):
    def __init__(self, faults: Faults) -> None:
        super().__init__(max_batch=1)  # a batch is one camera's
        self._faults = faults

    async def detect(
        self, frames: Sequence[Frame[SyntheticSurface]], *, min_scores: Sequence[float]
    ) -> list[Detections]:
        found = await super().detect(frames, min_scores=min_scores)
        if self._faults.detect is not None and frames[0].camera_id == VICTIM:
            return self._faults.detect(found)
        return found


class FaultyBackend(SyntheticBackend):
    def __init__(self, faults: Faults) -> None:
        super().__init__(FaultyDetector(faults))
        self._faults = faults

    def open_source(self, request: SourceRequest) -> SyntheticSource:
        if request.camera_id != VICTIM:
            return super().open_source(request)
        if self._faults.opening is not None:
            raise self._faults.opening
        return FaultySource(request, self._faults)

    def gpus(self) -> tuple[GpuSnapshot, ...]:
        if self._faults.gpus is not None:
            raise self._faults.gpus
        return super().gpus()


def lane(running: RunningApp, camera_id: str) -> Lane:
    return running.parts.registry.get(camera_id).lane


def raising(error: Exception) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> Any:
        raise error

    return call


async def start(start_app: StartApp, faults: Faults, **victim: Any) -> RunningApp:
    running = await start_app(FaultyBackend(faults))
    await running.register(OTHER, "fps=100")
    await running.register(VICTIM, "fps=100", **victim)
    return running


async def goes_on(running: RunningApp) -> None:
    """The other camera publishes, the API answers, ledgers balance, and nothing is fatal."""
    await running.wait_published(OTHER, lane(running, OTHER).counts().published + 10)
    assert (await running.camera(OTHER))["status"]["restarts"] == 0
    for path in ("/livez", "/readyz", f"{API}/cameras", f"{API}/system", "/metrics"):
        assert (await running.http.get(path)).status_code == 200, path
    cameras = running.parts.registry.cameras()
    await running.stop()
    assert running.service.fatal is None
    assert {camera.settings.id: camera.lane.counts().in_flight for camera in cameras} == {VICTIM: 0, OTHER: 0}


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(opening=ZeroDivisionError("boom")), "internal"),
        (Faults(opening=MemoryError()), "resource_exhausted"),
        (Faults(reading=ZeroDivisionError("boom")), "internal"),
        (Faults(reading=MemoryError()), "resource_exhausted"),
    ],
    ids=["opening", "opening without memory", "decoding", "decoding without memory"],
)
async def test_an_error_of_a_source_is_its_camera_s(start_app: StartApp, faults: Faults, code: str) -> None:
    running = await start(start_app, faults)
    victim = await running.wait_state(VICTIM, "retrying")
    assert victim["status"]["error"]["code"] == code
    await goes_on(running)


async def test_an_error_of_a_gate_is_its_camera_s(start_app: StartApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateGate, "admits", lambda gate, at_s, max_fps: max_fps is None or 1 / 0)
    running = await start(start_app, Faults(), max_fps=5)
    victim = await running.wait_state(VICTIM, "retrying")
    assert victim["status"]["error"]["code"] == "internal"
    assert victim["status"]["frames"]["dropped"]["shutdown"] == victim["status"]["frames"]["decoded"] == 1
    await goes_on(running)


async def test_no_memory_for_the_motion_gate_is_its_camera_s(start_app: StartApp) -> None:
    running = await start(start_app, Faults(surface=BrokenSurface), motion={})
    victim = await running.wait_state(VICTIM, "retrying")
    assert victim["status"]["error"]["code"] == "resource_exhausted"
    await goes_on(running)


@pytest.mark.parametrize(
    "detect",
    [
        raising(EngineError("preprocess: no memory")),
        raising(MemoryError()),
        raising(ZeroDivisionError("boom")),
        lambda found: [],
        lambda found: [*found, *found],
    ],
    ids=["engine error", "no memory", "unforeseen", "too few results", "too many results"],
)
async def test_an_error_of_the_detector_is_its_batch_s(start_app: StartApp, detect: Any) -> None:
    running = await start(start_app, Faults(detect=detect))
    await wait_until(lambda: lane(running, VICTIM).counts().dropped["infer_failed"] >= 3)
    assert lane(running, VICTIM).counts().published == 0
    assert lane(running, OTHER).counts().dropped["infer_failed"] == 0
    await goes_on(running)


def of_a_class_that_is_not(found: list[Detections]) -> list[Detections]:
    for each in found:
        each.class_ids[:] = 99
    return found


async def test_a_result_that_cannot_be_published_is_one_frame_less(start_app: StartApp) -> None:
    running = await start(start_app, Faults(detect=of_a_class_that_is_not))
    await wait_until(lambda: lane(running, VICTIM).counts().dropped["publish_failed"] >= 3)
    assert lane(running, OTHER).counts().dropped["publish_failed"] == 0
    assert (await running.http.get(f"{API}/cameras/{VICTIM}/detections")).json() == []
    await goes_on(running)


async def test_a_result_that_cannot_be_written_reaches_nobody_and_harms_nobody(
    start_app: StartApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Result.encoded

    def encoded(result: Result, *args: Any) -> bytes | None:
        return raising(ValueError("boom"))() if result.camera_id == VICTIM else whole(result, *args)

    monkeypatch.setattr(Result, "encoded", encoded)
    running = await start(start_app, Faults())
    async with running.socket("?mode=all") as socket:
        for _ in range(20):
            assert f'"camera_id":"{VICTIM}","seq"' not in str(await asyncio.wait_for(socket.recv(), 10))
        await wait_until(lambda: running.parts.hub.stats.messages_dropped.get("failed", 0) >= 3)
        assert lane(running, VICTIM).counts().published >= 3
    await goes_on(running)


async def test_a_subscriber_that_breaks_is_the_only_one_hurt(
    start_app: StartApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Subscription.take

    def take(subscription: Subscription, *args: Any) -> list[Message]:
        return raising(ValueError("boom"))() if subscription.interest.mode == "latest" else whole(subscription, *args)

    monkeypatch.setattr(Subscription, "take", take)
    running = await start(start_app, Faults())
    async with running.socket("?mode=latest") as broken, running.socket(f"?mode=all&camera={OTHER}") as healthy:
        for _ in range(20):
            await asyncio.wait_for(healthy.recv(), 10)
        await asyncio.wait_for(broken.wait_closed(), 10)
        assert broken.close_code == 1011
    await goes_on(running)


@pytest.mark.parametrize(
    "surface", [BrokenSurface, type("Odd", (SyntheticSurface,), {"to_bgr": raising(OSError("x"))})]
)
async def test_a_picture_that_cannot_be_made_is_an_answer(start_app: StartApp, surface: Any) -> None:
    running = await start(start_app, Faults(surface=surface))
    await running.wait_published(VICTIM)
    for _ in range(2):  # the frame is kept for the next one who asks
        response = await running.http.get(f"{API}/cameras/{VICTIM}/snapshot.jpg")
        assert (response.status_code, response.json()["code"]) == (503, "picture_failed")
    assert (await running.http.get(f"{API}/cameras/{OTHER}/snapshot.jpg")).status_code == 200
    await goes_on(running)


async def test_figures_that_cannot_be_read_leave_the_rest_of_a_scrape_whole(start_app: StartApp) -> None:
    running = await start(start_app, Faults())
    running.parts.hub.stages = None  # type: ignore[assignment]
    text = await running.metrics()
    assert "vidette_stage_duration_seconds" not in text
    assert f'vidette_camera_up{{camera="{OTHER}"}}' in text
    assert "vidette_metrics_errors_total 1.0" in text
    await goes_on(running)


async def test_a_timer_that_fails_stops_nothing(
    start_app: StartApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.service.SAMPLE_S", 0.01)
    running = await start(start_app, Faults(gpus=ZeroDivisionError("boom")))
    whole = running.parts.meter.sample
    monkeypatch.setattr(running.parts.meter, "sample", raising(ZeroDivisionError("boom")))
    await wait_until(lambda: "the load cannot be measured" in caplog.messages)
    measured = asyncio.Event()

    async def sample() -> Window:
        measured.set()
        return await whole()

    monkeypatch.setattr(running.parts.meter, "sample", sample)
    await asyncio.wait_for(measured.wait(), 10)
    await goes_on(running)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MemoryError(), 503, "resource_exhausted"),
        (OSError(errno.EMFILE, "Too many open files"), 503, "resource_exhausted"),
        (RuntimeError("can't start new thread"), 503, "resource_exhausted"),
        (ZeroDivisionError("boom"), 500, "internal"),
    ],
)
async def test_an_error_of_a_request_is_that_request_s(
    start_app: StartApp, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    running = await start(start_app, Faults())
    monkeypatch.setattr(system, "_event_loop", raising(error))
    response = await running.http.get(f"{API}/system")
    assert (response.status_code, response.json()["code"]) == (status, code)
    monkeypatch.undo()
    await goes_on(running)


async def test_a_device_that_is_lost_ends_the_service_with_every_ledger_balanced(start_app: StartApp) -> None:
    running = await start(start_app, Faults(detect=raising(DeviceLost("gone"))))
    cameras = running.parts.registry.cameras()
    await asyncio.wait_for(running.fatal.wait(), 10)
    await running.stop()
    assert isinstance(running.service.fatal, DeviceLost)
    assert [camera.lane.counts().in_flight for camera in cameras] == [0, 0]
