"""Explicit Q/DQ pairs around a model's convolutions, with scales measured on calibration images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, version_converter

from app.backends.cuda.fp16 import constants_as_weights, is_layer
from app.errors import AppError, ModelError
from app.inference.model import ModelSpec

_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear"})


class QuantiserMissing(AppError):
    """The package that quantises is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is quantised, and how. Weights always get one symmetric scale a channel, activations one a tensor."""

    name: str
    opset: int
    min_channels: int  # layers of fewer stay in floats, as depthwise layers and the last ones always do
    symmetric: bool  # activations without a zero point, as TensorRT wants them
    outputs: bool  # a layer's output gets a pair as well as its input
    float_weights: bool  # weights stay floats in the file, behind a pair


def is_quantised(model: ModelProto) -> bool:
    """Whether a model brings its own Q/DQ pairs."""
    return any(node.op_type in _QUANTISED for node in model.graph.node)


def quantise(spec: ModelSpec, model: ModelProto, inputs: Iterable[NDArray[np.float32]], recipe: Recipe) -> ModelProto:
    """The model with Q/DQ pairs; the given one stays as it is. Blocking, seconds to minutes.

    `inputs` are what the model takes, f32[1, 3, h, w] each; scales span the least and largest value that they give.
    Raises `QuantiserMissing`, `ModelError`.
    """
    quantisation = _quantiser()
    prepared = _prepared(spec, model, recipe.opset)
    options: dict[str, Any] = {
        "ActivationSymmetric": recipe.symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": recipe.float_weights,
    }
    if not recipe.outputs:
        options["OpTypesToExcludeOutputQuantization"] = ["Conv"]
    activations = quantisation.QuantType.QInt8 if recipe.symmetric else quantisation.QuantType.QUInt8
    with tempfile.TemporaryDirectory(prefix="vidette-int8-") as folder:
        target = Path(folder) / "quantised.onnx"
        try:
            quantisation.quantize_static(
                prepared,
                target,
                _Reader(spec.input_name, inputs),
                quant_format=quantisation.QuantFormat.QDQ,
                activation_type=activations,
                weight_type=quantisation.QuantType.QInt8,
                calibrate_method=quantisation.CalibrationMethod.MinMax,
                per_channel=True,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[node.name for node in _left_alone(prepared, recipe.min_channels)],
                extra_options=options,
            )
        except (RuntimeError, ValueError, TypeError) as exc:  # onnxruntime's own errors are RuntimeErrors
            raise ModelError(f"model {spec.name} cannot be quantised: {' '.join(str(exc).split())[-300:]}") from exc
        quantised = onnx.load(target)
    if not is_quantised(quantised):
        raise ModelError(f"model {spec.name} has no layer that is worth INT8")
    return quantised


def model_input(spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a model takes for letterboxed images u8[n, height, width, 3] in its colour order: f32[n, 3, h, w]."""
    mean, std = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


class _Reader:
    """Gives the quantiser one input after the other, and None at the end."""

    def __init__(self, name: str, inputs: Iterable[NDArray[np.float32]]) -> None:
        self._name = name
        self._inputs = iter(inputs)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        return iter(self.get_next, None)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._inputs, None)
        return None if image is None else {self._name: image}


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


def _left_alone(model: ModelProto, min_channels: int) -> Iterator[NodeProto]:
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
        if last or weight is None or _group(node) > 1 or _channels(node, weight) < min_channels:
            yield node


def _group(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _channels(node: NodeProto, weight: TensorProto) -> int:
    return int(weight.dims[1]) * _group(node)
