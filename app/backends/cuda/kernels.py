"""The project's own kernels: what is in the shipped file, and how it is launched.

A launch is queued and nothing is waited for, so all of it may be captured into a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.backends.cuda.driver import Driver, Module, Stream
from app.backends.cuda.engine import ElementType, TensorInfo
from app.errors import EngineError, ModelError
from app.inference.families.identify import Evidence, OutputTensor, identify
from app.inference.model import ModelSpec

FATBIN = Path(__file__).parent / "kernels" / "vidette.fatbin"
COLLECTED_BYTES = 65544  # `Collected` in kernels/ranking.cuh: an image's list of candidates

_FAMILIES = {"yolox": 0, "yolov5": 1, "yolov8": 2, "nanodet": 3, "nanodet_plus": 4, "end2end": 5}  # families.cuh
_MAX_OUTPUTS = 8
_SIDES = 32  # logits of a NanoDet row
_TILE = (32, 8, 1)  # pixels of a letterbox block
_BEGIN_THREADS = 64
_COLLECT_THREADS = 256
_SCORES_PER_THREAD = 4  # where an item is one score; an item that is a row of scores has a thread of its own
_FINISH_THREADS = 512


def load_kernels(driver: Driver, path: Path = FATBIN) -> Module:
    """Load the shipped kernels. Raises `EngineError` when they are missing or have nothing for this device."""
    try:
        image = path.read_bytes()
    except OSError as exc:
        raise EngineError(f"the kernels {path} cannot be read: {exc.strerror}") from exc
    return driver.load_module(image)


class Letterbox:
    """Pictures of any size into the model's input: scaled, padded, in its colours, normalised."""

    def __init__(self, module: Module, spec: ModelSpec, element: ElementType) -> None:
        self._kernel = module.kernel(f"letterbox_{element}", f"PPii{'f' * 7}")
        self._width, self._height = spec.input_width, spec.input_height
        gains = tuple(1.0 / std for std in spec.std)
        self._arguments = (spec.input_width, spec.input_height, float(spec.pad), *spec.mean, *gains)

    def launch(self, *, table: int, target: int, batch: int, stream: Stream) -> None:
        """Queue the first `batch` pictures of the table into `target`, [batch, 3, height, width]."""
        columns, lines, _ = _TILE
        grid = (-(-self._width // columns), -(-self._height // lines), batch)
        self._kernel.launch(grid, _TILE, (table, target, *self._arguments), stream=stream)


class Postprocess:
    """The model's raw outputs to boxes in source pixels, as `app.inference.families` and `nms` make them."""

    def __init__(self, module: Module, spec: ModelSpec, outputs: Sequence[TensorInfo], *, iou: float) -> None:
        """Raises `EngineError` when the outputs are not those of the model's family."""
        _check(spec, outputs)
        rows, classes = _rows_and_classes(spec.family, outputs)
        suffix = outputs[0].element
        head = f"{'P' * _MAX_OUTPUTS}iiiiii"
        self._begin = module.kernel("begin", "Pi")
        self._collect = module.kernel(f"collect_{suffix}", f"PP{head}")
        self._finish = module.kernel(f"finish_{suffix}", f"PPP{head}f")
        self._outputs = len(outputs)
        self._head = (len(outputs), _FAMILIES[spec.family], rows, classes, spec.input_width, spec.input_height)
        scores = spec.family in ("yolov8", "nanodet", "nanodet_plus")  # a candidate for each score, not for each row
        items = rows * classes if scores else rows
        self._blocks = -(-items // (_COLLECT_THREADS * (_SCORES_PER_THREAD if scores else 1)))
        self._iou = iou

    def scratch_bytes(self, batch: int) -> int:
        """Device memory that a launch works in; its content need not outlive the launch."""
        return batch * COLLECTED_BYTES

    def launch(
        self, *, table: int, outputs: Sequence[int], scratch: int, slab: int, batch: int, stream: Stream
    ) -> None:
        """Queue the first `batch` images: `IMAGE_BYTES` for each into `slab`. `scratch` is 8-byte aligned."""
        if len(outputs) != self._outputs:
            raise ValueError(f"the model has {self._outputs} outputs, not {len(outputs)}")
        head = (*outputs, *[0] * (_MAX_OUTPUTS - len(outputs)), *self._head)
        self._begin.launch((-(-batch // _BEGIN_THREADS), 1, 1), (_BEGIN_THREADS, 1, 1), (scratch, batch), stream=stream)
        self._collect.launch((self._blocks, batch, 1), (_COLLECT_THREADS, 1, 1), (table, scratch, *head), stream=stream)
        finish = (table, scratch, slab, *head, self._iou)
        self._finish.launch((batch, 1, 1), (_FINISH_THREADS, 1, 1), finish, stream=stream)


def _check(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> None:
    """Raises `EngineError` unless the outputs are the family's, in the order that it reads them."""
    if len({output.element for output in outputs}) != 1:
        raise EngineError(f"the engine of model {spec.name} has outputs of mixed precision, or none")
    evidence = Evidence(
        input_width=spec.input_width,
        input_height=spec.input_height,
        outputs=tuple(OutputTensor(name=output.name, shape=(None, *output.shape)) for output in outputs),
        class_count=len(spec.classes),
        family=spec.family,
    )
    try:
        match = identify(evidence)
    except ModelError as exc:
        raise EngineError(f"the engine of model {spec.name} {exc}") from exc
    if match.output_names != tuple(output.name for output in outputs):
        raise EngineError(f"the engine of model {spec.name} has {evidence}, out of order for family {spec.family}")


def _rows_and_classes(family: str, outputs: Sequence[TensorInfo]) -> tuple[int, int]:
    """The rows of one image, over all outputs, and the classes."""
    first, second = outputs[0].shape
    match family:
        case "yolov8":
            return second, first - 4
        case "yolox" | "yolov5":
            return first, second - 5
        case "end2end":
            return first, 0
        case _ if len(outputs) == 1:
            return first, second - _SIDES
        case _:
            return sum(output.shape[0] for output in outputs[: len(outputs) // 2]), second
