"""`vidette model`: which models there are, and how one comes in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.backends.select import probe_cpu
from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:  # a machine without the onnx package has a doctor too
    from app.inference.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model in `models_dir`, by the name that the setting `model` takes. What cannot be used has an `error`."""

    name: str
    path: str
    family: str | None = None
    input_width: int | None = None
    input_height: int | None = None
    classes: int | None = None
    licence: str | None = None
    sha256: str | None = None
    error: str | None = None


def models_in(models_dir: Path) -> list[ListedModel]:
    """Every model below `models_dir`, sorted by name: folders with a model.toml, and bare ONNX files. Blocking."""
    folders = {toml.parent.name: toml for toml in models_dir.glob("*/model.toml")}
    files = {onnx.stem: onnx for onnx in models_dir.glob("*.onnx")}
    return [_listed(name, path) for name, path in sorted({**files, **folders}.items())]


def _listed(name: str, path: Path) -> ListedModel:
    try:
        from app.inference.model import resolve_model

        spec = resolve_model(str(path.parent if path.name == "model.toml" else path), path.parent)
    except (ModelError, ImportError) as exc:
        return ListedModel(name=name, path=str(path), error=str(exc))
    return replace(_listed_spec(spec), name=name)


def _listed_spec(spec: ModelSpec) -> ListedModel:
    return ListedModel(
        name=spec.path.parent.name,
        path=str(spec.path),
        family=spec.family,
        input_width=spec.input_width,
        input_height=spec.input_height,
        classes=len(spec.classes),
        licence=spec.licence,
        sha256=spec.sha256,
    )


def add_one(source: str, models_dir: Path, *, as_json: bool) -> int:
    """Put a file, or a published model by name, into `models_dir` once it has run here. 0; raises `ModelError` (2)."""
    from app.inference.catalog import add_model

    notes: list[str] = []
    with Progress() as progress:
        loading = False

        def downloaded(done: int, total: int) -> None:
            nonlocal loading
            if not loading:
                loading = True
                progress.step(f"downloading {source}", total=total)
            progress.done(done)

        def check(spec: ModelSpec) -> None:
            progress.step(f"trying {spec.name} on this machine")
            notes.extend(try_model(spec))

        added = _listed_spec(add_model(source, models_dir, check=check, progress=downloaded))
    for note in notes:
        print(f"vidette: {added.name}: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(added), indent=2))
    else:
        size = f"{added.input_width}x{added.input_height}"
        licence = added.licence or "licence unknown"
        print(f"{added.name} is in {models_dir}: {added.family}, {size}, {added.classes} classes, {licence}")
        print(f"run it with: vidette serve --model {added.name}")
    return 0


def try_model(spec: ModelSpec) -> tuple[str, ...]:
    """Run a model on random images, alone and in batches. Blocking, seconds. Returns what is worth knowing of it.

    Raises `ModelError` when it cannot be run here, `BackendUnavailable` when nothing can.
    """
    available = probe_cpu()
    if not available.available:
        raise BackendUnavailable(available.name, available.reason)
    from app.backends.cpu.openvino_engine import check_model

    reason = check_model(spec)
    return () if reason is None else (f"it will run at batch 1: {reason}",)


def list_all(models_dir: Path, *, as_json: bool) -> int:
    """Print the models in `models_dir`; always 0."""
    found = models_in(models_dir)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    elif not found:
        print(f"there is no model in {models_dir}")
    else:
        print(in_columns([("name", "family", "input", "classes", "licence"), *(_line(each) for each in found)]))
    return 0


def _line(model: ListedModel) -> tuple[str, ...]:
    if model.error is not None:
        return (model.name, "-", "-", "-", model.error)
    size = f"{model.input_width}x{model.input_height}"
    return (model.name, model.family or "-", size, str(model.classes), model.licence or "-")
