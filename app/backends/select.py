"""Which backend runs here: probes, choice, late import. The core never imports a device library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from app.backends.base import Backend
from app.errors import BackendUnavailable
from app.settings import BackendSettings, Settings
from app.types import Availability

# What each backend can be told to use, beside auto.
FITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {
        "engine": ("openvino", "onnxruntime"),
        "precision": ("fp32", "bf16", "int8"),
        "decoder": ("software",),
    },
    "cuda": {
        "engine": ("tensorrt", "tensorrt_rtx"),
        "precision": ("fp32", "fp16", "int8"),
        "decoder": ("nvdec", "software"),
    },
    "synthetic": {"engine": (), "precision": (), "decoder": ()},
}
CPU_PACKAGES = {"av": "av", "cv2": "opencv-python-headless", "onnx": "onnx", "openvino": "openvino"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backend that runs, why, and what every one of them said."""

    backend: Backend[Any]
    reason: str
    availability: tuple[Availability, ...]


def probe_cpu(wanted: BackendSettings | None = None) -> Availability:
    missing = [package for module, package in CPU_PACKAGES.items() if find_spec(module) is None]
    if missing:
        reason = f"{', '.join(missing)} is not installed; pip install 'vidette[cpu]'"
        return Availability(name="cpu", available=False, reason=reason)
    return Availability(name="cpu", available=True, reason="PyAV and OpenVINO are installed")


def probe_cuda(wanted: BackendSettings | None = None) -> Availability:
    from app.backends.cuda.probe import cuda_availability, examine

    wanted = wanted or BackendSettings()
    return cuda_availability(examine(gpu=wanted.gpu), gpu=wanted.gpu, engine=wanted.engine)


def probe_synthetic(wanted: BackendSettings | None = None) -> Availability:
    reason = "scripted frames and detections; runs only when backend.device names it"
    return Availability(name="synthetic", available=True, reason=reason)


PROBES: tuple[Callable[[BackendSettings], Availability], ...] = (probe_cuda, probe_cpu, probe_synthetic)


def probe_all(wanted: BackendSettings | None = None) -> tuple[Availability, ...]:
    """Ask every backend whether it can run as these settings want it, best first. Blocking, under a second."""
    return tuple(probe(wanted or BackendSettings()) for probe in PROBES)


def choose(settings: Settings) -> Choice:
    """The backend that the settings name, or the best that is available. Blocking; imports device libraries.

    Raises `BackendUnavailable` with the reason; a named backend is never replaced by another one in silence.
    """
    answers = probe_all(settings.backend)
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
    _refuse_mismatch(name, settings.backend, answers)
    return Choice(backend=_make(name, settings), reason=reason, availability=answers)


def _refuse_mismatch(name: str, wanted: BackendSettings, answers: tuple[Availability, ...]) -> None:
    """A setting that this backend does not have is an error, never passed over in silence."""
    for key, fits in FITS[name].items():
        value = getattr(wanted, key)
        if value == "auto" or value in fits:
            continue
        # Whoever names another backend's engine wants that backend, and wants to know what it lacks.
        meant = [a for a in answers if not a.available and wanted.device == "auto" and value in FITS[a.name][key]]
        why = "".join(f"; {answer.name}: {answer.reason}" for answer in meant)
        raise BackendUnavailable(name, f"backend.{key} is {value}, which the {name} backend does not have{why}")
    if name == "cuda" and wanted.decoder == "nvdec":
        from app.backends.cuda.probe import examine

        nvdec = examine(gpu=wanted.gpu).nvdec
        if not nvdec.available:
            raise BackendUnavailable(name, f"backend.decoder is nvdec, and that cannot decode here: {nvdec.reason}")


def _make(name: str, settings: Settings) -> Backend[Any]:
    if name == "cpu":
        from app.backends.cpu.backend import CpuBackend

        return CpuBackend(settings)
    if name == "cuda":
        from app.backends.cuda.backend import CudaBackend

        return CudaBackend(settings)
    from app.backends.synthetic.backend import SyntheticBackend

    return SyntheticBackend()
