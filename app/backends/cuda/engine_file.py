"""Engine files: a TensorRT plan, and beside it a JSON file that says what it is, for which machine it was built."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from app.errors import ModelError
from app.inference.catalog import slug
from app.inference.model import ModelSpec

Runtime: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

SUFFIX = ".engine"
RUNTIME_NAMES: Mapping[Runtime, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# Counts up when models are prepared in another way for the same TensorRT, so that engines are built anew.
RECIPE = 1
_FORMAT = 1
_TEMPORARY = ".vidette-writing-"
_LOCK = ".vidette-build.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an engine was built from and for. Two engines with one identity are interchangeable."""

    model_sha256: str
    runtime: Runtime
    runtime_version: str
    gpu: str | None  # the device's name; None: for every GPU of the compute capabilities
    compute_capability: str  # 8.9, or several as in 7.5+8.6
    precision: Precision
    min_batch: int
    opt_batch: int
    max_batch: int
    input_width: int
    input_height: int
    calibration: str | None = None  # hash of the images that chose the INT8 scales
    recipe: int = RECIPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an engine meets where it shall run."""

    runtime: Runtime
    runtime_version: str
    gpu: str
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """An engine on disk that is whole. `spec` is enough to run it without the ONNX file that it came from."""

    path: Path
    identity: Identity
    spec: ModelSpec
    sha256: str  # of the plan
    nbytes: int
    notes: tuple[str, ...] = ()  # sentences: why batch 1, how the self-check went


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """The JSON file."""

    format: int
    identity: Identity
    plan: _Plan
    spec: ModelSpec
    notes: tuple[str, ...] = ()


def engine_name(identity: Identity, name: str) -> str:
    """The file name of an engine: for people, since the identity in the JSON is what counts."""
    version = re.sub(r"[^0-9.]", "", identity.runtime_version)
    parts = (
        slug(name),
        identity.model_sha256[:8],
        f"{identity.runtime}{version}",
        gpu_slug(identity),
        identity.precision,
        f"b{identity.min_batch}-{identity.max_batch}",
    )
    return "-".join(parts) + SUFFIX


def gpu_slug(identity: Identity) -> str:
    """The GPUs of an engine, as part of a file name: nvidia-h200, or sm75-86 for all of those compute capabilities."""
    if identity.gpu:
        return slug(identity.gpu)
    return "sm" + identity.compute_capability.replace(".", "").replace("+", "-")


def description_path(path: Path) -> Path:
    """Where the JSON of an engine is."""
    return path.with_name(path.name + ".json")


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine's description and hold its plan against it. Blocking. Raises `ModelError`."""
    description = _read_description(path)
    engine = EngineFile(
        path=path,
        identity=description.identity,
        spec=description.spec,
        sha256=description.plan.sha256,
        nbytes=description.plan.bytes,
        notes=description.notes,
    )
    load_plan(engine)
    return engine


def load_plan(engine: EngineFile) -> bytes:
    """The plan, to be deserialised. Blocking. Raises `ModelError` unless it is byte for byte what was built."""
    try:
        plan = engine.path.read_bytes()
    except OSError as exc:
        raise ModelError(f"engine {engine.path} cannot be read: {exc.strerror}") from exc
    if len(plan) != engine.nbytes:
        state = "truncated" if len(plan) < engine.nbytes else "longer than it was built"
        raise ModelError(
            f"engine {engine.path} is {state}: {len(plan)} bytes instead of {engine.nbytes}; build it anew"
        )
    if hashlib.sha256(plan).hexdigest() != engine.sha256:
        raise ModelError(f"engine {engine.path} is damaged: its bytes are not those that were built; build it anew")
    return plan


