"""INT8 as TensorRT wants it: explicit Q/DQ pairs in the ONNX, their scales measured on calibration images."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, version_converter

from app.backends.cpu.preprocess import Preprocessor
from app.backends.cuda.fp16 import constants_as_weights, is_layer
from app.backends.ffmpeg.surface import HostSurface
from app.errors import AppError, ModelError
from app.inference.model import ModelSpec

MIN_IMAGES = 8
MAX_IMAGES = 512  # more change no scale any more and cost minutes
# Opset 19 is the first whose Q and DQ may be FP16, as the rest of the engine is. TensorRT 8.6 reads none above 17 and
# needs no FP16 in the file; 13 is the first with a scale per channel.
OPSET = 19
OPSET_OF_TENSORRT_8 = 13
# What is not worth eight bits: a layer of few channels has little to save and, coming early, the most to spoil. On 27
# photos yolox_nano fell from AP 0.348 to 0.027 with all but its last layers quantised, to 0.327 with these left alone.
_MIN_CHANNELS = 32
_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_NAMED = 3  # unreadable images that a sentence names

log = logging.getLogger(__name__)


class QuantiserMissing(AppError):
    """The package that quantises is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Images that stand for what the cameras will see."""

    images: tuple[Path, ...]  # each can be read
    unreadable: tuple[Path, ...]
    sha256: str  # over the files' bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of it, as sentences."""
        calibrated = f"INT8 scales come from {len(self.images)} images"
        return (calibrated, *([_unreadable(self.unreadable)] if self.unreadable else []))


def is_quantised(model: ModelProto) -> bool:
    """Whether a model brings its own Q/DQ pairs."""
    return any(node.op_type in _QUANTISED for node in model.graph.node)


def calibration_set(folder: Path) -> CalibrationSet:
    """The .jpg and .png files of a folder, evenly thinned to `MAX_IMAGES`. Blocking. Raises `ModelError`."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    except OSError as exc:
        raise ModelError(f"calibration folder {folder} cannot be read: {exc.strerror}") from exc
    if not found:
        raise ModelError(f"calibration folder {folder} holds no .jpg or .png images")
    step = max(1, -(-len(found) // MAX_IMAGES))
    digest = hashlib.sha256()
    images, unreadable = [], []
    for path in found[::step]:
        content = _bytes(path)
        if content is None or _decoded(content) is None:
            unreadable.append(path)
            continue
        images.append(path)
        digest.update(hashlib.sha256(content).digest())
    if len(images) < MIN_IMAGES:
        reason = f"; {_unreadable(unreadable)}" if unreadable else ""
        raise ModelError(
            f"calibration folder {folder} has {len(images)} images that can be read, "
            f"at least {MIN_IMAGES} are needed{reason}"
        )
    return CalibrationSet(images=tuple(images), unreadable=tuple(unreadable), sha256=digest.hexdigest())


def quantise(
    spec: ModelSpec,
    model: ModelProto,
    calibration: CalibrationSet,
    *,
    opset: int = OPSET,
    on_progress: Callable[[str], None],
) -> ModelProto:
    """The model with Q/DQ pairs around its convolutions. Blocking, seconds to minutes; the model stays as it is.

    Symmetric INT8, one scale a channel for weights and one a tensor for activations, from the least and largest value
    that the images give. Depthwise layers, those of fewer than 32 channels and the last ones stay as they are. Raises
    `QuantiserMissing`, `ModelError`.
    """
    quantisation = _quantiser()
    prepared = _prepared(spec, model, opset)
    with tempfile.TemporaryDirectory(prefix="vidette-int8-") as folder:
        target = Path(folder) / "quantised.onnx"
        try:
            quantisation.quantize_static(
                prepared,
                target,
                _Reader(spec, calibration.images, on_progress),
                quant_format=quantisation.QuantFormat.QDQ,
                activation_type=quantisation.QuantType.QInt8,
                weight_type=quantisation.QuantType.QInt8,
                calibrate_method=quantisation.CalibrationMethod.MinMax,
                per_channel=True,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[node.name for node in _left_alone(prepared)],
                extra_options={
                    "ActivationSymmetric": True,  # TensorRT has no zero points
                    "WeightSymmetric": True,
                    "QuantizeBias": False,  # and adds biases in full precision
                    "AddQDQPairToWeight": True,  # weights stay floats in the file, so that FP16 can still take them
                },
            )
        except (RuntimeError, ValueError, TypeError) as exc:  # onnxruntime's own errors are RuntimeErrors
            raise ModelError(f"model {spec.name} cannot be quantised: {' '.join(str(exc).split())[-300:]}") from exc
        quantised = onnx.load(target)
    if not is_quantised(quantised):
        raise ModelError(f"model {spec.name} has no layer that is worth INT8; build it as fp16")
    return quantised


class _Reader:
    """Gives the quantiser one preprocessed image after the other, and None at the end."""

    def __init__(self, spec: ModelSpec, images: Sequence[Path], on_progress: Callable[[str], None]) -> None:
        self._spec = spec
        self._total = len(images)
        self._images = iter(enumerate(images, start=1))
        self._preprocessor = Preprocessor(spec, 1)
        self._on_progress = on_progress

    def __iter__(self) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        return iter(self.get_next, None)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        number, path = next(self._images, (0, None))
        if path is None:
            return None
        self._on_progress(f"calibrating INT8: image {number} of {self._total}")
        picture = _decoded(_bytes(path) or b"")
        if picture is None:
            raise ModelError(f"calibration image {path} vanished while it was in use")
        self._preprocessor.write([HostSurface.from_bgr(picture)])
        return {self._spec.input_name: model_input(self._spec, self._preprocessor.images)}


def model_input(spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a model takes for letterboxed images u8[n, height, width, 3] in its colour order: f32[n, 3, h, w]."""
    mean, std = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


