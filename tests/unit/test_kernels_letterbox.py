"""The letterbox kernel, compiled for the host, against bilinear scaling and colour maths in numpy's float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.backends.cpu.preprocess import Preprocessor
from app.backends.cuda.engine import ElementType
from app.backends.ffmpeg.surface import HostSurface
from app.inference.colour import ColorMatrix
from app.inference.families.base import Colour
from app.inference.model import ModelSpec
from tests.support.device_pictures import LAYOUTS, Layout, Samples, letterboxed, random_samples
from tests.support.host_driver import HostDriver

SPEC = ModelSpec(
    name="m",
    path=Path("m.onnx"),
    sha256="",
    family="yolox",
    input_width=64,
    input_height=48,
    colour="rgb",
    letterbox="centre",
    pad=114,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    classes=("person",),
    licence=None,
    input_name="images",
    output_names=("output",),
    dynamic_batch=True,
)
# Levels of 0..255. Measured over these tests: 1.02e-4 at most in f32.
TOLERANCE: dict[ElementType, float] = {"f32": 2e-4, "f16": 0.0627}  # half of f16's step below 256, and a little
# Weights of red and blue: ITU-R BT.601, BT.709, BT.2020.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    driver = HostDriver()
    with driver.bound():
        yield driver
    driver.close()


def expected(spec: ModelSpec, samples: Samples) -> NDArray[np.float64]:
    """f64[3, height, width]: what the model should see of a picture."""
    height, width = samples.y.shape
    scale = min(spec.input_width / width, spec.input_height / height)
    box_width, box_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = 0, 0
    if spec.letterbox == "centre":
        left, top = (spec.input_width - box_width) // 2, (spec.input_height - box_height) // 2
    y, u, v = (scaled(plane, box_width, box_height) for plane in (samples.y, samples.u, samples.v))
    red, blue = LUMA[samples.matrix]
    if samples.full_range:
        luma, cb, cr = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    content = np.clip(np.stack((r, g, b) if spec.colour == "rgb" else (b, g, r)) * 255, 0, 255)
    image = np.full((3, spec.input_height, spec.input_width), float(spec.pad))
    image[:, top : top + box_height, left : left + box_width] = content
    normalised: NDArray[np.float64] = (image - np.reshape(spec.mean, (3, 1, 1))) / np.reshape(spec.std, (3, 1, 1))
    return normalised


def scaled(plane: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Bilinear, half-pixel centres, the border repeated: one axis after the other."""
    result: NDArray[np.float64] = _along(_along(plane.astype(np.float64), height).T, width).T
    return result


