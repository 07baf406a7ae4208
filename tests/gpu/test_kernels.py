"""Every kernel gives on the GPU what the same source gives on the host, which CI compares with numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from app.backends.cuda.driver import Driver
from app.backends.cuda.engine import ElementType
from app.inference.colour import ColorMatrix
from tests.support.device_pictures import LAYOUTS, Layout, letterboxed, random_samples
from tests.support.host_driver import HostDriver
from tests.support.raw_outputs import Head, postprocess_on

pytestmark = pytest.mark.gpu

FAMILIES = ("yolox", "yolov5", "yolov8", "nanodet", "nanodet_plus", "end2end")
SIZES = [(1280, 720), (64, 64), (333, 512), (7, 3), (1920, 1080)]


@pytest.fixture
def host() -> Iterator[HostDriver]:
    driver = HostDriver()
    with driver.bound():
        yield driver
    driver.close()


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_a_batch_of_mixed_sizes_is_letterboxed_as_on_the_host(
    driver: Driver, host: HostDriver, layout: Layout, element: ElementType, matrix: ColorMatrix
) -> None:
    rng = np.random.default_rng(3)
    spec = replace(Head(family="yolov8", width=320, height=192).spec(), std=(1.0, 1.0, 1.0))
    pictures = [
        (random_samples(rng, width, height, matrix=matrix, full_range=number % 2 == 0), layout, number % 3)
        for number, (width, height) in enumerate(SIZES)
    ]
    on_gpu = letterboxed(driver, spec, pictures, element=element).astype(np.float32)
    on_host = letterboxed(host, spec, pictures, element=element).astype(np.float32)
    # Levels of 0..255. The device fuses multiplications and additions; f16 rounds to an eighth above 128.
    assert np.abs(on_gpu - on_host).max() <= (1e-3 if element == "f32" else 0.13)


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("min_score", [0.9, 0.25, 0.0])
def test_boxes_are_decoded_and_suppressed_as_on_the_host(
    driver: Driver, host: HostDriver, family: str, element: ElementType, min_score: float
) -> None:
    head = Head(family=family, width=320, height=320, classes=20)
    dtype = np.float32 if element == "f32" else np.float16
    outputs = [output.astype(dtype) for output in head.random(np.random.default_rng(4), batch=8)]
    scores = [min_score] * len(SIZES)
    on_gpu = postprocess_on(driver, head, outputs, SIZES, scores)
    on_host = postprocess_on(host, head, outputs, SIZES, scores)
    assert on_gpu.candidates == on_host.candidates
    for ours, theirs in zip(on_gpu.found, on_host.found, strict=True):
        # exp() may differ in its last bit, and then whether two boxes overlap just enough: a box more or less.
        assert abs(len(ours.scores) - len(theirs.scores)) <= 1
        if len(ours.scores) == len(theirs.scores):
            assert np.allclose(ours.scores, theirs.scores, atol=1e-6)
            assert np.allclose(ours.boxes, theirs.boxes, atol=0.05)


def test_the_same_batch_gives_the_same_bytes_every_time(driver: Driver) -> None:
    head = Head(family="yolov8", width=320, height=320, classes=20)
    outputs = head.random(np.random.default_rng(5), batch=8)
    answers = {postprocess_on(driver, head, outputs, SIZES, [0.1] * len(SIZES)).slab for _ in range(20)}
    assert len(answers) == 1
