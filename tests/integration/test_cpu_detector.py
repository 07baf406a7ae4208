"""OpenVINO and the detector around it, on a tiny model with known answers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.cpu.engine import load_graphs, mismatch, random_images
from app.backends.cpu.onnxruntime_engine import OnnxRuntimeEngine
from app.backends.cpu.openvino_engine import OpenVinoEngine, check_model
from app.backends.cpu.runner import parts
from app.backends.cpu.tuning import Plan
from app.backends.ffmpeg.surface import HostSurface
from app.errors import ConfigError, DeviceLost, EngineError, ModelError
from app.inference.model import read_onnx
from app.types import Detections, EngineInfo, Frame
from tests.support.fakes import make_times
from tests.support.onnx_models import SIZE, bright_cells, saved, white_cell_image
from tests.support.wait import wait_until

PLAN = Plan(precision="fp32", streams=1, threads=1)


def _frame(image: NDArray[np.uint8]) -> Frame[HostSurface]:
    return Frame(camera_id="gate-1", seq=1, pts_s=0.0, times=make_times(), surface=HostSurface.from_bgr(image))


async def _detect(path: Path, images: Sequence[NDArray[np.uint8]], **options: object) -> list[Detections]:
    detector = await asyncio.to_thread(
        lambda: open_cpu_detector(str(path), path.parent, **{"tune": False, **options})  # type: ignore[arg-type]
    )
    try:
        return await detector.detect([_frame(image) for image in images], min_scores=[0.25] * len(images))
    finally:
        await detector.aclose()


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(bright_cells(), tmp_path / "cells.onnx")


async def test_bright_cells_are_found_where_they_are(model: Path, engine: str) -> None:
    (result,) = await _detect(model, [white_cell_image((2, 1), (6, 5))], engine=engine)
    assert sorted(result.boxes.round(3).tolist()) == [[16, 8, 24, 16], [48, 40, 56, 48]]
    assert (result.scores > 0.99).all() and result.class_ids.tolist() == [0, 0]


async def test_colours_reach_the_model_in_its_own_order(tmp_path: Path, engine: str) -> None:
    red = white_cell_image((2, 1), colour=(0, 0, 255))
    (as_bgr,) = await _detect(saved(bright_cells(), tmp_path / "bgr" / "m.onnx"), [red], engine=engine)
    assert as_bgr.class_ids.tolist() == [1]
    path = saved(bright_cells(), tmp_path / "rgb" / "m.onnx")
    path.with_name("model.toml").write_text('file = "m.onnx"\n[input]\ncolour = "rgb"\n')
    (as_rgb,) = await _detect(path, [red], engine=engine)
    assert as_rgb.class_ids.tolist() == [0]


async def test_mean_and_std_are_applied_by_channel(tmp_path: Path, engine: str) -> None:
    path = saved(bright_cells(), tmp_path / "m.onnx")
    # Blue is brought up to 255 from 100, red stays below.
    path.with_name("model.toml").write_text(
        'file = "m.onnx"\n[input]\nmean = [-50.0, 0.0, 0.0]\nstd = [0.588, 1.0, 1.0]\n'
    )
    (result,) = await _detect(path, [white_cell_image((2, 1), colour=(100, 0, 100))], engine=engine)
    assert result.class_ids.tolist() == [0]
    assert result.scores[0] > 0.98


async def test_a_half_precision_input_works(tmp_path: Path, engine: str) -> None:
    path = saved(bright_cells(input_type=TensorProto.FLOAT16), tmp_path / "m.onnx")
    (result,) = await _detect(path, [white_cell_image((2, 1))], engine=engine)
    assert result.boxes.round(2).tolist() == [[16, 8, 24, 16]]


async def test_boxes_are_in_the_pixels_of_the_source(model: Path) -> None:
    image = white_cell_image((2, 1)).repeat(4, axis=0).repeat(4, axis=1)[: 3 * SIZE]
    (result,) = await _detect(model, [image])
    assert result.boxes == pytest.approx(np.array([[64, 32, 96, 64]]), abs=0.1)


async def test_start_up_measures_and_says_what_it_chose(model: Path) -> None:
    detector = await asyncio.to_thread(open_cpu_detector, str(model), model.parent)
    info = detector.info
    await detector.aclose()
    assert info.capacity_fps is not None and info.capacity_fps > 0
    assert 1 <= info.best_batch <= 16
    assert "chosen by measuring" in info.notes[0]
    assert info.precision in ("fp32", "bf16") and info.backend in ("openvino", "onnxruntime")
    assert (
        repr(detector) == f"PooledDetector(cells, {info.backend}, {info.precision}, {info.contexts} contexts, closed)"
    )


async def test_a_chosen_precision_and_number_of_contexts_are_kept(model: Path) -> None:
    detector = await asyncio.to_thread(
        lambda: open_cpu_detector(str(model), model.parent, precision="fp32", contexts=3, max_batch=4)
    )
    info = detector.info
    await detector.aclose()
    assert (info.precision, info.contexts, info.max_batch) == ("fp32", 3, 4)
    assert info.best_batch <= 4


async def test_a_precision_that_the_cpu_lacks_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"backend\.precision: fp8 is not one of fp32"):
        await asyncio.to_thread(lambda: open_cpu_detector(str(model), model.parent, precision="fp8"))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (bright_cells(mix_frames=True), "runs at batch 1 at most: a batch of 2 differs from its frames one by one"),
        (bright_cells(quantised=True), "runs at batch 1 at most: its dynamic quantisation takes one scale"),
    ],
)
async def test_a_model_that_mixes_its_frames_runs_one_by_one_and_says_why(
    tmp_path: Path, made: ModelProto, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(made, tmp_path / "m.onnx")
    with caplog.at_level(logging.INFO, logger="app.backends.cpu"):
        detector = await asyncio.to_thread(lambda: open_cpu_detector(str(path), tmp_path, tuning_budget_s=60.0))
    images = [white_cell_image((2, 1)), white_cell_image((1, 1), (3, 3), (5, 5), (7, 7)), white_cell_image()]
    together = await detector.detect([_frame(image) for image in images], min_scores=[0.2] * 3)
    alone = [(await detector.detect([_frame(image)], min_scores=[0.2]))[0] for image in images]
    await detector.aclose()
    assert detector.info.best_batch == 1 and detector.info.max_batch == 16
    assert any(reason in note for note in detector.info.notes)
    assert any(reason in record.message for record in caplog.records)
    assert all(np.array_equal(one.boxes, other.boxes) for one, other in zip(together, alone, strict=True))


async def test_a_quantised_model_says_int8(tmp_path: Path) -> None:
    path = saved(bright_cells(quantised=True), tmp_path / "m.onnx")
    detector = await asyncio.to_thread(lambda: open_cpu_detector(str(path), tmp_path, tune=False))
    await detector.aclose()
    assert detector.info.precision == "int8"


async def test_a_batch_that_fails_is_an_engine_error_and_the_next_works(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = await asyncio.to_thread(lambda: open_cpu_detector(str(model), model.parent, tune=False, contexts=1))
    gone = _frame(white_cell_image((2, 1)))
    gone.surface.release()
    with pytest.raises(EngineError, match="a batch of 1 frames could not be inferred: the surface was released"):
        await detector.detect([gone], min_scores=[0.25])
    assert "a batch of 1 frames failed" in caplog.text
    (result,) = await detector.detect([_frame(white_cell_image((2, 1)))], min_scores=[0.25])
    await detector.aclose()
    assert len(result) == 1


async def test_a_batch_of_no_frames_or_too_many_is_a_mistake(model: Path) -> None:
    detector = await asyncio.to_thread(lambda: open_cpu_detector(str(model), model.parent, tune=False, max_batch=2))
    frame = _frame(white_cell_image())
    for frames, scores in (([], []), ([frame] * 3, [0.25] * 3), ([frame], [])):
        with pytest.raises(ValueError, match="a batch has 1 to 2 frames"):
            await detector.detect(frames, min_scores=scores)
    await detector.aclose()


class _ScriptedRunner:
    """A runner that waits until it may go on, and then does what it was told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self._error = error

    def run(self, frames: Sequence[Frame[HostSurface]], min_scores: Sequence[float]) -> list[Detections]:
        self.started.set()
        assert self.go_on.wait(10.0)
        if self._error is not None:
            raise self._error
        return []

    def close(self) -> None:
        pass


