"""A batch's way through one context on the CPU."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from app.backends.cpu.runner import BatchRunner, parts
from app.types import FloatArray


class EmptyContext:
    """Implements `Context`; nothing is ever found."""

    sizes: tuple[int, ...] = (1,)
    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)

    def infer(self, start: int, size: int) -> list[FloatArray]:
        return [np.zeros((size, 1), dtype=np.float32)]


def test_a_closed_runner_lets_go_of_its_context_at_once_whoever_still_holds_the_runner() -> None:
    context = EmptyContext()
    gone = weakref.ref(context)
    nothing: Any = None
    runner = BatchRunner(context, nothing, nothing, 0.45)
    del context
    assert gone() is not None
    runner.close()
    assert gone() is None


def test_a_batch_is_cut_into_parts_of_the_sizes_that_there_are() -> None:
    assert list(parts(7, (4, 2, 1))) == [slice(0, 4), slice(4, 6), slice(6, 7)]
