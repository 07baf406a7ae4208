"""Whether an engine that is wrong is found out, and one that is right is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.cuda.build import Candidate
from app.backends.cuda.engine_file import Identity
from app.backends.cuda.fp16 import to_fp16
from app.backends.cuda.selfcheck import (
    DRAWN_FRAMES,
    EXACT,
    QUANTISED,
    Agreement,
    agreement,
    drawn_frames,
    hold_against,
    judge,
)
from app.backends.cuda.trial import check_candidate, device_infer, openvino_infer
from app.errors import EngineError, ModelError
from app.inference.found import Found
from app.inference.model import ModelSpec, resolve_model
from app.inference.onnx_batch import make_batchable
from app.inference.onnx_file import load_onnx
from app.types import FloatArray
from tests.support.host_driver import HostDriver
from tests.support.host_engine import HostEngine

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = Identity(
    model_sha256="ab" * 32,
    runtime="tensorrt",
    runtime_version="11.4",
    gpu="host memory",
    compute_capability="9.0",
    precision="fp16",
    min_batch=1,
    opt_batch=8,
    max_batch=16,
    input_width=320,
    input_height=320,
)


def found(*boxes: tuple[float, float, float, float, float, int]) -> Found:
    """(x1, y1, x2, y2, score, class) each, best first."""
    table = np.array(boxes, dtype=np.float32).reshape(-1, 6)
    return Found(boxes=table[:, :4], scores=table[:, 4], class_ids=table[:, 5].astype(np.int32))


CAR = (10.0, 10.0, 110.0, 60.0, 0.8, 2)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return resolve_model(str(ROOT / "models" / "vidette-demo"), ROOT)


@pytest.fixture(scope="module")
def frames(spec: ModelSpec) -> NDArray[np.uint8]:
    return drawn_frames(DRAWN_FRAMES, spec.input_width, spec.input_height)


@pytest.fixture(scope="module")
def outputs(spec: ModelSpec, frames: NDArray[np.uint8]) -> list[FloatArray]:
    """What OpenVINO gives for the drawn frames."""
    return list(openvino_infer(spec, load_onnx(spec.path))(frames))


def test_equal_boxes_agree() -> None:
    result = agreement([found(CAR), found()], [found(CAR), found()], EXACT)
    assert (result.boxes, result.found, result.share, result.largest_score_step) == (1, 1, 1.0, 0.0)
    assert result.least_iou == pytest.approx(1.0)


@pytest.mark.parametrize(
    "other",
    [
        (10.0, 10.0, 110.0, 60.0, 0.8, 3),  # another class
        (10.0, 10.0, 90.0, 60.0, 0.8, 2),  # IoU 0.8
        (10.0, 10.0, 110.0, 60.0, 0.69, 2),  # a score more than 0.02 + 10 % away
    ],
)
def test_a_box_of_another_class_place_or_score_is_not_the_same(
    other: tuple[float, float, float, float, float, int],
) -> None:
    assert agreement([found(CAR)], [found(other)], EXACT).found == 0


def test_int8_may_move_boxes_and_scores_a_little() -> None:
    moved = (10.0, 10.0, 90.0, 60.0, 0.6, 2)
    result = agreement([found(CAR)], [found(moved)], QUANTISED)
    assert (result.boxes, result.found) == (1, 1)
    assert (result.least_iou, result.largest_score_step) == pytest.approx((0.8, 0.2))


def test_only_the_boxes_that_the_rule_asks_for_are_looked_for() -> None:
    faint = (10.0, 10.0, 110.0, 60.0, 0.3, 2)
    assert agreement([found(CAR, faint)], [found(CAR)], QUANTISED).boxes == 1
    many = found(*[(20.0 * n, 0.0, 20.0 * n + 15, 9.0, 0.9 - 0.01 * n, 0) for n in range(30)])
    assert agreement([many], [many], EXACT).boxes == EXACT.best


def test_boxes_are_looked_for_in_their_own_frame_only() -> None:
    assert agreement([found(CAR), found()], [found(), found(CAR)], EXACT).found == 0


def test_ninety_percent_are_enough_and_less_is_refused(spec: ModelSpec) -> None:
    right = Agreement(boxes=100, found=90, least_iou=0.91, largest_score_step=0.0123)
    assert judge(right, spec, EXACT) == (
        "agrees with model.onnx on 90 of 100 boxes (IoU at least 0.91, scores within 0.012)"
    )
    with pytest.raises(
        ModelError, match=r"the engine disagrees with model\.onnx: of 100 boxes only 89 are found again"
    ):
        judge(replace(right, found=89), spec, EXACT)


def test_too_few_boxes_prove_nothing_and_that_is_said(spec: ModelSpec) -> None:
    sentence = judge(Agreement(boxes=3, found=0, least_iou=1.0, largest_score_step=0.0), spec, EXACT)
    assert sentence == "could not be held against model.onnx: it finds only 3 boxes to compare"


def test_drawn_frames_are_the_same_every_time_and_differ_from_each_other() -> None:
    frames = drawn_frames(3, 96, 64)
    assert frames.shape == (3, 64, 96, 3)
    assert np.array_equal(frames, drawn_frames(3, 96, 64))
    assert not np.array_equal(frames[0], frames[1])


def infer_constant(outputs: Sequence[FloatArray]) -> Callable[[NDArray[np.uint8]], Sequence[FloatArray]]:
    return lambda images: outputs


def test_an_engine_that_mixes_up_its_frames_is_found_out(
    spec: ModelSpec, frames: NDArray[np.uint8], outputs: list[FloatArray]
) -> None:
    mixed = [np.roll(output, 1, axis=0) for output in outputs]
    with pytest.raises(ModelError, match="the engine disagrees"):
        hold_against(infer_constant(outputs), infer_constant(mixed), spec, frames, EXACT)


def test_an_engine_with_wrong_weights_is_found_out(
    spec: ModelSpec, frames: NDArray[np.uint8], outputs: list[FloatArray]
) -> None:
    model, random = load_onnx(spec.path), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            values = np.frombuffer(tensor.raw_data, dtype=np.float32)
            tensor.raw_data = (values * (1 + 0.1 * random.standard_normal(values.shape))).astype(np.float32).tobytes()
    with pytest.raises(ModelError, match="the engine disagrees"):
        hold_against(infer_constant(outputs), openvino_infer(spec, model), spec, frames, EXACT)


def test_outputs_of_another_shape_or_that_are_no_numbers_are_found_out(
    spec: ModelSpec, frames: NDArray[np.uint8], outputs: list[FloatArray]
) -> None:
    with pytest.raises(ModelError, match=r"output output is \[12, 2099, 11\], not \[12, 2100, 11\]"):
        hold_against(infer_constant(outputs), infer_constant([outputs[0][:, 1:]]), spec, frames, EXACT)
    with pytest.raises(ModelError, match="holds values that are no numbers"):
        hold_against(infer_constant(outputs), infer_constant([outputs[0] * np.nan]), spec, frames, EXACT)


def test_without_a_gpu_the_converted_model_is_held_against_the_file(spec: ModelSpec) -> None:
    model = to_fp16(make_batchable(load_onnx(spec.path)).model)
    candidate = Candidate(plan=b"plan", model=model, identity=IDENTITY, spec=spec, images=())
    sentence = check_candidate(candidate, driver=None, open_engine=never)
    assert sentence.startswith("was not run for want of a GPU; its model agrees with model.onnx on 120 of 120 boxes")


def test_on_a_device_the_engine_itself_is_run_and_freed(spec: ModelSpec) -> None:
    driver = HostDriver()
    engines: list[HostEngine] = []

    def open_engine(candidate: Candidate) -> HostEngine:
        engines.append(HostEngine(spec, driver))
        return engines[-1]

    candidate = Candidate(plan=b"plan", model=load_onnx(spec.path), identity=IDENTITY, spec=spec, images=())
    with driver.bound():
        sentence = check_candidate(candidate, driver=driver, open_engine=open_engine)
    assert sentence.startswith("agrees with model.onnx on 120 of 120 boxes")
    assert [engine.closed for engine in engines] == [True]
    driver.close()


def test_an_engine_that_fails_in_its_check_is_freed(spec: ModelSpec) -> None:
    driver = HostDriver()
    engine = HostEngine(spec, driver)
    engine.refusals = 1
    candidate = Candidate(plan=b"plan", model=load_onnx(spec.path), identity=IDENTITY, spec=spec, images=())
    with driver.bound(), pytest.raises(EngineError, match="told to refuse"):
        check_candidate(candidate, driver=driver, open_engine=lambda _: engine)
    assert engine.closed
    driver.close()


def test_a_device_gives_what_openvino_gives_for_more_images_than_it_takes_at_once(
    spec: ModelSpec, frames: NDArray[np.uint8], outputs: list[FloatArray]
) -> None:
    driver = HostDriver()
    engine = HostEngine(spec, driver, max_batch=5)
    with driver.bound(), device_infer(engine, driver, spec) as infer:
        given = infer(frames)
    engine.close()
    driver.close()
    assert [output.shape for output in given] == [output.shape for output in outputs]
    assert given[0] == pytest.approx(outputs[0], abs=1e-3)


def never(candidate: Candidate) -> HostEngine:
    raise AssertionError("no engine is opened without a device")
