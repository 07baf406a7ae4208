"""TensorRT 8.6, 10 and 11, and TensorRT-RTX, as an `Engine`. What differs between them is in `_new_context` alone.

Names and signatures were read from the wheels of 8.6.1, 10.16.1.11, 11.4.0.106 and tensorrt_rtx 1.7.1.116.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from app.backends.cuda.driver import Driver, Stream
from app.backends.cuda.engine import ElementType, TensorInfo
from app.backends.cuda.faults import device_error
from app.backends.cuda.tensorrt_log import forget_errors, tensorrt_logger, told_errors
from app.errors import EngineError
from app.inference.model import ModelSpec

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    import tensorrt
    from nvidia_modules import TensorRt

ALIGNMENT = 256  # of a context's memory; cudaMalloc aligns to it, so a whole block and what follows multiples of it
_PROFILE = 0  # the only one that we build
_WIDEST_ELEMENT = 8


class TensorRtSession:
    """Implements `Session`. Shapes, addresses and memory are fixed, so that it can be captured."""

    def __init__(self, context: tensorrt.IExecutionContext, name: str, batch: int) -> None:
        self._context = context
        self._name = name
        self._batch = batch

    def enqueue(self, *, stream: Stream) -> None:
        if not stream.handle:
            raise EngineError(f"{self._name} cannot be run on the default stream")
        forget_errors()
        if self._context.execute_async_v3(stream.handle) is not True:
            raise _failure(f"queueing a batch of {self._batch} of {self._name}")

    def close(self) -> None:
        self._context = None  # destroyed with its last reference


class TensorRtEngine:
    """Implements `Engine`. Loading is blocking; `session` may be called from any thread, one at a time.

    `scratch` of a session holds TensorRT's own memory and, behind it, outputs that the model's family does not read.
    """

    def __init__(self, plan: bytes, spec: ModelSpec, *, driver: Driver, trt: TensorRt) -> None:
        """Load a serialised engine; `trt` is the module of the library that built it. Inside `driver.bound()`.

        Raises `EngineError` when TensorRT refuses the plan, or its tensors are not the model's.
        """
        self._trt = trt
        self._name = f"the engine of model {spec.name}"
        self._runtime = _runtime(trt)
        forget_errors()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise _failure(f"loading {self._name}")
        self.input = self._read_input(spec)
        self.max_batch = self._read_max_batch()
        self.outputs = self._read_outputs(spec.output_names)
        self._unread = self._read_unread({self.input.name, *spec.output_names})
        self._own_bytes = _aligned(_context_bytes(self._engine))
        self._setup = driver.stream()

    @property
    def scratch_bytes(self) -> int:
        # Never 0: a context without memory of its own still wants an address.
        return max(ALIGNMENT, self._own_bytes) + sum(nbytes for _, nbytes in self._unread)

    def session(self, batch: int, *, addresses: Mapping[str, int], scratch: int) -> TensorRtSession:
        if not 1 <= batch <= self.max_batch:
            raise EngineError(f"{self._name} takes batches of 1 to {self.max_batch}, not {batch}")
        doing = f"making a context of {self._name} for batches of {batch}"
        forget_errors()
        context = _new_context(self._trt, self._engine)
        if context is None:
            raise _failure(doing)
        _give_memory(context, scratch, max(ALIGNMENT, self._own_bytes))
        if context.active_optimization_profile != _PROFILE:
            self._choose_profile(context, doing)
        shape = (batch, *self.input.shape)
        if not context.set_input_shape(self.input.name, shape):
            raise _failure(doing)
        for name, address in self._places(addresses, scratch):
            if not context.set_tensor_address(name, address):
                raise _failure(doing)
        for output in self.outputs:
            if (found := tuple(context.get_tensor_shape(output.name))) != (batch, *output.shape):
                raise EngineError(
                    f"{self._name} gives {output.name} the shape {list(found)} for a batch of {batch}, "
                    f"not {[batch, *output.shape]}: a shape may depend on nothing but the batch"
                )
        return TensorRtSession(context, self._name, batch)

    def close(self) -> None:
        """Idempotent. After the sessions: TensorRT wants its contexts gone first."""
        engine, self._engine, self._runtime = self._engine, None, None
        if engine is not None:
            self._setup.close()

    def _choose_profile(self, context: tensorrt.IExecutionContext, doing: str) -> None:
        """Only the first context of an engine is given a profile.

        TensorRT 8.6 refuses a second one the same profile unless the engine was built to share it.
        """
        try:
            context.set_optimization_profile_async(_PROFILE, self._setup.handle)
        except RuntimeError as exc:  # what the bindings make of a refusal; their other calls return False
            raise _failure(doing) from exc
        self._setup.synchronize()

    def _places(self, addresses: Mapping[str, int], scratch: int) -> Iterable[tuple[str, int]]:
        yield from addresses.items()
        place = scratch + max(ALIGNMENT, self._own_bytes)
        for name, nbytes in self._unread:
            yield name, place
            place += nbytes

    def _names(self, mode: tensorrt.TensorIOMode) -> list[str]:
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        return [name for name in names if self._engine.get_tensor_mode(name) == mode]

    def _read_input(self, spec: ModelSpec) -> TensorInfo:
        names = self._names(self._trt.TensorIOMode.INPUT)
        if len(names) != 1:
            raise EngineError(f"{self._name} has {len(names)} inputs ({', '.join(names)}), not one")
        info = self._tensor(names[0])
        if info.shape != (3, spec.input_height, spec.input_width):
            raise EngineError(
                f"{self._name} takes images of shape {list(info.shape)}, "
                f"not {[3, spec.input_height, spec.input_width]} as the model"
            )
        return info

    def _read_outputs(self, names: Iterable[str]) -> tuple[TensorInfo, ...]:
        known = self._names(self._trt.TensorIOMode.OUTPUT)
        if missing := [name for name in names if name not in known]:
            raise EngineError(f"{self._name} lacks the output {missing[0]}; it has {', '.join(known)}")
        return tuple(self._tensor(name) for name in names)

    def _read_unread(self, read: set[str]) -> list[tuple[str, int]]:
        """Outputs that nobody reads, with the bytes that the largest batch of each needs."""
        unread = []
        for name in self._names(self._trt.TensorIOMode.OUTPUT):
            if name not in read:
                count = self.max_batch
                for length in self._image_shape(name):
                    count *= length
                unread.append((name, _aligned(count * _WIDEST_ELEMENT)))
        return unread

    def _read_max_batch(self) -> int:
        """From the profile: batches from 1 to this many. A fixed batch must be 1."""
        low = high = self._engine.get_tensor_shape(self.input.name)[0]
        if low < 0:
            smallest, _, largest = self._engine.get_tensor_profile_shape(self.input.name, _PROFILE)
            low, high = smallest[0], largest[0]
        if low != 1:
            raise EngineError(f"{self._name} takes batches of {low} to {high}, but a single frame must fit too")
        return int(high)

    def _tensor(self, name: str) -> TensorInfo:
        engine, trt = self._engine, self._trt
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(f"{self._name} wants {name} in host memory, where no kernel reads it")
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise EngineError(f"{self._name} wants {name} in the layout {engine.get_tensor_format(name)}, not linear")
        dtype = engine.get_tensor_dtype(name)
        elements: dict[tensorrt.DataType, ElementType] = {trt.DataType.FLOAT: "f32", trt.DataType.HALF: "f16"}
        if dtype not in elements:
            raise EngineError(f"{self._name} has {name} of type {dtype}; only f32 and f16 are supported")
        return TensorInfo(name=name, element=elements[dtype], shape=self._image_shape(name))

    def _image_shape(self, name: str) -> tuple[int, ...]:
        """The shape of one image's part, which must be known beforehand."""
        shape = tuple(int(length) for length in self._engine.get_tensor_shape(name))
        if len(shape) < 2 or any(length < 1 for length in shape[1:]):
            raise EngineError(
                f"{self._name} has {name} of shape {list(shape)}: it depends on more than the batch, "
                "so no memory can be set aside for it"
            )
        return shape[1:]


