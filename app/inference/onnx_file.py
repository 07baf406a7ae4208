"""Reading an ONNX file: what it takes in, what it gives out, what it says about itself."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from app.errors import ModelError
from app.inference.families.identify import OutputTensor

DEFAULT_INPUT_SIZE = 640  # what a model with a free input size is run at when nothing names a size


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """What an ONNX detector declares. Sizes are final: free axes are filled in."""

    input_name: str
    input_width: int
    input_height: int
    dynamic_batch: bool
    outputs: tuple[OutputTensor, ...]
    labels: tuple[str, ...] | None  # the file's own class names
    end_to_end: bool | None  # None: the file does not say
    licence: str | None


def load_onnx(path: Path) -> ModelProto:
    """Parse an ONNX file. Raises `ModelError` when it is missing, unreadable or no ONNX."""
    if path.suffix == ".engine":
        raise ModelError(
            f"model file {path} is a TensorRT engine, which only the cuda backend runs; name its ONNX file"
        )
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as exc:
        raise ModelError(f"model file {path} cannot be read: {exc.strerror}") from exc
    except DecodeError as exc:
        raise ModelError(f"model file {path} is not an ONNX model") from exc
    if not model.graph.node:  # protobuf takes an empty file, and some garbage, for an empty message
        raise ModelError(f"model file {path} is not an ONNX model")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(f"model file {path} keeps its weights in a second file; save it as one file")
    return model


def describe(model: ModelProto, *, width: int | None = None, height: int | None = None) -> OnnxFile:
    """What the model declares, with free input axes set to `width` and `height`, else to what its metadata says.

    Raises `ModelError` without a subject ("has 2 inputs ...") when it is no detector that takes one image.
    """
    tensor = _image_input(model)
    shape = tensor.type.tensor_type.shape.dim
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    if (task := metadata.get("task", "detect")) != "detect":
        raise ModelError(f"is made for the task {task}; supported is detect")
    imgsz = _image_size(metadata.get("imgsz"))
    input_height = _axis("height", shape[2].dim_value, height, imgsz[0])
    input_width = _axis("width", shape[3].dim_value, width, imgsz[1])
    return OnnxFile(
        input_name=tensor.name,
        input_width=input_width,
        input_height=input_height,
        dynamic_batch=shape[0].dim_value <= 0,
        outputs=_outputs(model, tensor.name, (1, 3, input_height, input_width)),
        labels=_labels(metadata.get("names")),
        end_to_end=_end_to_end(metadata),
        licence=metadata.get("license"),
    )


def real_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that a caller feeds; old files list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [tensor for tensor in model.graph.input if tensor.name not in weights]


def _image_input(model: ModelProto) -> ValueInfoProto:
    inputs = real_inputs(model)
    if len(inputs) != 1:
        raise ModelError(f"has {len(inputs)} inputs ({_list(inputs)}); a detector has one, the image")
    tensor = inputs[0].type.tensor_type
    shape = tensor.shape.dim
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(shape) != 4 or shape[1].dim_value != 3:
        raise ModelError(f"has input {_list(inputs)}; supported is float32 or float16 [N, 3, height, width]")
    return inputs[0]


def _axis(name: str, declared: int, wanted: int | None, hinted: int | None) -> int:
    if declared <= 0:
        return wanted or hinted or DEFAULT_INPUT_SIZE
    if wanted not in (None, declared):
        raise ModelError(f"has an input {name} of {declared}, but model.toml says {wanted}")
    return declared


def _outputs(model: ModelProto, input_name: str, shape: tuple[int, ...]) -> tuple[OutputTensor, ...]:
    """The outputs as declared, or inferred for the input shape where they were left free."""
    outputs = _declared(model.graph.output)
    if all(n is not None for output in outputs for n in output.shape[1:]):
        return outputs
    inferred = _declared(_with_input_shape(model, input_name, shape).graph.output)
    return tuple(ours if ours.shape else theirs for ours, theirs in zip(inferred, outputs, strict=True))


def _with_input_shape(model: ModelProto, input_name: str, shape: tuple[int, ...]) -> ModelProto:
    """The same model with its shapes inferred for one input shape."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for tensor in fixed.graph.input:
        if tensor.name == input_name:
            for axis, size in zip(tensor.type.tensor_type.shape.dim, shape, strict=True):
                axis.dim_value = size
    for output in fixed.graph.output:  # what is declared would only be merged with, never sharpened
        output.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(fixed, data_prop=True)
    except shape_inference.InferenceError as exc:
        raise ModelError(f"has a graph whose shapes cannot be followed: {' '.join(str(exc).split())[:200]}") from exc


def _declared(outputs: Iterable[ValueInfoProto]) -> tuple[OutputTensor, ...]:
    return tuple(
        OutputTensor(
            name=output.name,
            shape=tuple(axis.dim_value if axis.dim_value > 0 else None for axis in output.type.tensor_type.shape.dim),
        )
        for output in outputs
    )


def _list(tensors: Iterable[ValueInfoProto]) -> str:
    return ", ".join(
        f"{output} {helper.tensor_dtype_to_string(tensor.type.tensor_type.elem_type).removeprefix('TensorProto.')}"
        for output, tensor in zip(_declared(tensors), tensors, strict=True)
    )


def _image_size(value: str | None) -> tuple[int | None, int | None]:
    """Ultralytics writes `imgsz` as one number or as [height, width]."""
    match _literal(value):
        case int(size):
            return size, size
        case [int(height), int(width)]:
            return height, width
        case _:
            return None, None


def _labels(value: str | None) -> tuple[str, ...] | None:
    """Ultralytics writes `names` as {0: 'person', ...}, others as a list."""
    match _literal(value):
        case dict(names) if sorted(names) == list(range(len(names))):
            return tuple(str(names[number]) for number in range(len(names)))
        case [*names]:
            return tuple(map(str, names))
        case _:
            return None


def _end_to_end(metadata: dict[str, str]) -> bool | None:
    if metadata.get("end2end") == "True" or "'nms': True" in metadata.get("args", ""):
        return True
    return False if "end2end" in metadata else None


def _literal(value: str | None) -> Any:
    try:
        return ast.literal_eval(value) if value else None
    except (ValueError, SyntaxError):
        return None
