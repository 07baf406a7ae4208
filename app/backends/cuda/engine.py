"""An inference engine on a device: what the contexts ask of one. `tensorrt_engine.py` answers with TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from app.backends.cuda.driver import Stream

ElementType: TypeAlias = Literal["f32", "f16"]
ELEMENT_BYTES: Mapping[ElementType, int] = {"f32": 4, "f16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of an engine. `shape` is that of one image, without the batch axis."""

    name: str
    element: ElementType
    shape: tuple[int, ...]

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's part of the tensor."""
        count = 1
        for length in self.shape:
            count *= length
        return count * ELEMENT_BYTES[self.element]


class Session(Protocol):
    """An engine's execution context for one batch size, its addresses fixed. Belongs to one thread."""

    def enqueue(self, *, stream: Stream) -> None:
        """Queue one inference. Raises `EngineError`."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A loaded engine."""

    @property
    def input(self) -> TensorInfo: ...

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """In the order that the family's decoder reads them."""
        ...

    @property
    def max_batch(self) -> int: ...

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a session works in. Sessions that never run at once may share it."""
        ...

    def session(self, batch: int, *, addresses: Mapping[str, int], scratch: int) -> Session:
        """A session for batches of `batch` images over these tensors (name: address). Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Free the engine, after its sessions."""
        ...
