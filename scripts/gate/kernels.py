"""The project's own kernels alone, against the speed at which the device copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.backends.cuda.detector import RandomPicture
from app.backends.cuda.driver import Copy2D, Driver, Module, Stream
from app.backends.cuda.engine import TensorInfo
from app.backends.cuda.kernels import Letterbox, Postprocess, load_kernels
from app.backends.cuda.memory import Blocks
from app.backends.cuda.pictures import PictureTable
from app.backends.cuda.pycuda_driver import PycudaDriver
from app.backends.cuda.slab import IMAGE_BYTES
from app.inference.model import ModelSpec, resolve_model
from app.inference.onnx_file import describe, load_onnx
from scripts.gate.plan import GatePlan
from scripts.gate.timing import seconds_per_run

_WIDTH, _HEIGHT = 1920, 1080
_BATCHES = (1, 4, 8, 16)
_COPY_BYTES = 256 << 20
_DURATION_S = 0.5
_MIN_SCORE = 0.25
# Of random scores between 0 and 1 this share of the candidates reaches the score, as in a busy street.
_BUSY = 0.01


def measure(plan: GatePlan) -> dict[str, Any]:
    """Letterbox of 1080p NV12 and postprocess of random outputs, f32, by batch."""
    spec = resolve_model(plan.model, Path(plan.models_dir))
    driver = PycudaDriver()
    with ExitStack() as stack:
        stack.callback(driver.close)
        stack.enter_context(driver.bound())
        blocks = stack.enter_context(Blocks(driver, owner="the gate"))
        stream = driver.stream()
        stack.callback(stream.close)
        bench = _Bench(stack, driver, blocks, stream, load_kernels(driver), plan.seconds(_DURATION_S))
        ceiling = _copy_gb_per_s(bench)
        kernels = [*_letterbox(bench, spec, ceiling), *_postprocess(bench, spec)]
        return {"copy_gb_per_s": ceiling, "picture": f"NV12 {_WIDTH}x{_HEIGHT}", "kernels": kernels}


@dataclass(frozen=True, slots=True)
class _Bench:
    stack: ExitStack  # frees what is made along the way
    driver: Driver
    blocks: Blocks
    stream: Stream
    module: Module
    duration_s: float


def _copy_gb_per_s(bench: _Bench) -> float:
    source, target = (bench.blocks.device(_COPY_BYTES, "copy") for _ in range(2))
    row = 1 << 16
    copy = Copy2D(
        target=target,
        target_pitch=row,
        source=source,
        source_pitch=row,
        width_bytes=row,
        height=_COPY_BYTES // row,
    )
    took_s = seconds_per_run(
        lambda: bench.driver.copy_2d(copy, stream=bench.stream), stream=bench.stream, duration_s=bench.duration_s
    )
    return 2 * _COPY_BYTES / took_s / 1e9  # read and written


def _table(bench: _Bench, spec: ModelSpec, batch: int) -> int:
    """A picture table of `batch` pictures of their own on the device."""
    pictures = [
        bench.stack.enter_context(RandomPicture(bench.driver, width=_WIDTH, height=_HEIGHT)) for _ in range(batch)
    ]
    nbytes = PictureTable.nbytes(batch)
    pinned = bench.blocks.pinned(nbytes, "picture table")
    PictureTable(spec, pinned.array, batch).write(pictures, [_MIN_SCORE] * batch, rows=batch)
    table = bench.blocks.device(nbytes, "picture table")
    bench.driver.copy_in(table, pinned.address, nbytes, stream=bench.stream)
    bench.stream.synchronize()
    return table


def _letterbox(bench: _Bench, spec: ModelSpec, ceiling: float) -> Iterator[dict[str, Any]]:
    kernel = Letterbox(bench.module, spec, "f32")
    pixels = spec.input_width * spec.input_height
    for batch in _BATCHES:
        table = _table(bench, spec, batch)
        target = bench.blocks.device(12 * pixels * batch, "input tensor")
        took_s = seconds_per_run(
            lambda table=table, target=target, batch=batch: kernel.launch(  # type: ignore[misc]
                table=table, target=target, batch=batch, stream=bench.stream
            ),
            stream=bench.stream,
            duration_s=bench.duration_s,
        )
        rate = batch * (_WIDTH * _HEIGHT * 1.5 + 12 * pixels) / took_s / 1e9
        yield {
            "name": "letterbox",
            "batch": batch,
            "ms": 1e3 * took_s,
            "gb_per_s": rate,
            "of_copy": rate / ceiling,
        }


def _postprocess(bench: _Bench, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    outputs = [
        TensorInfo(name=output.name, element="f32", shape=tuple(length or 0 for length in output.shape[1:]))
        for name in spec.output_names
        for output in describe(load_onnx(spec.path)).outputs
        if output.name == name
    ]
    kernel = Postprocess(bench.module, spec, outputs, iou=0.45)
    random = np.random.default_rng(0)
    for batch in _BATCHES:
        addresses = []
        for output in outputs:
            nbytes = output.image_bytes * batch
            pinned = bench.blocks.pinned(nbytes, output.name)
            values = random.random(nbytes // 4, dtype=np.float32)
            pinned.array[:] = np.where(values < _BUSY, values / _BUSY, values * 0.2).astype(np.float32).view(np.uint8)
            addresses.append(bench.blocks.device(nbytes, output.name))
            bench.driver.copy_in(addresses[-1], pinned.address, nbytes, stream=bench.stream)
        table = _table(bench, spec, batch)
        scratch = bench.blocks.device(kernel.scratch_bytes(batch), "candidate boxes")
        slab = bench.blocks.device(IMAGE_BYTES * batch, "results")
        took_s = seconds_per_run(
            lambda table=table, scratch=scratch, slab=slab, batch=batch, addresses=addresses: kernel.launch(  # type: ignore[misc]
                table=table, outputs=addresses, scratch=scratch, slab=slab, batch=batch, stream=bench.stream
            ),
            stream=bench.stream,
            duration_s=bench.duration_s,
        )
        yield {"name": f"postprocess {spec.family}", "batch": batch, "ms": 1e3 * took_s}
