"""Pictures in a driver's memory, in the layouts that decoders give."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.backends.cuda.driver import Copy2D, DeviceMemory, Driver, Stream
from app.backends.cuda.engine import ElementType
from app.backends.cuda.kernels import Letterbox, load_kernels
from app.backends.cuda.memory import Blocks
from app.backends.cuda.pictures import PictureTable
from app.backends.cuda.surface import DevicePlanes
from app.inference.colour import ColorMatrix
from app.inference.model import ModelSpec

Layout: TypeAlias = Literal["nv12", "p016", "planar", "planar10"]
LAYOUTS: tuple[Layout, ...] = ("nv12", "p016", "planar", "planar10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A picture's samples, 8 bits each whatever they are stored in: u8[height, width]."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    full_range: bool = False
    matrix: ColorMatrix = "bt601"


class UploadedPicture:
    """Samples in device memory. Implements `DevicePicture`; close it once."""

    def __init__(
        self, driver: Driver, samples: Samples, layout: Layout = "nv12", *, slack: int = 0, stream: Stream
    ) -> None:
        """`slack` samples of garbage follow every row, and no row follows the last."""
        self.height, self.width = samples.y.shape
        self._memory: list[DeviceMemory] = []
        chroma_height, chroma_width = samples.u.shape
        y, y_pitch = self._upload(driver, stored(samples.y, layout), slack, stream)
        if layout in ("nv12", "p016"):
            pairs = np.stack((samples.u, samples.v), axis=2).reshape(chroma_height, 2 * chroma_width)
            u, chroma_pitch = self._upload(driver, stored(pairs, layout), slack, stream)
            v, step = u + sample_bytes(layout), 2
        else:
            u, chroma_pitch = self._upload(driver, stored(samples.u, layout), slack, stream)
            v, _ = self._upload(driver, stored(samples.v, layout), slack, stream)
            step = 1
        self.planes = DevicePlanes(
            y=y,
            u=u,
            v=v,
            y_pitch=y_pitch,
            chroma_pitch=chroma_pitch,
            chroma_step=step,
            chroma_width=chroma_width,
            chroma_height=chroma_height,
            sample_bytes=sample_bytes(layout),
            white={"nv12": 255.0, "planar": 255.0, "p016": 255.0 * 256, "planar10": 255.0 * 4}[layout],
            full_range=samples.full_range,
            matrix=samples.matrix,
        )

    def _upload(self, driver: Driver, rows: NDArray[Any], slack: int, stream: Stream) -> tuple[int, int]:
        """The address and the pitch of a plane whose last row ends with its last sample."""
        height, width = rows.shape
        item = rows.itemsize
        pitch = (width + slack) * item
        memory = driver.allocate(pitch * (height - 1) + width * item)
        self._memory.append(memory)
        copy = Copy2D(
            target=memory.address,
            target_pitch=pitch,
            source=rows.ctypes.data,
            source_pitch=width * item,
            width_bytes=width * item,
            height=height,
        )
        driver.copy_2d_in(copy, stream=stream)
        stream.synchronize()
        return memory.address, pitch

    def close(self) -> None:
        for memory in self._memory:
            memory.close()


def sample_bytes(layout: Layout) -> int:
    return 2 if layout in ("p016", "planar10") else 1


def stored(plane: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    """8-bit samples as a layout holds them: P016 in the upper bits, ten planar bits in the lower ones."""
    factor = {"nv12": 1, "planar": 1, "p016": 256, "planar10": 4}[layout]
    wide = plane.astype(np.uint16) * factor if factor > 1 else plane
    return np.ascontiguousarray(wide)


def random_samples(
    rng: np.random.Generator,
    width: int,
    height: int,
    *,
    halve: tuple[bool, bool] = (True, True),
    full_range: bool = False,
    matrix: ColorMatrix = "bt601",
) -> Samples:
    """Noise, the hardest picture to scale. `halve` says which axes of the chroma are subsampled."""
    chroma = (-(-height // (1 + halve[1])), -(-width // (1 + halve[0])))
    planes = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((height, width), chroma, chroma)]
    return Samples(y=planes[0], u=planes[1], v=planes[2], full_range=full_range, matrix=matrix)


def letterboxed(
    driver: Driver,
    spec: ModelSpec,
    pictures: Sequence[tuple[Samples, Layout, int]],
    *,
    element: ElementType = "f32",
    rows: int | None = None,
) -> NDArray[Any]:
    """[rows, 3, height, width] as the kernel leaves it, for pictures of (samples, layout, slack)."""
    rows = rows or len(pictures)
    shape = (rows, 3, spec.input_height, spec.input_width)
    dtype = np.dtype({"f32": np.float32, "f16": np.float16}[element])
    nbytes, table_bytes = int(np.prod(shape)) * dtype.itemsize, PictureTable.nbytes(rows)
    stream = driver.stream()
    with ExitStack() as stack:
        blocks = stack.enter_context(Blocks(driver, owner="a test"))
        uploaded = []
        for samples, layout, slack in pictures:
            uploaded.append(UploadedPicture(driver, samples, layout, slack=slack, stream=stream))
            stack.callback(uploaded[-1].close)
        host, table = blocks.pinned(table_bytes, "pictures"), blocks.device(table_bytes, "pictures")
        PictureTable(spec, host.array, rows).write(uploaded, [0.25] * len(uploaded), rows=rows)
        driver.copy_in(table, host.address, table_bytes, stream=stream)
        target, back = blocks.device(nbytes, "input"), blocks.pinned(nbytes, "input")
        letterbox = Letterbox(load_kernels(driver), spec, element)
        letterbox.launch(table=table, target=target, batch=rows, stream=stream)
        driver.copy_out(back.address, target, nbytes, stream=stream)
        stream.synchronize()
        result: NDArray[Any] = back.array.view(dtype).reshape(shape).copy()
    stream.close()
    return result
