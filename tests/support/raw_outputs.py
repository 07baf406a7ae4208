"""Raw outputs of made-up models, and what the device's postprocessing makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backends.cuda.driver import Driver
from app.backends.cuda.engine import ElementType, TensorInfo
from app.backends.cuda.kernels import Postprocess, load_kernels
from app.backends.cuda.memory import Blocks
from app.backends.cuda.pictures import PictureTable
from app.backends.cuda.slab import IMAGE_BYTES, read_slab
from app.backends.cuda.surface import DevicePlanes
from app.inference.families.base import STRIDES, cell_count
from app.inference.families.identify import INPUT_FORMATS
from app.inference.families.nanodet import PLUS_STRIDES
from app.inference.found import Found
from app.inference.geometry import Placement
from app.inference.model import ModelSpec
from app.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A model of a family. `split`: NanoDet with two tensors for each stride; `rows`: of an end-to-end model."""

    family: str
    width: int = 64
    height: int = 64
    classes: int = 3
    split: bool = False
    rows: int = 100

    @property
    def cells(self) -> list[int]:
        strides = PLUS_STRIDES if self.family == "nanodet_plus" else STRIDES
        return [cell_count(self.width, self.height, (stride,)) for stride in strides]

    def shapes(self) -> list[tuple[int, int]]:
        """Those of one image's outputs."""
        cells = sum(self.cells)
        match self.family:
            case "yolox":
                return [(cells, 5 + self.classes)]
            case "yolov5":
                return [(3 * cells, 5 + self.classes)]
            case "yolov8":
                return [(4 + self.classes, cells)]
            case "end2end":
                return [(self.rows, 6)]
            case _ if self.split:
                return [(count, width) for width in (self.classes, 32) for count in self.cells]
            case _:
                return [(cells, self.classes + 32)]

    def spec(self, placement: Placement = "centre") -> ModelSpec:
        image = INPUT_FORMATS[self.family]
        return ModelSpec(
            name="made-up",
            path=Path("made-up.onnx"),
            sha256="",
            family=self.family,
            input_width=self.width,
            input_height=self.height,
            colour=image.colour,
            letterbox=placement,
            pad=image.pad,
            mean=image.mean,
            std=image.std,
            classes=tuple(f"class {number}" for number in range(self.classes)),
            licence=None,
            input_name="images",
            output_names=tuple(f"out{number}" for number in range(len(self.shapes()))),
            dynamic_batch=True,
        )

    def tensors(self, element: ElementType = "f32") -> list[TensorInfo]:
        return [
            TensorInfo(name=f"out{number}", element=element, shape=shape) for number, shape in enumerate(self.shapes())
        ]

    def random(self, rng: np.random.Generator, batch: int, *, scores: FloatArray | None = None) -> list[FloatArray]:
        """Outputs with boxes all over the input. Scores are uniform, or drawn from `scores`, so that some are equal."""
        outputs = [rng.random((batch, *shape), dtype=np.float32) for shape in self.shapes()]

        def draw(like: FloatArray) -> FloatArray:
            drawn = rng.random(like.shape) if scores is None else rng.choice(scores, like.shape)
            return drawn.astype(np.float32)

        def boxes(count: int) -> FloatArray:
            centres = rng.random((batch, count, 2)) * [self.width, self.height]
            sizes = rng.uniform(0.05, 0.6, (batch, count, 2)) * [self.width, self.height]
            return np.concatenate((centres, sizes), axis=2).astype(np.float32)

        first = outputs[0]
        match self.family:
            case "yolox":
                first[..., :2] = rng.uniform(-1.0, 2.0, first[..., :2].shape)
                first[..., 2:4] = rng.uniform(-1.0, 1.5, first[..., 2:4].shape)
                first[..., 4:] = draw(first[..., 4:])
            case "yolov5":
                first[..., :4] = boxes(first.shape[1])
                first[..., 4:] = draw(first[..., 4:])
            case "yolov8":
                first[:, :4] = boxes(first.shape[2]).transpose(0, 2, 1)
                first[:, 4:] = draw(first[:, 4:])
            case "end2end":
                middles = boxes(self.rows)
                first[..., :2] = middles[..., :2] - middles[..., 2:] / 2
                first[..., 2:4] = middles[..., :2] + middles[..., 2:] / 2
                first[..., 4] = draw(first[..., 4])
                first[..., 5] = rng.integers(0, self.classes, first[..., 5].shape)
            case _:
                for number, output in enumerate(outputs):
                    columns = 0 if self.split and number >= len(outputs) // 2 else self.classes
                    output[..., :columns] = draw(output[..., :columns])
                    output[..., columns:] = rng.normal(0.0, 2.0, output[..., columns:].shape)
        return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackPicture:
    """A picture of some size, whose samples nobody reads."""

    width: int
    height: int

    @property
    def planes(self) -> DevicePlanes:
        return DevicePlanes(
            y=0,
            u=0,
            v=0,
            y_pitch=self.width,
            chroma_pitch=self.width,
            chroma_step=2,
            chroma_width=1,
            chroma_height=1,
            sample_bytes=1,
            white=255.0,
            full_range=False,
            matrix="bt601",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the device says of a batch: `slab` as it left it, and the same as boxes."""

    slab: bytes
    found: list[Found]
    candidates: list[int]


def postprocess_on(
    driver: Driver,
    head: Head,
    outputs: Sequence[NDArray[Any]],
    sizes: Sequence[tuple[int, int]],
    min_scores: Sequence[float],
    *,
    iou: float = 0.45,
    placement: Placement = "centre",
    launches: int = 1,
) -> Answer:
    """Run the postprocess kernels over outputs of [batch, ...]; images beyond `sizes` are blank rows."""
    element: ElementType = "f16" if outputs[0].dtype == np.float16 else "f32"
    batch = len(outputs[0])
    spec = head.spec(placement)
    stream = driver.stream()
    with Blocks(driver, owner="a test") as blocks:
        table = blocks.pinned(PictureTable.nbytes(batch), "pictures")
        pictures = [BlackPicture(width=width, height=height) for width, height in sizes]
        PictureTable(spec, table.array, batch).write(pictures, min_scores, rows=batch)

        def on_device(array: NDArray[Any]) -> int:
            staged = blocks.pinned(array.nbytes, "tensor")
            staged.array[:] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            address = blocks.device(array.nbytes, "tensor")
            driver.copy_in(address, staged.address, array.nbytes, stream=stream)
            return address

        device_table, tensors = on_device(table.array), [on_device(output) for output in outputs]
        kernels = Postprocess(load_kernels(driver), spec, head.tensors(element), iou=iou)
        scratch = blocks.device(kernels.scratch_bytes(batch), "scratch")
        slab, back = blocks.device(batch * IMAGE_BYTES, "slab"), blocks.pinned(batch * IMAGE_BYTES, "slab")
        for _ in range(launches):
            kernels.launch(table=device_table, outputs=tensors, scratch=scratch, slab=slab, batch=batch, stream=stream)
        driver.copy_out(back.address, slab, batch * IMAGE_BYTES, stream=stream)
        stream.synchronize()
        left = back.array.copy()
    stream.close()
    headers = left.reshape(batch, IMAGE_BYTES)[:, :16].copy().view(np.int32)
    assert not headers[:, 2:].any()  # no masks yet
    return Answer(slab=left.tobytes(), found=read_slab(left, batch), candidates=headers[:, 1].tolist())