def _along(lines: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    at = np.clip((np.arange(size) + 0.5) * len(lines) / size - 0.5, 0, len(lines) - 1)
    first = np.floor(at).astype(int)
    second = np.minimum(first + 1, len(lines) - 1)
    weight = (at - first)[:, None]
    result: NDArray[np.float64] = lines[first] * (1 - weight) + lines[second] * weight
    return result


def worst(got: NDArray[Any], spec: ModelSpec, samples: Samples) -> float:
    """The largest difference from what is expected, in levels."""
    differences = np.abs(got.astype(np.float64) - expected(spec, samples)) * np.reshape(spec.std, (3, 1, 1))
    return float(differences.max())


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_every_layout_and_colour_space_becomes_rgb(
    driver: HostDriver, element: ElementType, layout: Layout, matrix: ColorMatrix, full_range: bool
) -> None:
    samples = random_samples(np.random.default_rng(0), 101, 67, full_range=full_range, matrix=matrix)
    (got,) = letterboxed(driver, SPEC, [(samples, layout, 5)], element=element)
    assert worst(got, SPEC, samples) < TOLERANCE[element]


@pytest.mark.parametrize("halve", [(True, True), (True, False), (False, True), (False, False)])
def test_chroma_of_any_subsampling_is_scaled_by_itself(driver: HostDriver, halve: tuple[bool, bool]) -> None:
    samples = random_samples(np.random.default_rng(1), 97, 55, halve=halve)
    for layout in LAYOUTS:
        (got,) = letterboxed(driver, SPEC, [(samples, layout, 0)])
        assert worst(got, SPEC, samples) < TOLERANCE["f32"]


@settings(max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    slack=st.integers(0, 9),
    input_size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    layout=st.sampled_from(LAYOUTS),
    halve=st.tuples(st.booleans(), st.booleans()),
    colour=st.sampled_from(["bgr", "rgb"]),
    placement=st.sampled_from(["centre", "top_left"]),
    element=st.sampled_from(["f32", "f16"]),
    seed=st.integers(0, 1000),
)
def test_any_size_and_pitch_fits_any_input(
    width: int,
    height: int,
    slack: int,
    input_size: tuple[int, int],
    layout: Layout,
    halve: tuple[bool, bool],
    colour: Colour,
    placement: Any,
    element: ElementType,
    seed: int,
) -> None:
    spec = replace(
        SPEC, input_width=input_size[0], input_height=input_size[1], colour=colour, letterbox=placement, pad=seed % 256
    )
    samples = random_samples(np.random.default_rng(seed), width, height, halve=halve)
    driver = HostDriver()
    with driver.bound():
        (got,) = letterboxed(driver, spec, [(samples, layout, slack)], element=element)
    driver.close()
    assert worst(got, spec, samples) < TOLERANCE[element]


@pytest.mark.parametrize(("source_width", "input_width"), [(8191, 640), (8191, 4093), (16381, 7624), (1023, 8191)])
def test_a_wide_source_is_scaled_without_drift(driver: HostDriver, source_width: int, input_width: int) -> None:
    """Where a float of 24 bits no longer tells every position from the next."""
    spec = replace(SPEC, input_width=input_width, input_height=9)
    samples = random_samples(np.random.default_rng(2), source_width, 3)
    (got,) = letterboxed(driver, spec, [(samples, "nv12", 1)])
    assert worst(got, spec, samples) < TOLERANCE["f32"]


@pytest.mark.parametrize("element", ["f32", "f16"])
def test_pixels_and_padding_are_normalised_per_channel(driver: HostDriver, element: ElementType) -> None:
    spec = replace(SPEC, colour="bgr", pad=7, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))
    samples = random_samples(np.random.default_rng(3), 40, 200)
    (got,) = letterboxed(driver, spec, [(samples, "nv12", 0)], element=element)
    assert worst(got, spec, samples) < TOLERANCE[element]
    wanted = (7 - np.array(spec.mean)) / np.array(spec.std)
    assert got[:, 0, 0].tolist() == pytest.approx(wanted, rel=1e-3 if element == "f16" else 1e-6)


def test_a_batch_of_mixed_pictures_is_one_launch(driver: HostDriver) -> None:
    rng = np.random.default_rng(4)
    batch = [
        (random_samples(rng, 64, 48), LAYOUTS[0], 0),
        (random_samples(rng, 1, 1), LAYOUTS[1], 3),
        (random_samples(rng, 33, 150, halve=(True, False), matrix="bt709"), LAYOUTS[2], 1),
        (random_samples(rng, 151, 31, full_range=True), LAYOUTS[3], 0),
    ]
    got = letterboxed(driver, SPEC, batch)
    assert driver.launches == {"letterbox_f32": 1}
    for image, (samples, _, _) in zip(got, batch, strict=True):
        assert worst(image, SPEC, samples) < TOLERANCE["f32"]


def test_blank_rows_are_left_as_they_were(driver: HostDriver) -> None:
    samples = random_samples(np.random.default_rng(5), 64, 48)
    got = letterboxed(driver, SPEC, [(samples, "nv12", 0)], rows=4)
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()  # as fresh memory of the host driver is


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p"])
@pytest.mark.parametrize("size", [(640, 360), (101, 67)])
def test_the_cpu_backend_sees_the_same_picture(driver: HostDriver, pixels: str, size: tuple[int, int]) -> None:
    """Within the rounding of the CPU's bytes: half a level of each plane, then half a level of the colour."""
    width, height = size
    image = np.random.default_rng(6).integers(0, 256, (height, width, 3), dtype=np.uint8)
    colour_range = ColorRange.JPEG if pixels.startswith("yuvj") else ColorRange.MPEG
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
        format=pixels, dst_colorspace=Colorspace.ITU709, dst_color_range=colour_range
    )
    frame.colorspace, frame.color_range = Colorspace.ITU709, colour_range
    surface = HostSurface(frame)
    planes = surface.planes()
    assert planes is not None
    samples = Samples(y=planes.y, u=planes.u, v=planes.v, full_range=planes.full_range, matrix=planes.matrix)
    (got,) = letterboxed(driver, SPEC, [(samples, "planar", 0)])
    cpu = Preprocessor(SPEC, 1)
    cpu.write([surface])
    differences = np.abs(got - cpu.images[0].transpose(2, 0, 1))
    assert differences.max() < 3.2 and differences.mean() < 0.6
