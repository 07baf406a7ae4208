"""The stages of the pipeline: NVTX ranges for Nsight Systems, and where `vidette profile` takes its times.

Costs next to nothing when nobody listens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

Stage: TypeAlias = Literal["decode", "preprocess", "infer", "postprocess", "publish"]
Range: TypeAlias = AbstractContextManager[None]
STAGES: tuple[Stage, ...] = get_args(Stage)
DOMAIN = "vidette"


class _Range:
    """One stage's range. Holds nothing of one use, so that any number of threads can be inside."""

    __slots__ = ("_attributes", "_domain")

    def __init__(self, domain: Any, name: str) -> None:
        self._domain = domain
        self._attributes = domain.get_event_attributes(message=name)

    def __enter__(self) -> None:
        self._domain.push_range(self._attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._domain.pop_range()


def _load() -> Any:
    return importlib.import_module("nvtx")


def open_ranges(load: Callable[[], Any] = _load) -> Mapping[Stage, Range]:
    """A range for each stage; all silent when the `nvtx` package is missing or no profiler listens to this process."""
    silent = nullcontext()
    try:
        nvtx = load()
    except ImportError:
        return dict.fromkeys(STAGES, silent)
    domain = nvtx.get_domain(DOMAIN)
    # Without a profiler the package itself hands out a domain that makes no attributes.
    if domain.get_event_attributes(message=DOMAIN) is None:
        return dict.fromkeys(STAGES, silent)
    return {stage: _Range(domain, stage) for stage in STAGES}


# A profiler is there when a process starts or never, so this is decided once.
_ranges = open_ranges()


def stage(name: Stage) -> Range:
    """The range of a stage: `with nvtx.stage("infer"):`. Any thread, nested and at once; make it anew every time.

    A thread's ranges nest like brackets, so never `await` inside one: other tasks would close it.
    """
    return _ranges[name]


@contextmanager
def watched(watch: Callable[[Stage, Range], Range]) -> Iterator[None]:
    """Have `watch(stage, range)` in the place of each stage's range while the context is open, in all threads.

    What takes the place must enter and leave the range that it is given. A stage that a thread was inside of when this
    began, or ended, is left as it was entered.
    """
    global _ranges
    before = _ranges
    _ranges = {name: watch(name, inner) for name, inner in before.items()}
    try:
        yield
    finally:
        _ranges = before
