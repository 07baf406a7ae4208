"""The postprocess kernels, compiled for the host, against the CPU backend's numpy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.backends.cpu.postprocess import postprocess
from app.backends.cuda.engine import TensorInfo
from app.backends.cuda.kernels import Postprocess, load_kernels
from app.errors import EngineError
from app.inference.families.base import MAX_CANDIDATES
from app.inference.families.identify import decoder_for
from app.inference.found import MAX_BOXES, Found
from app.inference.geometry import Placement, letterbox
from app.inference.nms import iou_matrix
from app.types import FloatArray
from tests.support.host_driver import HostDriver
from tests.support.host_kernels import host_module
from tests.support.raw_outputs import Answer, Head, postprocess_on

HEADS = {
    "yolox": Head(family="yolox"),
    "yolov5": Head(family="yolov5"),
    "yolov8": Head(family="yolov8"),
    "nanodet": Head(family="nanodet"),
    "nanodet split": Head(family="nanodet", split=True),
    "nanodet_plus": Head(family="nanodet_plus"),
    "nanodet_plus split": Head(family="nanodet_plus", split=True),
    "end2end": Head(family="end2end"),
}
# These take exp(): numpy's and C's differ in the last bit. All others agree bit for bit.
WITH_EXP = ("yolox", "nanodet", "nanodet_plus")
SIZES = [(1280, 720), (64, 64), (333, 512), (7, 3), (1920, 1080)]


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    driver = HostDriver()
    with driver.bound():
        yield driver
    driver.close()


def compare(
    driver: HostDriver,
    head: Head,
    outputs: Sequence[NDArray[Any]],
    min_scores: Sequence[float],
    *,
    iou: float = 0.45,
    placement: Placement = "centre",
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Answer:
    """The device's answer for the first `len(min_scores)` images, after a comparison with the CPU's."""
    count = len(min_scores)
    sizes = list(itertools.islice(itertools.cycle(sizes), count))
    answer = postprocess_on(driver, head, outputs, sizes, min_scores, iou=iou, placement=placement)
    for got, wanted in zip(answer.found, on_cpu(head, outputs, sizes, min_scores, iou, placement), strict=False):
        assert got.scores.tolist() == wanted.scores.tolist()
        assert got.class_ids.tolist() == wanted.class_ids.tolist()
        assert got.boxes.dtype == np.float32 and got.boxes.shape == wanted.boxes.shape
        if head.family in WITH_EXP:
            assert np.allclose(got.boxes, wanted.boxes, rtol=2e-6, atol=2e-3)  # a bit of an input pixel, scaled up
        else:
            assert np.array_equal(got.boxes, wanted.boxes)
    assert all(len(found.scores) == 0 for found in answer.found[count:])
    assert answer.candidates[count:] == [0] * (len(outputs[0]) - count)
    return answer


def on_cpu(
    head: Head,
    outputs: Sequence[NDArray[Any]],
    sizes: Sequence[tuple[int, int]],
    min_scores: Sequence[float],
    iou: float,
    placement: Placement,
) -> list[Found]:
    return postprocess(
        [output[: len(sizes)].astype(np.float32) for output in outputs],
        [letterbox(width, height, head.width, head.height, placement) for width, height in sizes],
        decoder=decoder_for(head.family, head.width, head.height),
        min_scores=min_scores,
        iou=iou,
    )


def unambiguous(head: Head, outputs: Sequence[NDArray[Any]], min_scores: Sequence[float], iou: float) -> bool:
    """Whether no overlap is so close to `iou` that the last bit of an exp() decides."""
    if head.family not in WITH_EXP:
        return True
    decoder = decoder_for(head.family, head.width, head.height)
    for number, min_score in enumerate(min_scores):
        found = decoder.decode([output[number].astype(np.float32) for output in outputs], min_score)
        of_pair = iou_matrix(found.boxes, found.boxes)
        if (np.abs(of_pair - iou) < 1e-5).any():
            return False
    return True


def draw(head: Head, seed: int, batch: int, min_scores: Sequence[float], **known: Any) -> list[NDArray[Any]]:
    """Random outputs, of the first seed from `seed` on that leaves nothing to the last bit."""
    element = np.float16 if known.pop("half", False) else np.float32
    for attempt in itertools.count(seed):
        outputs = [each.astype(element) for each in head.random(np.random.default_rng(attempt), batch, **known)]
        if unambiguous(head, outputs, min_scores, 0.45):
            return outputs
    raise AssertionError


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_cpu_backend_finds_the_same_boxes(driver: HostDriver, head: Head, half: bool) -> None:
    min_scores = [0.25, 0.9, 0.5, 0.99, 1.1]
    answer = compare(driver, head, draw(head, 0, 5, min_scores, half=half), min_scores)
    assert len(answer.found[0].scores) > 5 and len(answer.found[4].scores) == 0


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("name", [name for name in HEADS if "nanodet" not in name])
def test_more_candidates_than_the_list_holds_are_cut_at_the_best(driver: HostDriver, name: str, half: bool) -> None:
    head = replace(HEADS[name], width=320, height=320, classes=4, rows=MAX_BOXES)
    outputs = draw(head, 3, 2, [1.1] if name == "yolox" else [0.0], half=half)
    if name == "yolox":  # of a thousand boxes some pair would hang on the last bit; exp(0) is exact
        for output in outputs:
            output[..., 2:4] = 0
    answer = compare(driver, head, outputs, [0.0, 0.0])
    assert answer.candidates == [300 if name == "end2end" else MAX_CANDIDATES] * 2


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("family", ["nanodet", "nanodet_plus"])
def test_a_flood_of_nanodet_candidates_is_cut_at_the_best(driver: HostDriver, family: str, split: bool) -> None:
    head = Head(family=family, width=160, height=128, classes=30, split=split)
    outputs = head.random(np.random.default_rng(0), 1)
    sides = outputs[len(outputs) // 2 :] if split else [outputs[0][..., head.classes :]]
    for each in sides:  # the mean bin is 3.5 whatever exp() is of
        each[:] = 1.0
    answer = compare(driver, head, outputs, [0.0])
    assert answer.candidates == [MAX_CANDIDATES]


@pytest.mark.parametrize("count", [999, 1000, 1001, 1023, 1024, 1025, 8191, 8192, 8193, 9000])
@pytest.mark.parametrize("distinct", [1, 3, 5000])
def test_the_limits_of_the_list_and_equal_scores_are_exact(driver: HostDriver, count: int, distinct: int) -> None:
    head = Head(family="yolov8", width=512, height=512, classes=2)  # 10,752 items
    rng = np.random.default_rng(count)
    (output,) = head.random(rng, 1, scores=np.linspace(0.5, 0.9, distinct, dtype=np.float32))
    flat = output[0, 4:].reshape(-1)
    flat[rng.permutation(len(flat))[count:]] = 0.1
    answer = compare(driver, head, [output], [0.5])
    assert answer.candidates == [min(count, MAX_CANDIDATES)]


def test_a_whole_models_items_pass_through_the_slow_way(driver: HostDriver) -> None:
    head = Head(family="yolov8", width=640, height=640, classes=80)  # 672,000 items
    outputs = head.random(np.random.default_rng(0), 1, scores=np.linspace(0.0, 1.0, 50, dtype=np.float32))
    outputs[0][:, 4:, ::7] = np.nan
    answer = compare(driver, head, outputs, [0.0])
    assert answer.candidates == [MAX_CANDIDATES] and not np.isnan(answer.found[0].scores).any()


@settings(max_examples=200)
@given(
    name=st.sampled_from(sorted(HEADS)),
    classes=st.integers(1, 6),
    size=st.tuples(st.integers(36, 100), st.integers(36, 100)),  # up to 32, two strides have as many cells
    batch=st.integers(1, 16),
    blank=st.integers(0, 15),
    min_score=st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.97]),
    levels=st.sampled_from([None, 2, 8]),
    placement=st.sampled_from(["centre", "top_left"]),
    half=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_model_and_batch_agrees_with_the_cpu(
    name: str,
    classes: int,
    size: tuple[int, int],
    batch: int,
    blank: int,
    min_score: float,
    levels: int | None,
    placement: Placement,
    half: bool,
    seed: int,
) -> None:
    head = replace(HEADS[name], classes=classes, width=size[0] // 4 * 4, height=size[1])
    min_scores = [min_score] * max(1, batch - blank)
    scores = None if levels is None else np.linspace(0.0, 1.0, levels, dtype=np.float32)
    if head.family in WITH_EXP:  # fewer pairs, or no seed would be unambiguous
        min_scores = [max(min_score, 0.8)] * len(min_scores)
        scores = None
    outputs = draw(head, seed, batch, min_scores, half=half, scores=scores)
    driver = HostDriver()
    with driver.bound():
        compare(driver, head, outputs, min_scores, placement=placement)
    driver.close()


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_broken_numbers_become_no_boxes_and_harm_no_others(driver: HostDriver, head: Head) -> None:
    rng = np.random.default_rng(7)
    outputs = draw(head, 7, 4, [0.6] * 4)
    for output in outputs:
        flat = output.reshape(-1)
        for value in (np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30, 65504.0):
            flat[rng.integers(0, len(flat), max(3, len(flat) // 400))] = value
    answer = compare(driver, head, outputs, [0.6, 0.6, 0.0, 0.25])
    for found in answer.found:
        assert np.isfinite(found.boxes).all() and not np.isnan(found.scores).any()


def test_a_model_that_answers_nothing_but_nan_finds_nothing(driver: HostDriver) -> None:
    for head in HEADS.values():
        outputs = [np.full((2, *shape), np.nan, dtype=np.float32) for shape in head.shapes()]
        assert compare(driver, head, outputs, [0.0, 0.0]).candidates == [0, 0]


def test_zeros_reach_a_score_of_zero_and_have_no_area(driver: HostDriver) -> None:
    for head in HEADS.values():
        outputs = [np.zeros((1, *shape), dtype=np.float32) for shape in head.shapes()]
        compare(driver, head, outputs, [0.0])
        assert compare(driver, head, outputs, [0.01]).candidates == [0]


def test_negative_scores_rank_below_zero(driver: HostDriver) -> None:
    head = HEADS["yolov8"]
    (output,) = head.random(np.random.default_rng(1), 1)
    output[:, 4:] -= 0.5
    output[:, 4:, ::3] = 0.0
    output[:, 4:, ::5] = -0.0  # equal, so the lower index comes first
    compare(driver, head, [output], [-1.0])


def test_a_class_score_below_zero_counts_as_zero(driver: HostDriver) -> None:
    for name in ("yolox", "yolov5"):
        (output,) = draw(HEADS[name], 8, 1, [0.9])
        output[..., 2:4] = 0 if name == "yolox" else 5
        output[..., 5:] -= 0.7
        output[:, ::3, 5:] = [-0.3, -0.1, -0.2]
        assert 1 in compare(driver, HEADS[name], [output], [0.0]).found[0].class_ids


def test_end_to_end_boxes_beyond_the_slab_are_the_worst(driver: HostDriver) -> None:
    head = Head(family="end2end", rows=900)
    (output,) = head.random(np.random.default_rng(2), 1)
    answer = postprocess_on(driver, head, [output], [(64, 64)], [0.0])
    best = np.argsort(-output[0, :, 4], kind="stable")[:MAX_BOXES]
    (wanted,) = on_cpu(head, [output[:, best]], [(64, 64)], [0.0], 0.45, "centre")
    assert answer.candidates == [900]
    assert np.array_equal(answer.found[0].boxes, wanted.boxes)
    assert answer.found[0].scores.tolist() == wanted.scores.tolist()


def test_no_more_boxes_than_the_slab_holds_survive(driver: HostDriver) -> None:
    head = Head(family="yolov5", width=640, height=640, classes=1)
    (output,) = head.random(np.random.default_rng(3), 1)
    output[..., 2:4] = 1.0  # too small to overlap
    answer = compare(driver, head, [output], [0.5], sizes=[(640, 640)])
    assert len(answer.found[0].scores) == MAX_BOXES


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.65, 1.0])
def test_the_threshold_of_suppression_is_obeyed(driver: HostDriver, iou: float) -> None:
    head = HEADS["yolov5"]
    (output,) = head.random(np.random.default_rng(4), 2)
    output[..., :4] = np.round(output[..., :4])  # overlaps of exactly a half are among them
    compare(driver, head, [output], [0.2, 0.5], iou=iou)


@pytest.mark.parametrize("name", ["yolov8", "yolov5", "nanodet split", "end2end"])
def test_two_runs_and_any_order_of_threads_leave_the_same_bytes(name: str) -> None:
    head = replace(HEADS[name], width=256, height=256, classes=8)
    outputs = head.random(np.random.default_rng(5), 3, scores=np.linspace(0.1, 0.9, 9, dtype=np.float32))
    slabs = set()
    for fibers, backwards, launches in ((16, False, 1), (16, False, 3), (16, True, 1), (1, False, 1), (512, True, 1)):
        driver = HostDriver(module=host_module(fibers=fibers, backwards=backwards))
        with driver.bound():
            answer = postprocess_on(driver, head, outputs, SIZES[:2], [0.85, 0.05], launches=launches)
        driver.close()
        slabs.add(answer.slab)
    assert len(slabs) == 1


def test_a_batch_takes_three_launches_and_nothing_of_the_last_one_is_left(driver: HostDriver) -> None:
    head = HEADS["yolov8"]
    outputs = head.random(np.random.default_rng(6), 2)
    once = postprocess_on(driver, head, outputs, SIZES[:2], [0.5, 0.5])
    assert driver.launches == {"begin": 1, "collect_f32": 1, "finish_f32": 1}
    again = postprocess_on(driver, head, outputs, SIZES[:2], [0.5, 0.5], launches=4)
    assert once.slab == again.slab


def test_what_follows_the_boxes_is_zero(driver: HostDriver) -> None:
    head = HEADS["yolov8"]
    outputs: list[FloatArray] = [np.zeros((2, *shape), dtype=np.float32) for shape in head.shapes()]
    assert not any(postprocess_on(driver, head, outputs, SIZES[:1], [0.5]).slab)


def test_outputs_that_are_not_the_familys_are_refused(driver: HostDriver) -> None:
    module = load_kernels(driver)
    head = HEADS["nanodet split"]
    with pytest.raises(EngineError, match=r"the engine of model made-up has outputs out0 \[\?, 64, 3\].*supported are"):
        Postprocess(module, head.spec(), head.tensors()[:4], iou=0.45)
    with pytest.raises(EngineError, match="out of order for family nanodet"):
        Postprocess(module, head.spec(), head.tensors()[::-1], iou=0.45)
    with pytest.raises(EngineError, match="mixed precision"):
        Postprocess(module, head.spec(), [*head.tensors()[:5], *head.tensors("f16")[5:]], iou=0.45)
    with pytest.raises(EngineError, match="mixed precision, or none"):
        Postprocess(module, head.spec(), [], iou=0.45)
    wrong = TensorInfo(name="out0", element="f32", shape=(84, 9))
    with pytest.raises(EngineError, match=r"engine of model made-up has .* 4 classes as yolox, but 3 class names"):
        Postprocess(module, HEADS["yolox"].spec(), [wrong], iou=0.45)


def test_a_launch_with_too_few_outputs_is_refused(driver: HostDriver) -> None:
    head = HEADS["nanodet split"]
    kernels = Postprocess(load_kernels(driver), head.spec(), head.tensors(), iou=0.45)
    stream = driver.stream()
    with pytest.raises(ValueError, match="the model has 6 outputs, not 1"):
        kernels.launch(table=1, outputs=[1], scratch=1, slab=1, batch=1, stream=stream)
    stream.close()
