"""Telling a model's family from its outputs, and what each family needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import ModelError
from app.inference.families.base import STRIDES, Decoder, InputFormat, cell_count
from app.inference.families.nanodet import BINS, PLUS_STRIDES, NanoDet
from app.inference.families.yolo import EndToEnd, YoloV5, YoloV8, Yolox

SUPPORTED = (
    "YOLOX [N, cells, 5+classes], YOLOv5 [N, 3*cells, 5+classes], YOLOv8/v9/11 [N, 4+classes, anchors], "
    "NanoDet (3 class and 3 distance tensors, or [N, cells, classes+32]) and end-to-end YOLOv10/26 [N, n, 6]"
)
_BGR_AS_IS = InputFormat(colour="bgr", letterbox="top_left", pad=114, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_RGB_UNIT = InputFormat(colour="rgb", letterbox="centre", pad=114, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
_NANODET = InputFormat(
    colour="bgr", letterbox="centre", pad=0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)
)
INPUT_FORMATS: Mapping[str, InputFormat] = {
    "yolox": _BGR_AS_IS,
    "yolov5": _RGB_UNIT,
    "yolov8": _RGB_UNIT,
    "nanodet": _NANODET,
    "nanodet_plus": _NANODET,
    "end2end": _RGB_UNIT,
}
FAMILIES = tuple(INPUT_FORMATS)
_DECODERS: Mapping[str, Callable[[int, int], Decoder]] = {
    "yolox": Yolox,
    "yolov5": lambda _width, _height: YoloV5(),
    "yolov8": lambda _width, _height: YoloV8(),
    "nanodet": NanoDet,
    "nanodet_plus": lambda width, height: NanoDet(width, height, plus=True),
    "end2end": lambda _width, _height: EndToEnd(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    """An output as the file declares it; None for an axis of unknown length."""

    name: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.name} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a file tells about its family."""

    input_width: int
    input_height: int
    outputs: tuple[OutputTensor, ...]
    end_to_end: bool | None = None  # what the file's metadata says, None when it says nothing
    class_count: int | None = None  # as named by model.toml or metadata
    family: str | None = None  # as named by model.toml

    def __str__(self) -> str:
        return f"outputs {', '.join(map(str, self.outputs))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A family, the outputs that it reads in the order it reads them, and the classes that they have room for."""

    family: str
    output_names: tuple[str, ...]
    class_count: int | None = field(default=None)  # None: the shape does not tell (end-to-end)


def decoder_for(family: str, input_width: int, input_height: int) -> Decoder:
    """The decoder of a family for one input size."""
    return _DECODERS[family](input_width, input_height)


def identify(evidence: Evidence) -> Match:
    """The family whose shapes the outputs have.

    A family that is named wins over one that is guessed, but the shapes must fit it too. Raises `ModelError` with
    what was seen and what is supported.
    """
    matches = list(_matches(evidence))
    named = [m for m in matches if m.family == evidence.family] if evidence.family else matches
    fitting = [m for m in named if evidence.class_count in (None, m.class_count) or m.class_count is None]
    if fitting:
        return fitting[0]
    if named:
        raise ModelError(
            f"has {evidence}, that is {named[0].class_count} classes as {named[0].family}, "
            f"but {evidence.class_count} class names"
        )
    wanted = f", which does not fit family {evidence.family}" if evidence.family and matches else ""
    raise ModelError(f"has {evidence}{wanted}; supported are {SUPPORTED}")


def _matches(evidence: Evidence) -> list[Match]:
    """Every family that the shapes allow, likeliest first."""
    # YOLOv5 exports carry their three raw heads as 5-D outputs beside the decoded one.
    flat = [output for output in evidence.outputs if len(output.shape) != 5]
    if len(flat) == 1 and len(flat[0].shape) == 3:
        return _single(evidence, flat[0])
    split = _split_nanodet(evidence, flat)
    return [split] if split else []


def _single(evidence: Evidence, output: OutputTensor) -> list[Match]:
    _, rows, columns = output.shape
    cells = cell_count(evidence.input_width, evidence.input_height)
    plus_cells = cell_count(evidence.input_width, evidence.input_height, PLUS_STRIDES)

    def match(family: str, class_count: int | None) -> Match:
        return Match(family=family, output_names=(output.name,), class_count=class_count)

    found = []
    if columns is not None:
        if columns == 6 and evidence.end_to_end is not False:
            found.append(match("end2end", None))
        if columns > 5 and rows == cells and not evidence.end_to_end:
            # With one class, [N, cells, 6] is YOLOX too, and no end-to-end model has as many rows as cells.
            found.insert(0, match("yolox", columns - 5))
            found.append(match("yolov5", columns - 5))  # boxes decoded in the graph: only a name can tell
        if columns > 5 and rows in (3 * cells, 3 * plus_cells) and not evidence.end_to_end:
            found.insert(0, match("yolov5", columns - 5))
        if columns > 4 * BINS and rows in (cells, plus_cells):
            family = "nanodet" if rows == cells else "nanodet_plus"
            likely = columns == 80 + 4 * BINS or rows == plus_cells
            found.insert(0 if likely else len(found), match(family, columns - 4 * BINS))
    if rows is not None and rows > 4 and (columns is None or columns > rows) and not evidence.end_to_end:
        found.append(match("yolov8", rows - 4))
    return found


def _split_nanodet(evidence: Evidence, outputs: Sequence[OutputTensor]) -> Match | None:
    """NanoDet with one pair of tensors per stride, in whatever order the file lists them."""
    if len(outputs) not in (6, 8) or any(len(output.shape) != 3 for output in outputs):
        return None
    half = len(outputs) // 2
    cells = [cell_count(evidence.input_width, evidence.input_height, (stride,)) for stride in PLUS_STRIDES[:half]]
    sides = [output for output in outputs if output.shape[2] == 4 * BINS]
    if len(sides) != half:  # 32 classes look like 32 side logits: then the file's order decides, classes come first
        sides = list(outputs[half:])
    scores = [output for output in outputs if output not in sides]
    class_counts = {output.shape[2] for output in scores}
    by_cells = [{output.shape[1]: output.name for output in kind} for kind in (scores, sides)]
    if len(class_counts) != 1 or any(set(names) != set(cells) for names in by_cells):
        return None
    if any(output.shape[2] != 4 * BINS for output in sides):
        return None
    return Match(
        family="nanodet" if half == len(STRIDES) else "nanodet_plus",
        output_names=tuple(names[count] for names in by_cells for count in cells),
        class_count=class_counts.pop(),
    )