def _scripted(runner: _ScriptedRunner) -> CpuDetector:
    info = EngineInfo(
        model="scripted",
        sha256="",
        family="yolox",
        input_width=SIZE,
        input_height=SIZE,
        classes=("person",),
        precision="fp32",
        backend="openvino",
        device="none",
        max_batch=16,
        best_batch=1,
        contexts=1,
        capacity_fps=None,
    )
    return CpuDetector(info, [runner], name="cpu-detector")


async def test_a_cancelled_batch_ends_only_when_its_surfaces_are_no_longer_read() -> None:
    runner = _ScriptedRunner(error=EngineError("nobody asks any more"))
    detector = _scripted(runner)
    task = asyncio.create_task(detector.detect([_frame(white_cell_image())], min_scores=[0.25]))
    await wait_until(runner.started.is_set)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    runner.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await detector.aclose()


async def test_an_engine_error_arrives_as_it_was_raised() -> None:
    runner = _ScriptedRunner(error=DeviceLost("the device is gone"))
    runner.go_on.set()
    detector = _scripted(runner)
    with pytest.raises(DeviceLost, match="the device is gone"):
        await detector.detect([_frame(white_cell_image())], min_scores=[0.25])
    await detector.aclose()


async def test_a_batch_that_waits_for_a_context_is_refused_once_the_detector_closes() -> None:
    runner = _ScriptedRunner()
    detector = _scripted(runner)
    first = asyncio.create_task(detector.detect([_frame(white_cell_image())], min_scores=[0.25]))
    await wait_until(runner.started.is_set)
    second = asyncio.create_task(detector.detect([_frame(white_cell_image())], min_scores=[0.25]))
    closing = asyncio.create_task(detector.aclose())
    await asyncio.sleep(0)
    runner.go_on.set()
    assert await first == []
    with pytest.raises(EngineError, match="closed"):
        await second
    await closing


