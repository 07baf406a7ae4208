"""Putting a model into `models/`: from a file, or by name from where its makers published it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import httpx

from app.errors import DownloadFailed, ModelError
from app.inference.model import TOML_NAME, ModelSpec, read_toml, resolve_model

# Bytes that are there, bytes that there will be.
Progress: TypeAlias = Callable[[int, int], None]
# Tries the model on a device; raises `ModelError` when it cannot be run.
Check: TypeAlias = Callable[[ModelSpec], object]

_TIMEOUT_S = 15.0  # to connect, and between two pieces of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published model file. The hash pins its bytes: a file that changed at its source is refused."""

    url: str
    sha256: str
    size: int
    licence: str


_YOLOX = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
# Sizes and hashes of the files at that release, as several independent projects have recorded them.
RELEASES: Mapping[str, Release] = {
    "yolox_nano": Release(
        url=f"{_YOLOX}/yolox_nano.onnx",
        sha256="c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        size=3_659_407,
        licence="Apache-2.0",
    ),
    "yolox_tiny": Release(
        url=f"{_YOLOX}/yolox_tiny.onnx",
        sha256="427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        size=20_219_662,
        licence="Apache-2.0",
    ),
    "yolox_s": Release(
        url=f"{_YOLOX}/yolox_s.onnx",
        sha256="c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        size=35_858_002,
        licence="Apache-2.0",
    ),
}


def add_model(
    source: str,
    models_dir: Path,
    *,
    check: Check,
    progress: Progress = lambda _done, _total: None,
    releases: Mapping[str, Release] = RELEASES,
) -> ModelSpec:
    """Check a model and put it into `models_dir/<name>/` with a model.toml. Blocking.

    `source` is a path (an .onnx file or a directory with a model.toml) or a name of `releases`, which is downloaded.
    The directory appears complete or not at all. Adding the same file again changes nothing. Raises `ModelError`.
    """
    with _writable(models_dir):
        models_dir.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".adding-", dir=models_dir))
        try:
            return _add(source, models_dir, work, check=check, progress=progress, releases=releases)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def toml_of(spec: ModelSpec) -> str:
    """A model.toml that says all of `spec`, so that a later guess can never read the model differently."""
    lines = [
        f"name = {_text(spec.name)}",
        f"file = {_text(spec.path.name)}",
        f"family = {_text(spec.family)}",
        *([f"licence = {_text(spec.licence)}"] if spec.licence else []),
        f"classes = [{', '.join(map(_text, spec.classes))}]",
        "",
        "[input]",
        f"width = {spec.input_width}",
        f"height = {spec.input_height}",
        f"colour = {_text(spec.colour)}",
        f"letterbox = {_text(spec.letterbox)}",
        f"pad = {spec.pad}",
        f"mean = {list(spec.mean)}",
        f"std = {list(spec.std)}",
    ]
    return "\n".join(lines) + "\n"


def slug(name: str) -> str:
    """A directory name: lower case letters, digits, - and _."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "model"


def download(name: str, release: Release, target: Path, *, progress: Progress) -> None:
    """Fetch a published file and hold it against its hash. Blocking. `DownloadFailed` leaves no file behind."""
    digest, done = hashlib.sha256(), 0
    try:
        with (
            httpx.stream("GET", release.url, follow_redirects=True, timeout=_TIMEOUT_S) as answer,
            target.open("wb") as file,
        ):
            answer.raise_for_status()
            for piece in answer.iter_bytes(1 << 16):
                done += len(piece)
                if done > release.size:
                    break
                file.write(piece)
                digest.update(piece)
                progress(done, release.size)
        if done != release.size or digest.hexdigest() != release.sha256:
            raise DownloadFailed(
                f"model {name}: the file at {release.url} is not the one that Vidette knows "
                f"({done} bytes, sha256 {digest.hexdigest()}; expected {release.size} and {release.sha256})"
            )
    except httpx.HTTPStatusError as exc:
        target.unlink(missing_ok=True)
        raise DownloadFailed(
            f"model {name} cannot be downloaded: {release.url} says {exc.response.status_code}"
        ) from exc
    except httpx.HTTPError as exc:
        target.unlink(missing_ok=True)
        raise DownloadFailed(
            f"model {name} cannot be downloaded from {release.url} ({exc or type(exc).__name__}); "
            "without a network, copy the file here and add it by its path"
        ) from exc
    except DownloadFailed:
        target.unlink(missing_ok=True)
        raise


def _add(
    source: str, models_dir: Path, work: Path, *, check: Check, progress: Progress, releases: Mapping[str, Release]
) -> ModelSpec:
    found = _find(source, models_dir, work, progress=progress, releases=releases)
    target = models_dir / slug(found.name)
    if target.exists():
        return _already_there(target, found)
    check(found)
    package = work / "package"
    package.mkdir()
    shutil.copyfile(found.path, package / found.path.name)
    (package / TOML_NAME).write_text(toml_of(found), encoding="utf-8")
    read_toml(package / TOML_NAME)  # what was written must read back before anybody relies on it
    os.replace(package, target)
    return read_toml(target / TOML_NAME)


def _find(
    source: str, models_dir: Path, work: Path, *, progress: Progress, releases: Mapping[str, Release]
) -> ModelSpec:
    if Path(source).exists():
        return resolve_model(source, models_dir)
    if source in releases:
        file = work / f"{source}.onnx"
        download(source, releases[source], file, progress=progress)
        return replace(resolve_model(str(file), models_dir), licence=releases[source].licence)
    raise ModelError(f"model {source} is neither a file nor one that can be downloaded: {', '.join(releases)}")


def _already_there(target: Path, found: ModelSpec) -> ModelSpec:
    there = read_toml(target / TOML_NAME)
    if there.sha256 != found.sha256:
        raise ModelError(f"{target} holds another model already; remove it first")
    return there


@contextmanager
def _writable(models_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ModelError(f"{models_dir} cannot be written to: {exc.strerror or exc}") from exc


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML string
