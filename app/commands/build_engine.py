"""`vidette build-engine`: a TensorRT engine from an ONNX model, before the service needs it."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.backends.cuda.libcuda import Gpu
from app.backends.cuda.probe import Report, examine, runtime_for
from app.commands.progress import Progress
from app.errors import BackendUnavailable, ConfigError
from app.settings import load_settings

if TYPE_CHECKING:  # a machine without these packages gets a sentence
    from app.backends.cuda.build import EngineRequest
    from app.backends.cuda.driver import Driver
    from app.backends.cuda.engine_file import EngineFile, Runtime

LARGEST_BATCH = 16
USUAL_OPT_BATCH = 8
_PACKAGES = {"av": "av", "cv2": "opencv-python-headless", "onnx": "onnx"}
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_EVERY_S = 5.0  # between two lines on the same step, where there is no terminal
_SHARE = re.compile(r"(?P<step>.+?): (?:image )?(?P<done>\d+) (?:%|of (?P<total>\d+))")


def build_engine(arguments: argparse.Namespace) -> int:
    """Build the engine that `arguments` describe, unless it is there. 0; raises `ModelError` (2) and others (1)."""
    _check(arguments)
    _quiet_libraries()
    settings = load_settings()
    report = examine(gpu=settings.backend.gpu)
    gpu = next((each for each in report.driver.gpus if each.index == settings.backend.gpu), None)
    if gpu is None and report.driver.gpus:
        raise ConfigError(
            f"backend.gpu is {settings.backend.gpu}, but there are {len(report.driver.gpus)} GPUs, from 0"
        )
    runtime: Runtime = arguments.runtime or _usual_runtime(report, gpu)
    _require_packages(runtime)

    from app.backends.cuda.build import find_or_build
    from app.backends.cuda.trial import checker
    from app.inference.model import resolve_model

    request = _request(arguments, runtime)
    spec = resolve_model(arguments.model, arguments.models_dir or settings.models_dir)
    began = time.monotonic()
    with Progress() as progress, _device(None if request.compute_capabilities else gpu) as driver:
        shown = Shown(progress, terminal=sys.stderr.isatty())
        engine = find_or_build(
            spec,
            request,
            folder=(arguments.data_dir or settings.data_dir) / "engines",
            gpu=gpu,
            check=checker(driver),
            on_progress=shown,
            path=arguments.out,
        )
    _print(engine, built=shown.built, seconds=time.monotonic() - began, as_json=arguments.json)
    return 0


class Shown:
    """Shows the sentences of a build as steps, and what they say of their share as a bar."""

    def __init__(self, progress: Progress, *, terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.built = False
        self._progress = progress
        self._clock = clock
        self._terminal = terminal
        self._step = ""
        self._line_at = 0.0

    def __call__(self, sentence: str) -> None:
        match = _SHARE.match(sentence)
        step = match["step"] if match else sentence
        self.built |= step == "building the engine"
        if step != self._step:
            self._step, self._line_at = step, self._clock() + _EVERY_S
            self._progress.step(step, total=float(match["total"] or 100) if match else None)
        elif not self._terminal and self._clock() >= self._line_at:
            self._line_at = self._clock() + _EVERY_S
            self._progress.step(sentence)
        if match:
            self._progress.done(float(match["done"]))


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be, whatever is installed. Raises `ConfigError` that names the option."""
    max_batch: int = arguments.max_batch
    if not 1 <= max_batch <= LARGEST_BATCH:
        raise ConfigError(f"--max-batch must be 1 to {LARGEST_BATCH}, not {max_batch}")
    if arguments.opt_batch is not None and not 1 <= arguments.opt_batch <= max_batch:
        raise ConfigError(f"--opt-batch must be 1 to --max-batch, which is {max_batch}, not {arguments.opt_batch}")
    if arguments.workspace_mib is not None and arguments.workspace_mib < 1:
        raise ConfigError(f"--workspace-mib must be 1 or more, not {arguments.workspace_mib}")
    if arguments.calibrate is not None and arguments.precision != "int8":
        raise ConfigError(f"--calibrate is for --precision int8, not {arguments.precision}")
    for capability in _capabilities(arguments):
        if not _CAPABILITY.fullmatch(capability):
            raise ConfigError(f"--compute-capability must be numbers such as 8.9,12.0, not {capability}")
    if arguments.out is not None and arguments.out.suffix != ".engine":
        raise ConfigError(f"--out must name a file that ends in .engine, not {arguments.out}")


def _capabilities(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(each.strip() for each in (arguments.compute_capability or "").split(",") if each.strip())


def _request(arguments: argparse.Namespace, runtime: Runtime) -> EngineRequest:
    from app.backends.cuda.build import EngineRequest

    max_batch: int = arguments.max_batch
    return EngineRequest(
        runtime=runtime,
        precision=arguments.precision,
        max_batch=max_batch,
        opt_batch=min(USUAL_OPT_BATCH, max_batch) if arguments.opt_batch is None else arguments.opt_batch,
        workspace_mib=arguments.workspace_mib,
        calibrate=arguments.calibrate,
        compute_capabilities=_capabilities(arguments),
    )


def _usual_runtime(report: Report, gpu: Gpu | None) -> Runtime:
    """What the service would take here. Without a GPU: TensorRT-RTX if it is installed, which needs none to build."""
    if gpu is None and find_spec("tensorrt_rtx") is not None:
        return "tensorrt_rtx"
    return "tensorrt_rtx" if runtime_for(report, engine="auto").name == "tensorrt_rtx" else "tensorrt"


def _require_packages(runtime: Runtime) -> None:
    from app.backends.cuda.engine_file import RUNTIME_NAMES

    extra = {"tensorrt": "cuda", "tensorrt_rtx": "rtx"}[runtime]
    packages = {runtime: RUNTIME_NAMES[runtime], **_PACKAGES}
    if missing := [name for module, name in packages.items() if find_spec(module) is None]:
        are = "is" if len(missing) == 1 else "are"
        raise BackendUnavailable(runtime, f"{', '.join(missing)} {are} not installed; pip install 'vidette[{extra}]'")


@contextmanager
def _device(gpu: Gpu | None) -> Iterator[Driver | None]:
    """The GPU as the engine's self-check needs it, this thread's own meanwhile; None where there is none."""
    if gpu is None or find_spec("pycuda") is None:
        yield None
        return
    from app.backends.cuda.pycuda_driver import PycudaDriver

    driver = PycudaDriver(gpu.index)
    try:
        with driver.bound():
            yield driver
    finally:
        driver.close()


def _quiet_libraries() -> None:
    """What libraries log is in the error that follows; on a terminal it would tear up the bar."""
    logging.getLogger().addHandler(logging.NullHandler())


def _print(engine: EngineFile, *, built: bool, seconds: float, as_json: bool) -> None:
    if as_json:
        shown = {
            "path": str(engine.path),
            "built": built,
            "seconds": round(seconds, 3),
            "bytes": engine.nbytes,
            "sha256": engine.sha256,
            "identity": asdict(engine.identity),
            "notes": engine.notes,
        }
        print(json.dumps(shown, indent=2))
        return
    identity = engine.identity
    target = identity.gpu or f"compute capability {identity.compute_capability.replace('+', ', ')}"
    state = f"built in {seconds:.1f} s" if built else "there already"
    print(f"{engine.path}: {state}, {engine.nbytes / 2**20:.1f} MiB")
    print(f"{identity.precision}, batches of 1 to {identity.max_batch}, for {target}")
    for note in engine.notes:
        print(f"it {note}" if not note.startswith("INT8") else note)
    print(f"run it with: vidette serve --model {engine.path}")