def _with_domain(model: ModelProto) -> ModelProto:
    """The model with an operator that OpenVINO does not know before its output."""
    model.graph.node[-1].output[0] = "almost"
    model.graph.node.append(helper.make_node("Unknown", ["almost"], ["output"], domain="vidette.test"))
    return model


def _with_last_reshape(shape: Sequence[int], *, at_run_time: bool) -> ModelProto:
    """Bright cells with a Reshape before the output. `at_run_time` hides its shape from the compiler."""
    model = bright_cells()
    model.graph.node[-1].output[0] = "almost"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), "last_shape"))
    name = "last_shape"
    if at_run_time:
        name = "hidden_shape"
        model.graph.node.extend(
            [
                helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0),
                helper.make_node("Floor", ["least"], ["floor"]),
                helper.make_node("Sub", ["floor", "floor"], ["nothing"]),
                helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.INT64),
                helper.make_node("Add", ["last_shape", "zero"], [name]),
            ]
        )
    model.graph.node.append(helper.make_node("Reshape", ["almost", name], ["output"]))
    return model


def test_a_batch_that_cannot_be_run_is_a_reason(tmp_path: Path) -> None:
    path = saved(_with_last_reshape([84, 7], at_run_time=False), tmp_path / "m.onnx")
    engine = OpenVinoEngine(load_graphs(read_onnx(path)))
    engine.context(PLAN, (1,)).infer(0, 1)
    assert str(mismatch(engine, PLAN, 2)).startswith("a batch of 2 cannot be run: model m cannot be used by OpenVINO")


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    path = saved(_with_domain(bright_cells()), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"model m cannot be used by OpenVINO: .*Unknown"):
        OpenVinoEngine(load_graphs(read_onnx(path)))


def test_a_model_that_compiles_but_does_not_run_is_refused(tmp_path: Path) -> None:
    path = saved(_with_last_reshape([5, 5, 5], at_run_time=True), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="a batch of 1 could not be inferred"):
        open_cpu_detector(str(path), tmp_path, tune=False)
    with pytest.raises(ModelError, match="a batch of 1 could not be inferred"):
        open_cpu_detector(str(path), tmp_path)
    with pytest.raises(ModelError, match="model m cannot be run"):
        check_model(read_onnx(path))


def test_the_naive_way_to_free_the_batch_axis_is_refused(tmp_path: Path) -> None:
    naive = bright_cells()
    for tensor in (*naive.graph.input, *naive.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    spec = read_onnx(saved(naive, tmp_path / "m.onnx"))
    assert mismatch(OpenVinoEngine(load_graphs(spec)), PLAN, 3) is not None
    assert check_model(spec) is not None


def test_a_model_is_checked_alone_and_in_batches(model: Path, tmp_path: Path) -> None:
    assert check_model(read_onnx(model)) is None
    mixed = read_onnx(saved(bright_cells(mix_frames=True), tmp_path / "mixed.onnx"))
    assert "a batch of 3 differs" in str(check_model(mixed))


def test_a_batch_can_be_any_sum_of_sizes() -> None:
    assert [(part.start, part.stop) for part in parts(7, (4, 2, 1))] == [(0, 4), (4, 6), (6, 7)]
    assert [(part.start, part.stop) for part in parts(3, (1,))] == [(0, 1), (1, 2), (2, 3)]
    assert [(part.start, part.stop) for part in parts(16, (8, 4, 2, 1))] == [(0, 8), (8, 16)]


@pytest.mark.parametrize("make", [OpenVinoEngine, OnnxRuntimeEngine])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_context_of_batches_gives_what_single_frames_give(
    model: Path, make: type[OpenVinoEngine] | type[OnnxRuntimeEngine], threads: int
) -> None:
    spec = replace(read_onnx(model), std=(2.0, 2.0, 2.0))
    images = random_images(spec, 6)
    context = make(load_graphs(spec)).context(replace(PLAN, threads=threads), (1, 2, 4), images)
    assert context.sizes == (4, 2, 1)
    together = np.concatenate([context.infer(0, 4)[0].copy(), context.infer(4, 2)[0].copy()])
    alone = np.concatenate([context.infer(number, 1)[0].copy() for number in range(6)])
    assert together == pytest.approx(alone, abs=1e-5)
