"""How an engine is tried before it is published: on the device, or by what it was built from, against OpenVINO."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from app.backends.cpu.preprocess import Preprocessor
from app.backends.cuda.build import Candidate, Check
from app.backends.cuda.builder import load_runtime
from app.backends.cuda.driver import Driver, PinnedMemory
from app.backends.cuda.engine import ELEMENT_BYTES, Engine, TensorInfo
from app.backends.cuda.memory import Blocks
from app.backends.cuda.selfcheck import (
    CALIBRATION_FRAMES,
    DRAWN_FRAMES,
    EXACT,
    QUANTISED,
    Infer,
    drawn_frames,
    hold_against,
)
from app.backends.ffmpeg.surface import HostSurface
from app.backends.int8.quantise import model_input
from app.errors import ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_file import load_onnx
from app.types import FloatArray

# Opens the engine of a candidate on the device.
OpenEngine: TypeAlias = Callable[[Candidate], Engine]


def checker(driver: Driver | None) -> Check:
    """The `check` of `find_or_build`. With a driver it must be called inside `driver.bound()`."""

    def open_engine(candidate: Candidate) -> Engine:
        from app.backends.cuda.tensorrt_engine import TensorRtEngine

        assert driver is not None
        trt = load_runtime(candidate.identity.runtime)
        return TensorRtEngine(candidate.plan, candidate.spec, driver=driver, trt=trt)

    return partial(check_candidate, driver=driver, open_engine=open_engine)


def check_candidate(candidate: Candidate, *, driver: Driver | None, open_engine: OpenEngine) -> str:
    """Hold a new engine against OpenVINO running the ONNX file in FP32. Blocking, seconds.

    With a `driver`, inside its `bound()`, the engine itself runs. Without one, OpenVINO runs what the engine was built
    from, which finds a conversion or a quantisation that went wrong, and the sentence says so. Raises `ModelError`.
    """
    if find_spec("openvino") is None:
        return "was not held against the ONNX file: OpenVINO is not installed; pip install 'vidette[cpu]'"
    spec = candidate.spec
    images, rule = _images(candidate), (QUANTISED if candidate.identity.precision == "int8" else EXACT)
    with ExitStack() as stack:
        if driver is None:
            tried, prefix = openvino_infer(spec, candidate.model), "was not run for want of a GPU; its model "
        else:
            engine = open_engine(candidate)
            stack.callback(engine.close)
            tried, prefix = stack.enter_context(device_infer(engine, driver, spec)), ""
        return prefix + hold_against(openvino_infer(spec, load_onnx(spec.path)), tried, spec, images, rule)


def openvino_infer(spec: ModelSpec, model: ModelProto) -> Infer:
    """A model on the CPU, in FP32, one image after the other."""

    def infer(images: NDArray[np.uint8]) -> list[FloatArray]:
        from app.backends.cpu.engine import off_main_thread

        return off_main_thread(lambda: _openvino(spec, model, images))

    return infer


@contextmanager
def device_infer(engine: Engine, driver: Driver, spec: ModelSpec) -> Iterator[Infer]:
    """An engine on the device, in batches as large as it takes. Inside `driver.bound()`, for one thread.

    Larger batches than one also show whether an image's outputs depend on its neighbours.
    """
    with ExitStack() as stack:
        blocks = stack.enter_context(Blocks(driver, owner="the engine's self-check"))
        capacity = engine.max_batch
        tensors = (engine.input, *engine.outputs)
        device = {each.name: blocks.device(capacity * each.image_bytes, "tensors") for each in tensors}
        host = {each.name: blocks.pinned(capacity * each.image_bytes, "tensors") for each in tensors}
        session = engine.session(
            capacity, addresses=device, scratch=blocks.device(engine.scratch_bytes, "scratch memory")
        )
        stack.callback(session.close)
        stream = driver.stream()
        stack.callback(stream.close)

        def infer(images: NDArray[np.uint8]) -> list[FloatArray]:
            found: list[list[FloatArray]] = []
            for start in range(0, len(images), capacity):
                part = images[start : start + capacity]
                _view(host, engine.input, capacity)[: len(part)] = model_input(spec, part)
                source = host[engine.input.name]
                driver.copy_in(device[engine.input.name], source.address, source.array.nbytes, stream=stream)
                session.enqueue(stream=stream)
                for output in engine.outputs:
                    target = host[output.name]
                    driver.copy_out(target.address, device[output.name], target.array.nbytes, stream=stream)
                stream.synchronize()
                found.append([_view(host, each, capacity)[: len(part)].astype(np.float32) for each in engine.outputs])
            return [np.concatenate(parts) for parts in zip(*found, strict=True)]

        yield infer


def _openvino(spec: ModelSpec, model: ModelProto, images: NDArray[np.uint8]) -> list[FloatArray]:
    import openvino as ov

    from app.backends.cpu.openvino_engine import AS_WRITTEN

    core = ov.Core()
    graph = core.read_model(io.BytesIO(model.SerializeToString()))
    # Free axes must be set: with a free height and width, OpenVINO 2026.4 gets the outputs of Q/DQ models wrong.
    graph.reshape({graph.inputs[0]: ov.PartialShape([1, 3, spec.input_height, spec.input_width])})
    # In floats: what is tried is the quantisation, not this processor's integer kernels.
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **AS_WRITTEN})
    request = compiled.create_infer_request()
    found: list[list[FloatArray]] = []
    for number in range(len(images)):
        image = model_input(spec, images[number : number + 1])
        results = request.infer({0: image.astype(graph.inputs[0].get_element_type().to_dtype())})
        found.append([np.array(results[name], dtype=np.float32) for name in spec.output_names])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _view(host: Mapping[str, PinnedMemory], tensor: TensorInfo, batch: int) -> NDArray[np.generic]:
    kind = np.dtype(f"f{ELEMENT_BYTES[tensor.element]}")
    return host[tensor.name].array[: batch * tensor.image_bytes].view(kind).reshape(batch, *tensor.shape)


def _images(candidate: Candidate) -> NDArray[np.uint8]:
    spec = candidate.spec
    if not candidate.images:
        return drawn_frames(DRAWN_FRAMES, spec.input_width, spec.input_height)
    step = max(1, len(candidate.images) // CALIBRATION_FRAMES)
    pictures = [_picture(path) for path in candidate.images[::step][:CALIBRATION_FRAMES]]
    preprocessor = Preprocessor(spec, len(pictures))
    preprocessor.write([HostSurface.from_bgr(picture) for picture in pictures])
    return preprocessor.images


def _picture(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ModelError(f"calibration image {path} can no longer be read")
    return np.asarray(picture, dtype=np.uint8)