def _runtime(trt: TensorRt) -> tensorrt.Runtime:
    forget_errors()
    try:
        return trt.Runtime(tensorrt_logger(trt))
    except TypeError as exc:  # "factory function returned nullptr"
        raise _failure("starting TensorRT") from exc


def _new_context(trt: TensorRt, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
    """A context whose memory is ours to give; None when there is none. Where the versions differ."""
    if not hasattr(trt, "ExecutionContextAllocationStrategy"):  # 8.6
        return engine.create_execution_context_without_device_memory()
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):  # 10, 11
        return engine.create_execution_context(strategy)
    # RTX compiles kernels for a shape when it first sees it. Lazily, a graph would capture the slow ones for good.
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def _give_memory(context: tensorrt.IExecutionContext, address: int, nbytes: int) -> None:
    if hasattr(context, "set_device_memory"):  # 10 and later
        context.set_device_memory(address, nbytes)
    else:
        context.device_memory = address


def _failure(doing: str) -> EngineError:
    """What to raise after TensorRT said no: its reason is in the log only."""
    return device_error(doing, told_errors() or "TensorRT gave no reason")


def _context_bytes(engine: tensorrt.ICudaEngine) -> int:
    """Device memory that a context works in. 8.6 has the old name alone, 11 the new one."""
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
