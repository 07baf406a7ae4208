"""A `tensorrt` module whose answers are scripted: what 8.6, 10, 11 and TensorRT-RTX have, by the names they have it.

Names and parameters are those of the wheels 8.6.1, 10.16.1.11, 11.4.0.106 and tensorrt_rtx 1.7.1.116.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Version = Literal["8.6", "10", "11", "rtx"]
VERSIONS: tuple[Version, ...] = ("8.6", "10", "11", "rtx")


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class TensorFormat(Enum):
    LINEAR = 0
    CHW32 = 5


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class Logger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self.initialised = True  # a subclass that forgets this crashes in the real library

    def log(self, severity: Logger.Severity, msg: str) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FakeTensor:
    """An input or output as the plan has it; -1 for an axis that is open."""

    name: str
    mode: TensorIOMode
    shape: tuple[int, ...]
    dtype: DataType = DataType.FLOAT
    location: TensorLocation = TensorLocation.DEVICE
    format: TensorFormat = TensorFormat.LINEAR


@dataclass(kw_only=True)
class Script:
    """What a plan holds, and how the library behaves with it."""

    tensors: Sequence[FakeTensor]
    batches: tuple[int, int, int] = (1, 8, 16)  # of the profile
    memory_bytes: int = 1000
    refuse: str | None = None  # the call that says no, with `reason` in the log
    reason: str = "a reason"
    first_context_only: bool = False  # the profile is given to one context: an engine of 8.6 that does not share it
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # what a context says instead of the right ones


class FakeTensorRt:
    """The module. `plans` maps what is deserialised to what it is; `contexts` are those made so far."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    TensorFormat = TensorFormat
    ILogger = Logger

    def __init__(self, version: Version, script: Script, *, plan: bytes = b"plan") -> None:
        self.version = version
        self.plans = {plan: script}
        self.contexts: list[FakeContext] = []
        self.no_runtime = False
        if version != "8.6":
            self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        if version == "rtx":
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def Runtime(self, logger: Logger) -> FakeRuntime:
        assert logger.initialised
        if self.no_runtime:
            logger.log(Logger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self, logger)


class FakeRuntime:
    def __init__(self, trt: FakeTensorRt, logger: Logger) -> None:
        self._trt = trt
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        script = self._trt.plans.get(serialized_engine)
        if script is None or script.refuse == "deserialize_cuda_engine":
            self._logger.log(Logger.Severity.ERROR, "Serialization assertion\nfailed: magic tag does not match")
            return None
        kind = FakeEngineOf86 if self._trt.version == "8.6" else FakeEngine
        return kind(self._trt, script, self._logger)


class _Engine:
    """What every version has."""

    def __init__(self, trt: FakeTensorRt, script: Script, logger: Logger) -> None:
        self.trt = trt
        self.script = script
        self.logger = logger
        self.tensors = {tensor.name: tensor for tensor in script.tensors}

    @property
    def num_io_tensors(self) -> int:
        return len(self.script.tensors)

    def get_tensor_name(self, index: int) -> str:
        return self.script.tensors[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name].mode

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.tensors[name].location

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self.tensors[name].format

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [(batch, *self.tensors[name].shape[1:]) for batch in self.script.batches]

    def refused(self, call: str) -> bool:
        if self.script.refuse == call:
            self.logger.log(Logger.Severity.ERROR, self.script.reason)
            return True
        return False

    def made(self, context: FakeContext) -> Any:
        if self.refused("create_execution_context"):
            return None
        self.trt.contexts.append(context)
        return context


class FakeEngineOf86(_Engine):
    @property
    def device_memory_size(self) -> int:
        return self.script.memory_bytes

    def create_execution_context_without_device_memory(self) -> Any:
        return self.made(FakeContextOf86(self))


class FakeEngine(_Engine):
    @property
    def device_memory_size_v2(self) -> int:
        return self.script.memory_bytes

    def create_runtime_config(self) -> FakeRuntimeConfig:
        assert self.trt.version == "rtx"
        return FakeRuntimeConfig()

    def create_execution_context(self, strategy: Any) -> Any:
        """10 and 11 take a strategy, RTX a strategy or a configuration."""
        if isinstance(strategy, FakeRuntimeConfig):
            assert strategy.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            chosen = strategy.dynamic_shapes_kernel_specialization_strategy
            assert chosen is DynamicShapesKernelSpecializationStrategy.EAGER
        else:
            assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return self.made(FakeContextSince10(self))


class FakeRuntimeConfig:
    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy


class FakeContext:
    """Knows where its memory and its tensors are, and counts what was queued."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        first = not engine.trt.contexts
        self.active_optimization_profile = 0 if first else -1
        self.memory: tuple[int, int | None] | None = None
        self.addresses: dict[str, int] = {}
        self.batch: int | None = None
        self.streams: list[int] = []

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle, "the default stream"
        if self._engine.script.first_context_only:
            self._engine.logger.log(Logger.Severity.ERROR, "profile 0 is in use by another context")
            raise RuntimeError("Error in set optimization profile async.")
        self.active_optimization_profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.active_optimization_profile == 0, "no profile was chosen"
        low, _, high = self._engine.script.batches
        fits = low <= shape[0] <= high and tuple(shape[1:]) == self._engine.tensors[name].shape[1:]
        if not fits or self._engine.refused("set_input_shape"):
            return False
        self.batch = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine.script.shapes:
            return self._engine.script.shapes[name]
        assert self.batch is not None
        return (self.batch, *self._engine.tensors[name].shape[1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine.tensors or self._engine.refused("set_tensor_address"):
            return False
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory is not None, "the context has no memory"
        assert set(self.addresses) == set(self._engine.tensors), "a tensor has no address"
        if self._engine.refused("execute_async_v3"):
            return False
        self.streams.append(stream_handle)
        return True


class FakeContextOf86(FakeContext):
    @property
    def device_memory(self) -> int:
        raise AttributeError("unreadable attribute")

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self.memory = (memory, None)


class FakeContextSince10(FakeContext):
    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)