def write_engine_file(
    path: Path, plan: bytes | memoryview, *, identity: Identity, spec: ModelSpec, notes: tuple[str, ...] = ()
) -> EngineFile:
    """Publish an engine: the plan, then its JSON, each complete or not there. Blocking.

    Between the two, and whenever the process dies, what is there is refused by `read_engine_file`. One writer a
    folder at a time: hold `building`. Raises `ModelError` when the folder cannot be written to.
    """
    digest = hashlib.sha256(plan).hexdigest()
    described = _Plan(sha256=digest, bytes=len(plan))
    description = {
        "format": _FORMAT,
        "identity": asdict(identity),
        "plan": asdict(described),
        "notes": notes,
        "spec": {**asdict(spec), "path": str(spec.path)},
    }
    with _writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, plan)
        replace_file(description_path(path), msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n")
    return EngineFile(path=path, identity=identity, spec=spec, sha256=digest, nbytes=described.bytes, notes=notes)


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it has the old or the new content at every moment, after a power cut too. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_TEMPORARY, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def building(folder: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only process that builds engines in a folder. Blocking; calls `on_wait` before it waits for another one.

    Builds that run at once would measure each other instead of the GPU. The lock ends with its process, however that
    ends; what a process had half written is removed here. Raises `ModelError` when the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / _LOCK).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(f"{_TEMPORARY}*"):
                left.unlink(missing_ok=True)
        yield


def differences(built: Identity, wanted: Identity) -> list[str]:
    """What keeps an engine from being the one that is wanted, in words. Empty: nothing."""
    old, new = asdict(built), asdict(wanted)
    return [f"{_WORDS[key]} is {_said(old[key])}, wanted {_said(new[key])}" for key in old if old[key] != new[key]]


def require_fit(engine: EngineFile, machine: Machine) -> None:
    """Raises `ModelError` that names what differs when an engine cannot run on this machine."""
    built = engine.identity
    capabilities = built.compute_capability.split("+")
    for_any_gpu = built.gpu is None
    pairs = [
        (
            f"{RUNTIME_NAMES[built.runtime]} {built.runtime_version}",
            f"{RUNTIME_NAMES[machine.runtime]} {machine.runtime_version}",
        ),
        *([(str(built.gpu), machine.gpu)] if not for_any_gpu and built.gpu != machine.gpu else []),
    ]
    if machine.compute_capability not in capabilities and (for_any_gpu or built.gpu == machine.gpu):
        pairs.append(
            (
                f"compute capability {' or '.join(capabilities)}",
                f"{machine.gpu} with compute capability {machine.compute_capability}",
            )
        )
    wrong = [(before, here) for before, here in pairs if before != here]
    if wrong:
        before, here = (" and ".join(side) for side in zip(*wrong, strict=True))
        raise ModelError(
            f"engine {engine.path} was built for {before}, this is {here}; build it anew from {engine.spec.path.name}"
        )


def _read_description(path: Path) -> _Description:
    beside = description_path(path)
    try:
        raw = beside.read_bytes()
    except FileNotFoundError as exc:
        if not path.exists():
            raise ModelError(f"engine {path} does not exist") from exc
        raise ModelError(
            f"engine {path} has no {beside.name} beside it, which says what it is; "
            "vidette build-engine makes both from the ONNX file"
        ) from exc
    except OSError as exc:
        raise ModelError(f"engine description {beside} cannot be read: {exc.strerror}") from exc
    try:
        description = msgspec.json.decode(raw, type=_Description, dec_hook=_path_from)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"engine description {beside} is not what Vidette writes: {exc}; build it anew") from exc
    if description.format != _FORMAT:
        raise ModelError(f"engine description {beside} has format {description.format}, this Vidette reads {_FORMAT}")
    return description


def _path_from(kind: type, value: Any) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected a {kind.__name__.lower()} as text")  # msgspec adds where it was


def _said(value: object) -> str:
    return "none" if value is None else str(value)


_WORDS: Mapping[str, str] = {
    "model_sha256": "the model",
    "runtime": "the engine library",
    "runtime_version": "its version",
    "gpu": "the GPU",
    "compute_capability": "the compute capability",
    "precision": "the precision",
    "min_batch": "the smallest batch",
    "opt_batch": "the best batch",
    "max_batch": "the largest batch",
    "input_width": "the input's width",
    "input_height": "the input's height",
    "calibration": "the set of calibration images",
    "recipe": "the recipe",
}


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ModelError(f"engine folder {folder} cannot be written to: {exc.strerror or exc}") from exc
