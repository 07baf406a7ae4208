"""Which backend runs here: probes, choice, late import. The core never imports a device library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from app.backends.base import Backend
from app.errors import BackendUnavailable
from app.settings import Settings
from app.types import Availability

CPU_PACKAGES = {"av": "av", "cv2": "opencv-python-headless", "onnx": "onnx", "openvino": "openvino"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backend that runs, why, and what every one of them said."""

    backend: Backend[Any]
    reason: str
    availability: tuple[Availability, ...]


def probe_cpu() -> Availability:
    missing = [package for module, package in CPU_PACKAGES.items() if find_spec(module) is None]
    if missing:
        reason = f"{', '.join(missing)} is not installed; pip install 'vidette[cpu]'"
        return Availability(name="cpu", available=False, reason=reason)
    return Availability(name="cpu", available=True, reason="PyAV and OpenVINO are installed")


def probe_cuda() -> Availability:
    return Availability(name="cuda", available=False, reason="this version has no CUDA backend yet")


def probe_synthetic() -> Availability:
    reason = "scripted frames and detections; runs only when backend.device names it"
    return Availability(name="synthetic", available=True, reason=reason)


PROBES: tuple[Callable[[], Availability], ...] = (probe_cuda, probe_cpu, probe_synthetic)


def probe_all() -> tuple[Availability, ...]:
    """Ask every backend, best first. Blocking."""
    return tuple(probe() for probe in PROBES)


def choose(settings: Settings) -> Choice:
    """The backend that the settings name, or the best that is available. Blocking; imports device libraries.

    Raises `BackendUnavailable` with the reason; a named backend is never replaced by another one in silence.
    """
    answers = probe_all()
    wanted = settings.backend.device
    if wanted == "auto":
        usable = [answer.name for answer in answers if answer.available and answer.name != "synthetic"]
        if not usable:
            reasons = "; ".join(f"{answer.name}: {answer.reason}" for answer in answers if not answer.available)
            raise BackendUnavailable("auto", reasons)
        name = usable[0]
        passed_over = "; ".join(f"{a.name}: {a.reason}" for a in answers[: [a.name for a in answers].index(name)])
        reason = "the best available" + (f" ({passed_over})" if passed_over else "")
    else:
        answer = next(answer for answer in answers if answer.name == wanted)
        if not answer.available:
            raise BackendUnavailable(wanted, answer.reason)
        name, reason = wanted, f"backend.device is {wanted}"
    _refuse_mismatch(name, settings)
    return Choice(backend=_make(name, settings), reason=reason, availability=answers)


def _refuse_mismatch(name: str, settings: Settings) -> None:
    """A setting that names another backend's engine or decoder is an error, never passed over in silence."""
    fits = {"cpu": ("openvino", "software")}.get(name, ("auto", "auto"))
    for key, value, fit in (
        ("engine", settings.backend.engine, fits[0]),
        ("decoder", settings.backend.decoder, fits[1]),
    ):
        if value not in ("auto", fit):
            raise BackendUnavailable(name, f"backend.{key} is {value}, which the {name} backend does not have")


def _make(name: str, settings: Settings) -> Backend[Any]:
    if name == "cpu":
        from app.backends.cpu.backend import CpuBackend

        return CpuBackend(settings)
    from app.backends.synthetic.backend import SyntheticBackend

    return SyntheticBackend()
