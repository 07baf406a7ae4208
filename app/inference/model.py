"""Which model to run: found by name or path, described by model.toml or by the file itself."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from app.errors import ModelError
from app.inference.families.base import Colour, InputFormat, Rgb
from app.inference.families.identify import FAMILIES, INPUT_FORMATS, Evidence, identify
from app.inference.geometry import Placement
from app.inference.labels import default_labels
from app.inference.onnx_file import describe, load_onnx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

TOML_NAME = "model.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """All that a backend needs to know to run a detector. Pixels become (pixel - mean) / std, in `colour` order."""

    name: str
    path: Path
    sha256: str
    family: str
    input_width: int
    input_height: int
    colour: Colour
    letterbox: Placement
    pad: int  # pixel value of the padding, before mean and std
    mean: Rgb
    std: Rgb
    classes: tuple[str, ...]
    licence: str | None
    input_name: str
    output_names: tuple[str, ...]  # in the order that the family's decoder reads them
    dynamic_batch: bool  # the file takes any batch as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What a model.toml says; None where it leaves the answer to the file and the family's habits."""

    name: str
    file: str
    family: str | None = None
    classes: tuple[str, ...] | None = None
    licence: str | None = None
    width: int | None = None
    height: int | None = None
    colour: Colour | None = None
    letterbox: Placement | None = None
    pad: int | None = None
    mean: Rgb | None = None
    std: Rgb | None = None


_INPUT_KEYS = ("width", "height", "colour", "letterbox", "pad", "mean", "std")
_MODEL_KEYS = tuple(f.name for f in fields(ModelDescription) if f.name not in _INPUT_KEYS)
_CHOICES = {"family": FAMILIES, "colour": ("bgr", "rgb"), "letterbox": ("top_left", "centre")}
_RANGES = {"width": (32, 8192), "height": (32, 8192), "pad": (0, 255)}


def resolve_model(name_or_path: str, models_dir: Path) -> ModelSpec:
    """Find a model and describe it. Blocking, a tenth of a second.

    A path to an .onnx file, to a directory with a model.toml, or a name: the directory or the .onnx file of that name
    below `models_dir`. Raises `ModelError`.
    """
    candidates = (Path(name_or_path), models_dir / name_or_path, models_dir / f"{name_or_path}.onnx")
    for path in candidates:
        if path.is_dir() and (path / TOML_NAME).is_file():
            return read_toml(path / TOML_NAME)
        if path.is_file():
            beside = path.parent / TOML_NAME
            if beside.is_file() and parse_toml(beside).file == path.name:
                return read_toml(beside)
            return read_onnx(path)
    known = sorted(toml.parent.name for toml in models_dir.glob(f"*/{TOML_NAME}"))
    raise ModelError(
        f"model {name_or_path} is neither a file nor one of the models in {models_dir} ({', '.join(known) or 'none'})"
    )


def read_onnx(path: Path) -> ModelSpec:
    """Describe an ONNX file by what it says itself. Raises `ModelError`."""
    return _describe(path, ModelDescription(name=path.stem, file=path.name))


def read_toml(path: Path) -> ModelSpec:
    """Describe the model of a model.toml. Raises `ModelError`."""
    description = parse_toml(path)
    return _describe(path.parent / description.file, description)


def parse_toml(path: Path) -> ModelDescription:
    """Read a model.toml, strictly: an unknown key is a typo. Raises `ModelError` that names the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} is not valid TOML: {exc}") from exc
    image = table.pop("input", {})
    if not isinstance(image, dict):
        raise ModelError(f"{path}: input must be a table")
    for key in table:
        _known(path, key, _MODEL_KEYS)
    for key in image:
        _known(path, f"input.{key}", tuple(f"input.{known}" for known in _INPUT_KEYS))
    if "file" not in table:
        raise ModelError(f"{path}: file must name the ONNX file")
    values = {"name": path.parent.name, **table, **image}
    return ModelDescription(**{key: _checked(path, key, value) for key, value in values.items()})


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises `ModelError`."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as exc:  # it was there a moment ago
        raise ModelError(f"model file {path} cannot be read: {exc.strerror}") from exc


def _describe(path: Path, description: ModelDescription) -> ModelSpec:
    model = load_onnx(path)
    try:
        file = describe(model, width=description.width, height=description.height)
        labels = description.classes or file.labels
        match = identify(
            Evidence(
                input_width=file.input_width,
                input_height=file.input_height,
                outputs=file.outputs,
                end_to_end=file.end_to_end,
                class_count=len(labels) if labels else None,
                family=description.family,
            )
        )
    except ModelError as exc:
        raise ModelError(f"model {description.name} {exc}") from exc
    image = _input_format(INPUT_FORMATS[match.family], description)
    return ModelSpec(
        name=description.name,
        path=path,
        sha256=sha256_of(path),
        family=match.family,
        input_width=file.input_width,
        input_height=file.input_height,
        colour=image.colour,
        letterbox=image.letterbox,
        pad=image.pad,
        mean=image.mean,
        std=image.std,
        classes=labels or default_labels(match.class_count or 80),
        licence=description.licence or file.licence,
        input_name=file.input_name,
        output_names=match.output_names,
        dynamic_batch=file.dynamic_batch,
    )


def _input_format(habit: InputFormat, description: ModelDescription) -> InputFormat:
    chosen = {f.name: getattr(description, f.name) for f in fields(InputFormat)}
    return InputFormat(**{key: getattr(habit, key) if value is None else value for key, value in chosen.items()})


def _known(path: Path, key: str, known: tuple[str, ...]) -> None:
    if key not in known:
        raise ModelError(f"{path}: {key} is not a known key; known are {', '.join(known)}")


def _checked(path: Path, key: str, value: Any) -> Any:
    """The value in the type that `ModelDescription` wants. Raises `ModelError` that names the key."""
    if key in _CHOICES:
        if value in _CHOICES[key]:
            return value
        raise ModelError(f"{path}: {key} must be one of {', '.join(_CHOICES[key])}, not {value!r}")
    if key in _RANGES:
        low, high = _RANGES[key]
        if type(value) is int and low <= value <= high:
            return value
        raise ModelError(f"{path}: {key} must be a whole number from {low} to {high}, not {value!r}")
    if key in ("mean", "std"):
        if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
            if key == "std" and 0 in value:
                raise ModelError(f"{path}: std must not contain 0")
            return tuple(float(v) for v in value)
        raise ModelError(f"{path}: {key} must be a list of three numbers, not {value!r}")
    if key == "classes":
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ModelError(f"{path}: classes must be a list of names")
    if isinstance(value, str) and value:
        return value
    raise ModelError(f"{path}: {key} must be a text, not {value!r}")
