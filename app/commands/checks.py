"""What `vidette doctor` looks at on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from app.backends.cuda.probe import TITLES, Report, examine
from app.backends.select import choose, probe_all
from app.commands.imports import import_problem
from app.errors import BackendUnavailable, ConfigError
from app.measure.machine import Machine
from app.server import listen
from app.settings import Settings, load_settings

CheckState: TypeAlias = Literal["ok", "note", "failed"]
FEW_FILES = 256
# What to import of each installed part of the CUDA backend: that which loads its libraries.
CUDA_MODULES: Mapping[str, str] = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "pycuda": "pycuda.driver",
    "PyNvVideoCodec": "PyNvVideoCodec",
    "cuda-bindings": "cuda.bindings.driver",
    "nvidia-ml-py": "pynvml",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `note` is worth knowing, `failed` keeps the service from starting."""

    name: str
    state: CheckState
    message: str


def check_machine(machine: Machine) -> tuple[Check, ...]:
    """Everything that `vidette serve` will need, looked at without changing anything. Blocking, a second.

    Where there is an NVIDIA driver, some seconds: what its backend needs is imported, each in a process of its own.
    """
    settings, finding = _settings()
    return (
        _plain("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.1f} GiB memory"),
        _plain("python", f"{machine.python} on {machine.platform}"),
        _packages(machine.versions),
        finding,
        *_backends(settings),
        *cuda_checks(examine(gpu=settings.backend.gpu)),
        *_model(settings),
        _data_dir(settings.data_dir),
        _port(settings),
        _open_files(),
    )


def _plain(name: str, message: str) -> Check:
    return Check(name=name, state="ok", message=message)


def _packages(versions: dict[str, str | None]) -> Check:
    text = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    return Check(name="packages", state="ok" if all(versions.values()) else "note", message=text)


def _settings() -> tuple[Settings, Check]:
    try:
        return load_settings(), _plain("settings", "can be read")
    except ConfigError as exc:
        return Settings.model_construct(), Check(name="settings", state="failed", message=str(exc))


def _backends(settings: Settings) -> Iterator[Check]:
    answers, wanted = probe_all(settings.backend), settings.backend.device
    for answer in answers:
        yield Check(name=f"backend {answer.name}", state="ok" if answer.available else "note", message=answer.reason)
    try:
        reason = choose(settings).reason
    except (BackendUnavailable, ImportError) as exc:
        yield Check(name="backend", state="failed", message=f"backend.device is {wanted}: {exc}")
    else:
        yield _plain("backend", reason)


def cuda_checks(report: Report, *, problem: Callable[[str], str | None] = import_problem) -> Iterator[Check]:
    """Each part of the CUDA backend on its own: notes, because whether the service starts is another check's matter."""
    for part in report.parts:
        ok, message = part.available, part.reason
        # Without a driver most of them cannot even be imported, and that would say nothing about them.
        if ok and part.name in CUDA_MODULES and report.part("driver").available:
            wrong = problem(CUDA_MODULES[part.name])
            ok, message = wrong is None, message if wrong is None else f"{message} is installed, but {wrong}"
        yield Check(name=f"cuda {TITLES.get(part.name, part.name)}", state="ok" if ok else "note", message=message)


def _model(settings: Settings) -> Iterator[Check]:
    from app.commands.model import models_in  # late, as the next: what they import takes a moment, or may be missing

    found = models_in(settings.models_dir)
    names = ", ".join(each.name for each in found) or "none"
    yield _plain("models", f"{names} in {settings.models_dir}")
    for each in found:
        if each.error is not None:
            yield Check(name=f"model {each.name}", state="note", message=each.error)
    if settings.backend.device == "synthetic":
        return
    try:
        from app.inference.model import resolve_model

        spec = resolve_model(settings.model, settings.models_dir)
        size = f"{spec.input_width}x{spec.input_height}"
        yield _plain("model", f"{spec.name}: {spec.family}, {size}, {len(spec.classes)} classes")
    except (ConfigError, ImportError) as exc:
        yield Check(name="model", state="failed", message=str(exc))


def _data_dir(path: Path) -> Check:
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return _plain("data_dir", f"{path} can be written")
    reason = "cannot be written" if there.is_dir() else "is not a folder"
    return Check(name="data_dir", state="failed", message=f"{path}: {there} {reason}")


def _port(settings: Settings) -> Check:
    server = settings.server
    try:
        listen(server, settings.auth).close()
    except ConfigError as exc:
        # Not a failure: it may well be the service itself that runs there.
        return Check(name="port", state="note", message=str(exc))
    return _plain("port", f"{server.host}:{server.port} is free" if server.port else "any free one")


def _open_files() -> Check:
    if sys.platform == "win32":
        return _plain("open files", "not limited by the system")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = [str(n) if n != resource.RLIM_INFINITY else "unlimited" for n in (soft, hard)]
    few = soft != resource.RLIM_INFINITY and soft < FEW_FILES
    advice = "; raise it with `ulimit -n` for many cameras" if few else ""
    return Check(name="open files", state="note" if few else "ok", message=f"{shown[0]} (at most {shown[1]}){advice}")
