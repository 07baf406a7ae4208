"""A model's quantised copy: an ONNX file with Q/DQ pairs that says itself which model it was made from."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from app.errors import ModelError
from app.inference.model import ModelSpec
from app.inference.onnx_file import load_onnx

MAX_AP_COST = 0.01  # more than this the service does not give away by itself
_KEY = "vidette.int8"
_VERSION = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Model:
    """A quantised copy with the same input and outputs as its source, for batches of any size the source takes."""

    path: Path
    source_sha256: str
    ap_cost: float | None  # AP of FP32 less AP of INT8, on labelled images; None: there were none
    agreement: float | None  # AP of INT8's boxes with FP32's as the truth; None: not measured
    calibration: str  # what the scales come from, as a phrase
    notes: tuple[str, ...]

    @property
    def affordable(self) -> bool:
        """Whether the service may choose it by itself.

        Agreement does not decide: over five models it did not follow what labelled images showed.
        """
        return self.ap_cost is not None and self.ap_cost <= MAX_AP_COST


def int8_path(spec: ModelSpec, folder: Path) -> Path:
    """Where the quantised copy of a model lives."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name).strip("-.") or "model"
    return folder / f"{slug}-{spec.sha256[:8]}-int8.onnx"


def find_int8(spec: ModelSpec, folder: Path) -> Int8Model | None:
    """The quantised copy of a model in `folder`, or None. Blocking, some 10 ms.

    A copy that is damaged or was made from something else is not used, and the log says why.
    """
    path = int8_path(spec, folder)
    if not path.exists():
        return None
    try:
        return read_int8(path, spec)
    except ModelError as exc:
        log.warning("%s; it is not used, `vidette build` makes it anew", exc)
        return None


def read_int8(path: Path, spec: ModelSpec) -> Int8Model:
    """The quantised copy in a file. Raises `ModelError` when it is damaged or not of this model."""
    stored = {each.key: each.value for each in load_onnx(path).metadata_props}.get(_KEY)
    if stored is None:
        raise ModelError(f"quantised model {path} does not say what it was made from")
    try:
        told = json.loads(stored)
        version, source, image = told["version"], told["source_sha256"], told["input"]
        found = Int8Model(
            path=path,
            source_sha256=source,
            ap_cost=_number(told["ap_cost"]),
            agreement=_number(told["agreement"]),
            calibration=str(told["calibration"]),
            notes=tuple(str(note) for note in told["notes"]),
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise ModelError(f"quantised model {path} has a description that cannot be read") from exc
    if version != _VERSION:
        raise ModelError(f"quantised model {path} is of version {version}, not {_VERSION}")
    if source != spec.sha256:
        raise ModelError(f"quantised model {path} was made from another file than {spec.path}")
    if image != _input(spec):
        raise ModelError(f"quantised model {path} was made for another size or normalisation than {spec.name} has now")
    return found


def write_int8(
    path: Path,
    model: ModelProto,
    spec: ModelSpec,
    *,
    ap_cost: float | None,
    agreement: float | None,
    calibration: str,
    notes: tuple[str, ...] = (),
) -> Int8Model:
    """Publish a quantised copy at once, or not at all. Blocking. Raises `ModelError` when it cannot be written."""
    told = {
        "version": _VERSION,
        "source_sha256": spec.sha256,
        "input": _input(spec),
        "ap_cost": ap_cost,
        "agreement": agreement,
        "calibration": calibration,
        "notes": notes,
    }
    whole = ModelProto()
    whole.CopyFrom(model)
    kept = [each for each in whole.metadata_props if each.key != _KEY]
    del whole.metadata_props[:]
    whole.metadata_props.extend(kept)
    whole.metadata_props.add(key=_KEY, value=json.dumps(told))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(whole.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as exc:
        raise ModelError(f"quantised model {path} cannot be written: {exc.strerror}") from exc
    return Int8Model(
        path=path,
        source_sha256=spec.sha256,
        ap_cost=ap_cost,
        agreement=agreement,
        calibration=calibration,
        notes=notes,
    )


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


def _input(spec: ModelSpec) -> list[object]:
    """What the scales depend on besides the file."""
    size = [spec.input_width, spec.input_height]
    return [*size, spec.colour, spec.letterbox, spec.pad, list(spec.mean), list(spec.std)]
