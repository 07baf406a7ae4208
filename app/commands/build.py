"""`vidette build`: a model's quantised copy for the CPU, with what it costs; or an engine for the GPU."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.commands.build_engine import Shown, build_engine
from app.commands.progress import Progress
from app.errors import BackendUnavailable, ConfigError
from app.inference.int8_file import MAX_AP_COST, int8_path
from app.settings import load_settings

if TYPE_CHECKING:  # a machine without these packages gets a sentence
    from app.backends.int8.build import Built

_PACKAGES = {"av": "av", "cv2": "opencv-python-headless", "onnx": "onnx", "openvino": "openvino"}


def build(arguments: argparse.Namespace) -> int:
    """Build what `arguments` describe. 0; raises `ConfigError` (2) and others (1)."""
    if arguments.device == "cuda":
        if arguments.images is not None:
            raise ConfigError("--images is for --device cpu; the GPU's engines are held against FP32's outputs")
        return build_engine(arguments)
    if arguments.precision != "int8":
        raise ConfigError("--precision: a CPU needs nothing built for fp32 and bf16; int8 is what can be built")
    if arguments.calibrate is None:
        raise ConfigError("--calibrate must name a folder of images or a video like the cameras'")
    if not arguments.calibrate.exists():
        raise ConfigError(f"--calibrate: {arguments.calibrate} does not exist")
    if arguments.out is not None and arguments.out.suffix != ".onnx":
        raise ConfigError(f"--out must name a file that ends in .onnx, not {arguments.out}")
    _require_packages()
    logging.getLogger().addHandler(logging.NullHandler())  # libraries' warnings would tear up the bar

    from app.backends.int8.build import build_int8
    from app.inference.model import resolve_model

    settings = load_settings()
    spec = resolve_model(arguments.model, arguments.models_dir or settings.models_dir)
    folder = (arguments.data_dir or settings.data_dir) / "engines"
    if arguments.out is not None and arguments.out.resolve() == spec.path.resolve():
        raise ConfigError(f"--out: {arguments.out} is the model itself")
    began = time.monotonic()
    with Progress() as progress:
        built = build_int8(
            spec,
            arguments.calibrate,
            labelled=arguments.images,
            folder=folder,
            out=arguments.out,
            on_progress=Shown(progress, terminal=sys.stderr.isatty()),
        )
    found = built.int8.path.resolve() == int8_path(spec, folder).resolve()
    if arguments.json:
        print(json.dumps(_as_json(built, time.monotonic() - began), indent=2))
    else:
        _print(built, time.monotonic() - began, found=found)
    return 0


def _require_packages() -> None:
    if missing := [name for module, name in _PACKAGES.items() if find_spec(module) is None]:
        are = "is" if len(missing) == 1 else "are"
        raise BackendUnavailable("cpu", f"{', '.join(missing)} {are} not installed; pip install 'vidette[cpu]'")
    if find_spec("onnxruntime") is None:
        raise BackendUnavailable("cpu", "--precision int8 needs onnxruntime; pip install 'vidette[int8]'")


def _as_json(built: Built, seconds: float) -> dict[str, object]:
    int8 = built.int8
    return {
        "path": str(int8.path),
        "seconds": round(seconds, 3),
        "bytes": {"source": built.source_bytes, "int8": built.int8_bytes},
        "source_sha256": int8.source_sha256,
        "recipe": built.recipe,
        "calibration": int8.calibration,
        "judged_on": built.judged_on,
        "ap": {"fp32": built.fp32_ap, "int8": built.int8_ap, "cost": int8.ap_cost},
        "agreement": int8.agreement,
        "affordable": int8.affordable,
        "fps": {precision: round(fps, 1) for precision, fps in built.fps.items()},
        "trials": [{"recipe": each.recipe, "ap": each.ap, "agreement": each.agreement} for each in built.trials],
        "notes": int8.notes,
    }


def _print(built: Built, seconds: float, *, found: bool) -> None:
    int8 = built.int8
    mib = f"{built.source_bytes / 2**20:.1f} -> {built.int8_bytes / 2**20:.1f} MiB"
    print(f"{int8.path}: built in {seconds:.0f} s, {mib}")
    print(f"INT8 in {built.recipe}, calibrated with {int8.calibration}")
    print(_cost(built))
    print("fps of inference alone: " + ", ".join(f"{name.upper()} {fps:.0f}" for name, fps in built.fps.items()))
    if len(built.trials) > 1:
        print(f"recipes tried: {'; '.join(_trial(each.recipe, each.ap, each.agreement) for each in built.trials)}")
    for note in int8.notes:
        print(note)
    print(_verdict(built, found=found))


def _cost(built: Built) -> str:
    int8 = built.int8
    if built.fp32_ap is not None and built.int8_ap is not None:
        change = built.int8_ap - built.fp32_ap
        return f"mAP {built.fp32_ap:.3f} -> {built.int8_ap:.3f} ({change:+.3f}) on {built.judged_on}"
    return (
        f"agreement with FP32's own boxes {int8.agreement:.3f} (1 is the same) on {built.judged_on}; "
        "this is no mAP: name labelled images with --images for that"
    )


def _trial(recipe: str, ap: float | None, agreed: float | None) -> str:
    return f"{recipe} mAP {ap:.3f}" if ap is not None else f"{recipe} agreement {agreed:.3f}"


def _verdict(built: Built, *, found: bool) -> str:
    if not found:
        return "the service looks for it in data_dir/engines only, and will not find it here"
    if built.int8.affordable:
        return "the service will choose it by itself where it is the fastest"
    why = "its mAP cost is not known" if built.int8.ap_cost is None else f"it costs more than {MAX_AP_COST} mAP"
    return f"the service will not choose it by itself, because {why}; backend.precision: int8 makes it"
