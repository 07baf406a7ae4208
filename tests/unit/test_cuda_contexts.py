"""A context on the device, and a detector made of them: what they queue, what they survive, what they free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from app.backends.cuda import tuning
from app.backends.cuda.contexts import CudaRunner, batch_sizes
from app.backends.cuda.detector import Plan
from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.surface import CudaSurface
from app.batching.batcher import Batcher
from app.batching.policy import BatchPolicy
from app.cameras.lane import Lane
from app.errors import DeviceLost, EngineError
from app.inference.found import Found
from app.inference.model import ModelSpec, read_onnx
from app.types import BgrImage, Detections, Frame
from tests.support.device_surfaces import upload_bgr
from tests.support.fakes import FakeClock, make_lane, make_times, next_frame
from tests.support.host_detector import HostCuda
from tests.support.host_driver import HostDriver
from tests.support.host_engine import HostSession
from tests.support.onnx_models import bright_cells, saved, white_cell_image
from tests.support.wait import wait_until

GONE = DeviceLost("an illegal memory access was encountered")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_onnx(saved(bright_cells(), Path(tmp_path_factory.mktemp("model")) / "cells.onnx"))


@pytest.fixture
def cuda(spec: ModelSpec) -> Iterator[HostCuda]:
    cuda = HostCuda(spec)
    yield cuda
    cuda.free_pictures()
    if not cuda.engine.closed:
        with cuda.driver.bound():
            cuda.engine.close()
    assert not cuda.driver.left_open


@pytest.fixture
def make(cuda: HostCuda) -> Iterator[Callable[..., CudaRunner]]:
    """Runners, in this thread, closed at the end."""
    made: list[CudaRunner] = []

    def make(*, graphs: bool = True, sizes: tuple[int, ...] = (1, 4)) -> CudaRunner:
        made.append(CudaRunner(replace(cuda.model, sizes=sizes), number=len(made) + 1, graphs=graphs))
        return made[-1]

    with cuda.driver.bound():
        yield make
        for runner in made:
            runner.close()


def cells(count: int) -> BgrImage:
    """A picture with so many things to find, in a row."""
    return white_cell_image(*((2 * number, 1) for number in range(count)))


def found_in(runner: CudaRunner, pictures: Sequence[CudaSurface]) -> list[int]:
    found, _ = runner.detect(pictures, [0.5] * len(pictures))
    return [len(each.scores) for each in found]


def frames(pictures: Sequence[CudaSurface]) -> list[Frame[CudaSurface]]:
    return [
        Frame(camera_id=f"camera-{number}", seq=number, pts_s=None, times=make_times(), surface=picture)
        for number, picture in enumerate(pictures)
    ]


def same(one: Sequence[Found], other: Sequence[Found]) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (10, (1, 2, 4, 8, 10)), (16, (1, 2, 4, 8, 12, 16))],
)
def test_a_context_is_prepared_for_few_batch_sizes(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(max_batch) == sizes


@pytest.mark.parametrize("graphs", [True, False])
def test_every_picture_gets_its_own_boxes_whatever_the_batch(
    cuda: HostCuda, make: Callable[..., CudaRunner], graphs: bool
) -> None:
    runner = make(graphs=graphs)
    pictures = [cuda.upload(cells(count)) for count in (1, 3, 0, 2, 4, 1, 2, 3, 4)]
    for count in range(1, len(pictures) + 1):  # up to three parts: more than the context takes at once
        assert found_in(runner, pictures[:count]) == [1, 3, 0, 2, 4, 1, 2, 3, 4][:count]


def test_a_batch_is_padded_up_to_the_next_size(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make(graphs=False, sizes=(1, 2, 4))
    picture = cuda.upload(cells(1))
    before = cuda.driver.bytes_out
    found_in(runner, [picture] * 3)
    three = cuda.driver.bytes_out - before
    found_in(runner, [picture] * 4)
    assert cuda.driver.bytes_out - before == 2 * three


def test_a_padded_batch_leaves_nothing_of_the_batch_before(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make(sizes=(4,))
    assert found_in(runner, [cuda.upload(cells(4))] * 4) == [4, 4, 4, 4]
    assert found_in(runner, [cuda.upload(cells(1))]) == [1]
    assert found_in(runner, [cuda.upload(cells(2))] * 2) == [2, 2]


def test_a_graph_gives_what_plain_launches_give(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    pictures = [cuda.upload(cells(count)) for count in (2, 4, 1)]
    one, _ = make(graphs=True).detect(pictures, [0.3] * 3)
    other, _ = make(graphs=False).detect(pictures, [0.3] * 3)
    assert same(one, other) and len(one[1].scores) == 4


def test_a_batch_is_one_launch_when_graphs_are_on(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make()
    assert repr(runner) == "CudaRunner(context 1, batches up to 4, 2 graphs)" and runner.notes == ()
    picture = cuda.upload(cells(1))
    before = cuda.driver.calls.copy()
    found_in(runner, [picture] * 4)
    assert cuda.driver.calls - before == {"graph": 1, "event": 1, "synchronize": 1}


def test_nothing_is_allocated_while_it_runs(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make()
    pictures = [cuda.upload(cells(1))] * 4
    before = cuda.driver.calls.copy()
    for count in (1, 2, 3, 4):
        found_in(runner, pictures[:count])
    done = cuda.driver.calls - before
    assert not {"allocate", "allocate_pinned", "stream", "load_module", "fill"} & set(done)


def test_results_are_the_callers_and_outlive_the_next_batch(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make()
    (first,), _ = runner.detect([cuda.upload(cells(3))], [0.5])
    kept = first.boxes.copy(), first.scores.copy(), first.class_ids.copy()
    found_in(runner, [cuda.upload(cells(1))])
    assert all(map(np.array_equal, (first.boxes, first.scores, first.class_ids), kept))


def test_what_a_picture_holds_is_dated_with_the_stages_of_its_batch(
    cuda: HostCuda, make: Callable[..., CudaRunner]
) -> None:
    results = make().run(frames([cuda.upload(cells(1)), cuda.upload(cells(2))]), [0.5, 0.5])
    assert [(result.camera_id, len(result), result.width) for result in results] == [
        ("camera-0", 1, 64),
        ("camera-1", 2, 64),
    ]
    stages = results[0].stages
    assert results[1].stages is stages
    assert stages.preprocess_s > 0 and stages.infer_s > 0 and stages.postprocess_s > 0


@pytest.mark.parametrize("operation", ["capture", "graph"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_capture_that_fails_falls_back_for_good_and_says_so(
    cuda: HostCuda, make: Callable[..., CudaRunner], operation: str, after: int
) -> None:
    cuda.driver.fail(operation, EngineError("capturing failed: operation not permitted"), after=after)
    runner = make()
    assert runner.notes == (
        "CUDA graphs are off, every batch is queued piece by piece: capturing failed: operation not permitted",
    )
    before = cuda.driver.calls["graph"]
    assert found_in(runner, [cuda.upload(cells(2))] * 3) == [2, 2, 2]
    assert found_in(runner, [cuda.upload(cells(1))]) == [1]
    assert cuda.driver.calls["graph"] == before


def test_a_capture_that_the_engine_cannot_take_falls_back(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    cuda.driver.fail("submit", EngineError("the engine may not be captured"), after=2)  # after both warm-ups
    runner = make()
    assert "the engine may not be captured" in runner.notes[0]
    assert found_in(runner, [cuda.upload(cells(1))]) == [1]


@pytest.mark.parametrize("operation", ["copy", "launch", "submit", "event", "synchronize"])
def test_a_batch_that_fails_is_an_error_and_the_next_one_works(
    cuda: HostCuda, make: Callable[..., CudaRunner], operation: str
) -> None:
    runner = make(graphs=False)
    picture = cuda.upload(cells(2))
    cuda.driver.fail(operation, EngineError(f"{operation} failed"))
    with pytest.raises(EngineError, match=f"{operation} failed"):
        found_in(runner, [picture])
    assert found_in(runner, [picture]) == [2]


def test_an_engine_that_refuses_a_batch_fails_that_batch_only(cuda: HostCuda, make: Callable[..., CudaRunner]) -> None:
    runner = make(graphs=False)
    picture = cuda.upload(cells(2))
    cuda.engine.refusals = 1
    before = cuda.driver.calls.copy()
    with pytest.raises(EngineError, match="refuse a batch"):
        found_in(runner, [picture])
    # What was queued before the refusal still read the picture: it was waited for.
    assert (cuda.driver.calls - before)["synchronize"] == 1
    assert found_in(runner, [picture]) == [2]


def test_an_engine_whose_outputs_are_not_the_familys_is_refused(cuda: HostCuda) -> None:
    wrong = replace(cuda.model.spec, classes=("one", "two", "three"))
    with cuda.driver.bound(), pytest.raises(EngineError, match="2 classes as yolox, but 3 class names"):
        CudaRunner(replace(cuda.model, spec=wrong), number=1, graphs=True)
    assert not cuda.driver.left_open and not cuda.engine.open_sessions


@pytest.mark.parametrize("operation", ["allocate", "allocate_pinned"])
def test_memory_that_is_refused_frees_everything_else(cuda: HostCuda, operation: str) -> None:
    """One test for each allocation that there is: whichever is refused, nothing stays."""
    count = 0
    while True:
        cuda.driver.fail(operation, OutOfDeviceMemory("out of memory"), after=count)
        with cuda.driver.bound():
            try:
                runner = CudaRunner(replace(cuda.model, sizes=(1, 2)), number=2, graphs=True)
            except OutOfDeviceMemory as exc:
                assert str(exc).startswith("context 2 cannot have") and "of the device's 1024.0 MiB are free" in str(
                    exc
                )
                assert not cuda.driver.left_open and not cuda.engine.open_sessions
                count += 1
            else:
                runner.close()
                break
    assert count == {"allocate": 6, "allocate_pinned": 2}[operation]


@pytest.mark.parametrize("operation", ["stream", "event", "fill", "copy", "launch", "submit", "synchronize", "capture"])
def test_a_device_that_is_lost_while_opening_frees_the_rest(cuda: HostCuda, operation: str) -> None:
    driver = HostDriver()
    lost = HostCuda(cuda.model.spec, driver=driver)
    driver.fail(operation, GONE)
    with driver.bound():
        with pytest.raises(DeviceLost):
            CudaRunner(replace(lost.model, sizes=(1, 2)), number=1, graphs=True)
        assert not driver.left_open
        lost.engine.close()


def test_a_context_that_is_closed_twice_is_closed_once(cuda: HostCuda) -> None:
    with cuda.driver.bound():
        runner = CudaRunner(replace(cuda.model, sizes=(1,)), number=1, graphs=True)
        runner.close()
        runner.close()
    assert not cuda.driver.left_open


def test_a_context_that_cannot_be_freed_entirely_frees_the_rest_and_says_so(
    cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = HostSession.close

    def fails(session: HostSession) -> None:
        close(session)
        raise GONE

    monkeypatch.setattr(HostSession, "close", fails)
    with cuda.driver.bound():
        CudaRunner(replace(cuda.model, sizes=(1, 2)), number=7, graphs=True).close()
    assert "context 7 could not be freed entirely: an illegal memory access" in caplog.text
    assert not cuda.driver.left_open and not cuda.engine.open_sessions


# Detectors


async def opened(cuda: HostCuda, plan: Plan | None = None, **how: Any) -> Any:
    return await asyncio.to_thread(lambda: cuda.open(plan, **how))


async def detect(detector: Any, pictures: Sequence[CudaSurface]) -> list[Detections]:
    results: list[Detections] = await detector.detect(frames(pictures), min_scores=[0.5] * len(pictures))
    return results


def room_of_a_context(cuda: HostCuda) -> int:
    with cuda.driver.bound():
        runner = CudaRunner(cuda.model, number=1, graphs=True)
        room = cuda.driver.used_bytes
        runner.close()
    return room


async def test_a_detector_says_what_it_runs_and_frees_all_when_it_closes(cuda: HostCuda) -> None:
    detector = await opened(cuda, Plan(contexts=2, batch=8, tune=False))
    info = detector.info
    assert (info.backend, info.precision, info.device) == ("tensorrt", "fp32", "host memory")
    assert (info.contexts, info.best_batch, info.max_batch, info.capacity_fps) == (2, 8, 16, None)
    assert info.notes[0] == "2 contexts, batch 8, not measured"
    used = cuda.driver.used_bytes >> 20
    assert info.notes[1] == f"contexts take {used} MiB of device memory, {used} MiB of it for tensors"
    assert info.notes[-1] == "OpenVINO in TensorRT's place"
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("cuda-detector")]
    assert len(threads) == 2
    await detector.aclose()
    await wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert cuda.engine.closed and not cuda.driver.left_open


async def test_the_second_context_out_of_memory_leaves_nothing_behind(cuda: HostCuda) -> None:
    room = await asyncio.to_thread(room_of_a_context, cuda)
    cuda.driver.memory_bytes = room + room // 2
    with pytest.raises(OutOfDeviceMemory, match=r"context 2 cannot have .* of device memory for its .* are free"):
        await opened(cuda)
    assert not cuda.driver.left_open and cuda.driver.used_bytes == 0
    assert not cuda.engine.open_sessions and not cuda.engine.closed  # the engine stays the caller's


async def test_contexts_and_batch_are_chosen_by_measuring(cuda: HostCuda) -> None:
    detector = await opened(cuda, Plan(budget_s=30.0))
    info = detector.info
    assert info.contexts in (1, 2, 3, 4) and info.best_batch in (1, 2, 4, 8, 12, 16) and info.capacity_fps > 0
    assert "chosen by measuring (2 x batch 16: " in info.notes[0] and "4 x batch" in info.notes[0]
    assert [len(each) for each in await detect(detector, [cuda.upload(cells(3))])] == [3]
    await detector.aclose()
    await wait_until(lambda: cuda.engine.closed)


async def test_more_contexts_than_memory_has_room_for_are_not_measured(
    cuda: HostCuda, caplog: pytest.LogCaptureFixture
) -> None:
    room = await asyncio.to_thread(room_of_a_context, cuda)
    cuda.driver.memory_bytes = 2 * room + room // 2 + 2 * 1280 * 720
    caplog.set_level("INFO", logger="app.backends.cuda.detector")
    detector = await opened(cuda, Plan(batch=4, budget_s=30.0))
    assert detector.info.contexts in (1, 2)
    assert "3 x batch" not in detector.info.notes[0] and "3 contexts were not measured" in caplog.text
    await detector.aclose()
    await wait_until(lambda: cuda.engine.closed)


async def test_a_capture_that_fails_is_told_in_the_engines_notes(cuda: HostCuda) -> None:
    cuda.driver.fail("capture", EngineError("operation not permitted"), times=None)
    detector = await opened(cuda)
    told = [note for note in detector.info.notes if "CUDA graphs are off" in note]
    assert len(told) == 1  # once, though both contexts say it
    assert [len(each) for each in await detect(detector, [cuda.upload(cells(2))])] == [2]
    await detector.aclose()
    await wait_until(lambda: cuda.engine.closed)


async def test_an_engine_of_small_batches_takes_large_ones_in_parts(spec: ModelSpec) -> None:
    cuda = await asyncio.to_thread(HostCuda, spec, max_batch=4)
    detector = await opened(cuda)
    assert (detector.info.max_batch, detector.info.best_batch) == (16, 4)
    assert "the engine takes 4 frames at once; larger batches run in parts" in detector.info.notes
    pictures = [cuda.upload(cells(1 + number % 3)) for number in range(16)]
    assert [len(each) for each in await detect(detector, pictures)] == [1 + number % 3 for number in range(16)]
    cuda.free_pictures()
    await detector.aclose()
    await wait_until(lambda: cuda.engine.closed)


async def test_a_lost_device_reaches_every_batch_and_closing_still_ends(cuda: HostCuda) -> None:
    detector = await opened(cuda)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("cuda-detector")]
    pictures = [cuda.upload(cells(1))] * 4
    cuda.driver.fail("synchronize", GONE)
    batches = [detect(detector, pictures) for _ in range(6)]
    answers = await asyncio.gather(*batches, return_exceptions=True)
    assert all(isinstance(answer, DeviceLost) for answer in answers)
    await asyncio.wait_for(detector.aclose(), 20)
    await wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert cuda.engine.closed


async def test_a_lost_device_ends_the_batcher_and_gives_the_pictures_back(cuda: HostCuda) -> None:
    class Sink:
        failures: ClassVar[list[int]] = []

        def started(self, lane: Lane, seq: int) -> None: ...

        def finished(self, *result: object) -> None:
            raise AssertionError("a lost device gave a result")

        def failed(self, lane: Lane, seq: int) -> None:
            self.failures.append(seq)

    detector = await opened(cuda)
    picture = await asyncio.to_thread(upload_bgr, cells(1), cuda.driver)
    batcher: Batcher[CudaSurface] = Batcher(
        policy=BatchPolicy(max_size=4, max_age_s=60.0),
        detector=detector,
        sink=Sink(),
        loop=asyncio.get_running_loop(),
        clock=FakeClock(),
    )
    lane = make_lane()
    batcher.mailbox.add(lane)
    cuda.driver.fail("synchronize", GONE)
    serving = asyncio.create_task(batcher.run())
    frame = next_frame(lane, at=1000.0)
    batcher.mailbox.offer(lane, replace(frame, surface=picture), 1000.0)  # type: ignore[arg-type]
    with pytest.raises(BaseException) as caught:
        await asyncio.wait_for(serving, 10.0)
    error: BaseException = caught.value
    while hasattr(error, "exceptions"):
        error = error.exceptions[0]
    assert error is GONE and Sink.failures == [frame.seq]
    assert "released" in repr(picture) and lane.counts().dropped["infer_failed"] == 1
    await detector.aclose()
    await wait_until(lambda: cuda.engine.closed)


# Choosing


def chosen(durations: Mapping[tuple[int, int], float | None], **how: Any) -> tuning.Choice:
    space = {"contexts": None, "batch": None, "sizes": (1, 4, 16), "budget_s": 3.0, **how}
    clock = iter(range(1000))
    return tuning.choose(
        lambda contexts, batch: durations.get((contexts, batch), 1.0),
        tuning.Space(**space),
        clock=lambda: next(clock) / 1000,
    )


def test_two_contexts_stay_unless_others_are_clearly_faster() -> None:
    even = {(count, 16): count * 0.010 for count in (1, 2, 3, 4)}
    assert chosen(even).contexts == 2
    assert chosen({**even, (3, 16): 0.030 / 1.02}).contexts == 2
    better = chosen({**even, (3, 16): 0.030 / 1.05})
    assert better.contexts == 3 and better.fps == pytest.approx(1680)
    assert chosen({**even, (1, 16): 0.008}).contexts == 1


def test_the_largest_batch_near_the_best_that_keeps_latency_low_wins() -> None:
    assert chosen({(2, 1): 0.002, (2, 4): 0.004, (2, 16): 0.0161}, contexts=2).batch == 16
    assert chosen({(2, 1): 0.002, (2, 4): 0.004, (2, 16): 0.018}, contexts=2).batch == 4
    assert chosen({(2, 1): 0.008, (2, 4): 0.030, (2, 16): 0.100}, contexts=2).batch == 4
    assert chosen({(2, 1): 0.080, (2, 4): 0.300, (2, 16): 0.900}, contexts=2).batch == 1


def test_what_is_written_down_is_not_chosen() -> None:
    choice = chosen({(3, 4): 0.01}, contexts=3, batch=4)
    assert (choice.contexts, choice.batch, len(choice.rows)) == (3, 4, 1)


def test_time_that_runs_out_ends_the_measuring() -> None:
    choice = chosen({(2, 16): 0.01}, budget_s=0.0)
    assert len(choice.rows) == 1 and not choice.complete
    assert choice.note() == (
        "2 contexts, batch 16 chosen by measuring (2 x batch 16: 3200/s; time ran out before everything was measured)"
    )


def test_contexts_without_room_are_passed_over() -> None:
    durations: dict[tuple[int, int], float | None] = {(2, 16): 0.01, (2, 1): 0.01, (2, 4): 0.01, (1, 16): 0.01}
    choice = chosen({**durations, (3, 16): None, (4, 16): None})
    assert choice.contexts == 2 and len(choice.rows) == 4