def _quantiser() -> Any:
    try:
        import onnxruntime
        from onnxruntime import quantization
    except ImportError as exc:
        raise QuantiserMissing(f"INT8 needs the package onnxruntime ({exc}); pip install 'vidette[int8]'") from exc
    onnxruntime.set_default_logger_severity(3)  # errors; its warnings are about weights that it takes out itself
    return quantization


def _prepared(spec: ModelSpec, model: ModelProto, opset: int) -> ModelProto:
    """A copy that the quantiser can take: new enough an opset, every node with a name of its own."""
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    prepared = ModelProto()
    try:
        prepared.CopyFrom(version_converter.convert_version(model, opset) if version < opset else model)
    except RuntimeError as exc:
        reason = " ".join(str(exc).split())[-200:]
        raise ModelError(f"model {spec.name} is of opset {version} and cannot be brought to {opset}: {reason}") from exc
    constants_as_weights(prepared)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"{node.name or node.op_type}#{number}"
    # What onnxruntime's own preparation would note; without it, it warns of a step that none of these models needs.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return prepared


def _left_alone(model: ModelProto) -> Iterator[NodeProto]:
    """The convolutions that stay in floats."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    feeds_a_layer: set[str] = set()
    for node in reversed(model.graph.node):
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        last = feeds_a_layer.isdisjoint(node.output)
        if not last or is_layer(node, weights):
            feeds_a_layer.update(node.input)
        if node.op_type != "Conv":
            continue
        if last or weight is None or _group(node) > 1 or _channels(node, weight) < _MIN_CHANNELS:
            yield node


def _group(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _channels(node: NodeProto, weight: TensorProto) -> int:
    return int(weight.dims[1]) * _group(node)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _decoded(content: bytes) -> NDArray[np.uint8] | None:
    if not content:
        return None
    picture: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    return picture


def _unreadable(paths: Sequence[Path]) -> str:
    more = len(paths) - _NAMED
    named = ", ".join(path.name for path in paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{len(paths)} could not be read: {named}"
