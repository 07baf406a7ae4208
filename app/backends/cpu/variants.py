"""The engines and precisions that can run a model here, one object for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.backends.cpu import openvino_engine
from app.backends.cpu.engine import Context, Engine, load_graphs, mismatch
from app.backends.cpu.openvino_engine import OpenVinoEngine
from app.backends.cpu.tuning import Plan, Variant
from app.errors import ConfigError
from app.inference.model import ModelSpec

ONNXRUNTIME = "onnxruntime"


class Variants:
    """Every way to run a model on this processor that the settings allow. Any thread, one at a time.

    OpenVINO comes first, then its quantised copy of the model, then ONNX Runtime where it is installed: it is faster
    than OpenVINO in FP32 at models of few channels.
    """

    def __init__(
        self, spec: ModelSpec, int8: Path | None = None, *, engine: str | None = None, precision: str | None = None
    ) -> None:
        """`int8` is a quantised copy of the model; `engine` and `precision` leave only those. Blocking.

        Raises `ModelError`, and `ConfigError` where nothing is left.
        """
        self.graphs = load_graphs(spec)
        self._engines: dict[Variant, Engine] = {}
        if engine in (None, openvino_engine.NAME):
            self._add(openvino_engine.NAME, OpenVinoEngine(self.graphs))
            if int8 is not None:
                self._add_int8(int8)
        if engine in (None, ONNXRUNTIME) and _has_onnxruntime(named=engine is not None):
            self._add_onnxruntime()
        if precision is not None and not (precision == "int8" and self.graphs.quantised):
            self._keep(precision)

    @property
    def all(self) -> tuple[Variant, ...]:
        """Likeliest first."""
        return tuple(self._engines)

    def quantised(self, variant: Variant) -> bool:
        return self._engines[variant].graphs.quantised

    def context(self, plan: Plan, sizes: Sequence[int], images: NDArray[np.uint8] | None = None) -> Context:
        """As `Engine.context`."""
        return self._engines[plan.variant].context(plan, sizes, images)

    def mismatch(self, plan: Plan, size: int) -> str | None:
        """As `engine.mismatch`."""
        return mismatch(self._engines[plan.variant], plan, size)

    def _add(self, name: str, engine: Engine) -> None:
        for precision in engine.precisions:
            self._engines[Variant(engine=name, precision=precision)] = engine

    def _add_int8(self, int8: Path) -> None:
        graphs = load_graphs(replace(self.graphs.spec, path=int8))
        self._engines[Variant(engine=openvino_engine.NAME, precision="int8")] = OpenVinoEngine(graphs)

    def _add_onnxruntime(self) -> None:
        from app.backends.cpu.onnxruntime_engine import OnnxRuntimeEngine

        self._add(ONNXRUNTIME, OnnxRuntimeEngine(self.graphs))

    def _keep(self, precision: str) -> None:
        """Only the variants of this precision."""
        known = tuple(dict.fromkeys(variant.precision for variant in self._engines))
        if precision not in known:
            if precision == "int8":
                raise ConfigError(_no_int8(self.graphs.spec))
            raise ConfigError(f"backend.precision: {precision} is not one of {', '.join(known)} on this CPU")
        self._engines = {variant: engine for variant, engine in self._engines.items() if variant.precision == precision}


def _no_int8(spec: ModelSpec) -> str:
    return (
        f"backend.precision: int8 needs a quantised copy of model {spec.name}, and OpenVINO to run it; "
        f"vidette build {spec.name} --precision int8 --calibrate DIR makes one"
    )


def _has_onnxruntime(*, named: bool) -> bool:
    if find_spec("onnxruntime") is not None:
        return True
    if named:
        raise ConfigError("backend.engine: onnxruntime is not installed; pip install 'vidette[cpu]'")
    return False
