"""The engine: building it as the service does, and its plateau by batch, graphs and contexts."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from app.backends.cuda.contexts import CudaRunner, LoadedModel, batch_sizes
from app.backends.cuda.detector import RandomPicture, run_batch
from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.engines import find_engine, load_engine, open_driver
from app.backends.cuda.kernels import load_kernels
from app.inference.timing import time_streams
from scripts.gate.pipeline import gate_settings
from scripts.gate.plan import GatePlan

_BATCHES = (1, 2, 4, 8, 12, 16)
_CONTEXTS = (1, 2, 3, 4)
_DURATION_S = 0.6


def build(plan: GatePlan) -> dict[str, Any]:
    """Build the engine of the gate's model, checked against the ONNX; a second look must find it in the folder."""
    settings = gate_settings(plan)
    sentences: list[str] = []
    with ExitStack() as stack:
        driver = open_driver(settings.backend.gpu)
        stack.callback(driver.close)
        stack.enter_context(driver.bound())
        began = time.monotonic()
        file = find_engine(settings, driver, sentences.append)
        build_s = time.monotonic() - began
        began = time.monotonic()
        again = find_engine(settings, driver, sentences.append)
        found_s = time.monotonic() - began
        engine = load_engine(file, driver)
        stack.callback(engine.close)
        return {
            "runtime": f"{file.identity.runtime} {file.identity.runtime_version}",
            "precision": file.identity.precision,
            "max_batch": engine.max_batch,
            "build_s": build_s,
            "found_again_s": found_s,
            "plan_mib": file.path.stat().st_size / 2**20,
            "scratch_mib": engine.scratch_bytes / 2**20,
            "notes": list(file.notes),
            "last_said": sentences[-1:],
            **({} if again.path == file.path else {"failed": "the engine was built twice"}),
        }


def measure(plan: GatePlan) -> dict[str, Any]:
    """Images a second of letterbox + engine + postprocess on 720p pictures: batches, graphs, contexts."""
    logging.getLogger("app").setLevel(logging.ERROR)
    settings = gate_settings(plan)
    with ExitStack() as stack:
        driver = open_driver(settings.backend.gpu)
        stack.callback(driver.close)
        stack.enter_context(driver.bound())
        engine = load_engine(find_engine(settings, driver, lambda sentence: None), driver)
        stack.callback(engine.close)
        model = LoadedModel(
            spec=find_engine(settings, driver, lambda sentence: None).spec,
            driver=driver,
            engine=engine,
            module=load_kernels(driver),
            iou=settings.iou,
            sizes=batch_sizes(engine.max_batch),
        )
        picture = stack.enter_context(RandomPicture(driver))
        sizes = [size for size in _BATCHES if size <= engine.max_batch]
        notes: set[str] = set()
        runs = [
            _run(model, picture, size, contexts, graphs, plan.seconds(_DURATION_S), notes)
            for graphs in (False, True)
            for contexts in _CONTEXTS
            # All sizes with one context; of several contexts the largest two say enough.
            for size in (sizes if contexts == 1 else sizes[-2:])
        ]
        measured = [run for run in runs if run["images_per_second"] is not None]
        best = max(measured, key=lambda run: run["images_per_second"])
        return {
            "picture": f"NV12 {picture.width}x{picture.height}",
            "runs": measured,
            "images_per_second": best["images_per_second"],
            "best": best,
            "notes": sorted(notes),
        }


def _run(
    model: LoadedModel,
    picture: RandomPicture,
    batch: int,
    contexts: int,
    graphs: bool,
    duration_s: float,
    notes: set[str],
) -> dict[str, Any]:
    run: dict[str, Any] = {"batch": batch, "contexts": contexts, "graphs": graphs, "images_per_second": None}
    with ExitStack() as stack:
        runners = []
        try:
            for number in range(contexts):
                runners.append(CudaRunner(model, number=number + 1, graphs=graphs))
                stack.callback(runners[-1].close)
        except OutOfDeviceMemory as exc:
            notes.add(f"{contexts} contexts: {exc}")
            return run
        notes.update(note for runner in runners for note in runner.notes)
        works = [partial(run_batch, model.driver, runner, picture, batch) for runner in runners]
        took_s = time_streams(works, duration_s=duration_s, clock=time.perf_counter)
    run.update(ms_per_batch=1e3 * took_s, images_per_second=contexts * batch / took_s)
    return run
