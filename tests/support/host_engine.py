"""An engine for `HostDriver`: OpenVINO reads and writes tensors where TensorRT would have them in device memory."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.backends.cpu.engine import off_main_thread
from app.backends.cuda.driver import Stream
from app.backends.cuda.engine import TensorInfo
from app.errors import EngineError
from app.inference.model import ModelSpec
from app.inference.onnx_batch import make_batchable
from app.inference.onnx_file import load_onnx
from tests.support.host_driver import HostDriver

_PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


class HostSession:
    """Implements `Session`: one infer request over fixed memory. `fail` makes the next enqueues fail."""

    def __init__(self, request: ov.InferRequest, engine: HostEngine) -> None:
        self._request: ov.InferRequest | None = request
        self._engine = engine

    def enqueue(self, *, stream: Stream) -> None:
        if self._engine.refusals:
            self._engine.refusals -= 1
            raise EngineError("the engine was told to refuse a batch")
        assert self._request is not None, "a closed session was used"
        self._engine.driver.submit(self._infer, stream=stream)

    def close(self) -> None:
        assert self._request is not None, "a session was closed twice"
        self._engine.open_sessions -= 1
        off_main_thread(self._forget)

    def _infer(self) -> None:
        assert self._request is not None, "a graph ran after its session was closed"
        self._request.infer()

    def _forget(self) -> None:
        self._request = None


class HostEngine:
    """Implements `Engine` for an ONNX model, in f32. `refusals` says how many enqueues are to fail."""

    def __init__(self, spec: ModelSpec, driver: HostDriver, *, max_batch: int = 16, scratch_bytes: int = 4096) -> None:
        batchable = make_batchable(load_onnx(spec.path))
        self.driver = driver
        self.max_batch = 1 if batchable.reason else max_batch
        self.scratch_bytes = scratch_bytes
        self.refusals = 0
        self.open_sessions = 0
        self.closed = False
        self._spec = spec
        self._core = ov.Core()
        self._model = self._core.read_model(io.BytesIO(batchable.model.SerializeToString()))
        self._compiled: dict[int, ov.CompiledModel] = {}
        self._numbers = [_number(self._model, name) for name in spec.output_names]
        shape = (3, spec.input_height, spec.input_width)
        self.input = TensorInfo(name=spec.input_name, element="f32", shape=shape)
        single = off_main_thread(lambda: self._compile(1))
        self.outputs = tuple(
            TensorInfo(name=name, element="f32", shape=tuple(single.outputs[number].shape)[1:])
            for name, number in zip(spec.output_names, self._numbers, strict=True)
        )

    def session(self, batch: int, *, addresses: Mapping[str, int], scratch: int) -> HostSession:
        assert not self.closed, "a closed engine was used"
        assert set(addresses) == {self.input.name, *self._spec.output_names} and scratch
        request = off_main_thread(lambda: self._compile(batch).create_infer_request())
        shape = (batch, *self.input.shape)
        request.set_input_tensor(ov.Tensor(_floats(addresses[self.input.name], shape), shared_memory=True))
        for output, number in zip(self.outputs, self._numbers, strict=True):
            memory = _floats(addresses[output.name], (batch, *output.shape))
            request.set_output_tensor(number, ov.Tensor(memory, shared_memory=True))
        self.open_sessions += 1
        return HostSession(request, self)

    def close(self) -> None:
        assert not self.open_sessions, f"an engine was closed before {self.open_sessions} of its sessions"
        assert not self.closed, "an engine was closed twice"
        self.closed = True
        off_main_thread(self._compiled.clear)

    def _compile(self, batch: int) -> ov.CompiledModel:
        if batch not in self._compiled:
            model = self._model.clone()
            spec = self._spec
            model.reshape({model.inputs[0]: ov.PartialShape([batch, 3, spec.input_height, spec.input_width])})
            self._compiled[batch] = self._core.compile_model(model, "CPU", _PROPERTIES)
        return self._compiled[batch]


def _number(model: ov.Model, name: str) -> int:
    return next(number for number, output in enumerate(model.outputs) if name in output.get_names())


def _floats(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The memory at an address as f32 of a shape; the caller sees to it that it stays."""
    memory = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    floats: NDArray[np.float32] = np.ctypeslib.as_array(memory).reshape(shape)
    return floats
