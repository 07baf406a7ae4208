"""The stages of the pipeline as NVTX ranges, for Nsight Systems. Costs next to nothing when no profiler listens."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

Stage: TypeAlias = Literal["decode", "preprocess", "infer", "postprocess", "publish"]
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


def open_ranges(load: Callable[[], Any] = _load) -> Mapping[Stage, AbstractContextManager[None]]:
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
_RANGES = open_ranges()


def stage(name: Stage) -> AbstractContextManager[None]:
    """The range of a stage: `with nvtx.stage("infer"):`. Any thread, nested and at once; make it once or every time.

    A thread's ranges nest like brackets, so never `await` inside one: other tasks would close it.
    """
    return _RANGES[name]
