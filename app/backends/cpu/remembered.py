"""The measurement of an earlier start, kept in a file: the next start is faster, and chooses the same."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from app import __version__
from app.backends.cpu.tuning import Space, Tuning, Variant
from app.inference.catalog import slug
from app.inference.model import ModelSpec, sha256_of

log = logging.getLogger(__name__)

_FORMAT = 1
_PACKAGES = ("openvino", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a measurement holds for. Any of it different, and it has to be made anew."""

    model_sha256: str
    int8_sha256: str | None  # of the quantised copy
    processor: str
    cores: int
    variants: tuple[Variant, ...]
    streams: tuple[int, ...]
    max_batch: int
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A file's content. `batch_reason`: why batches are no larger, if there is a reason beyond speed."""

    conditions: Conditions
    measured_on: str  # 2026-11-20
    tuning: Tuning
    batch_reason: str | None = None
    format: int = _FORMAT


def conditions(spec: ModelSpec, int8: Path | None, processor: str, space: Space) -> Conditions:
    """What a measurement made now would hold for. Blocking: reads the quantised copy."""
    return Conditions(
        model_sha256=spec.sha256,
        int8_sha256=None if int8 is None else sha256_of(int8),
        processor=processor,
        cores=space.cores,
        variants=space.variants,
        streams=space.streams,
        max_batch=space.max_batch,
        versions={"vidette": __version__, **{name: found for name in _PACKAGES if (found := _version(name))}},
    )


def path_for(folder: Path, spec: ModelSpec, conditions: Conditions) -> Path:
    """Where the measurement under these conditions is kept."""
    key = sha256(msgspec.json.encode(conditions, order="deterministic")).hexdigest()[:12]
    return folder / f"cpu-{slug(spec.name)}-{key}.json"


def recall(path: Path, conditions: Conditions) -> Remembered | None:
    """The measurement in a file; None when there is none, or (with a line in the log) none that can be used."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:  # msgspec's errors are ValueErrors
        log.warning("measurement %s cannot be used and is made anew: %s", path, exc)
        return None
    if found.format != _FORMAT or found.conditions != conditions or not found.tuning.rows:
        log.warning("measurement %s is for something else and is made anew", path)
        return None
    return found


def remember(path: Path, measured: Remembered) -> None:
    """Write a measurement, whole or not at all. A failure is logged: the service runs as well without it."""
    written: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".vidette-writing-", delete=False) as file:
            written = Path(file.name)
            file.write(msgspec.json.format(msgspec.json.encode(measured), indent=2))
        os.replace(written, path)
    except OSError as exc:
        log.warning("measurement %s cannot be kept, the next start measures again: %s", path, exc.strerror)
        if written is not None:
            with contextlib.suppress(OSError):
                written.unlink()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
