"""Real engines by TensorRT-RTX, which builds without a GPU, in processes of their own: its import is large."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from app.backends.cpu.detector import open_cpu_detector
from app.backends.cuda.engine_file import description_path, load_plan, read_engine_file
from app.backends.cuda.fp16 import to_fp16
from app.inference.model import resolve_model
from app.inference.onnx_batch import make_batchable
from app.inference.onnx_file import load_onnx
from scripts.evaluate import evaluate
from tests.support.onnx_models import bright_cells, saved
from tests.support.real_wheels import FOLDER

ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "models" / "vidette-demo")
ASSETS = Path(os.environ.get("VIDETTE_ASSETS", ""))
# COCO AP on 27 photos in FP32; INT8 is calibrated on the same photos.
REFERENCE_AP = {"yolox_nano_416": 0.347, "yolov8n_640_dyn": 0.454}
SHARED = (*REFERENCE_AP, "nanodet_m_320", "yolov10n_640_dyn", "light_person_detector_yolox")

has_rtx = find_spec("tensorrt_rtx") is not None or (FOLDER / "rtx" / "tensorrt_rtx").is_dir()
has_quantiser = find_spec("onnxruntime") is not None or (FOLDER / "onnxruntime" / "onnxruntime").is_dir()
needs_rtx = pytest.mark.skipif(not has_rtx, reason=f"tensorrt_rtx is neither installed nor in {FOLDER / 'rtx'}")
needs_quantiser = pytest.mark.skipif(
    not has_quantiser, reason=f"onnxruntime is neither installed nor in {FOLDER / 'onnxruntime'}"
)
needs_assets = [
    pytest.mark.assets,
    pytest.mark.skipif("VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS is not set"),
]
# A GPU would be built for; these tests are of machines without one.
needs_no_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has a GPU")


def environment() -> dict[str, str]:
    folders = [str(ROOT), *(str(FOLDER / each) for each in ("rtx", "onnxruntime"))]
    own = {key: value for key, value in os.environ.items() if not key.startswith("VIDETTE_")}
    return {**own, "PYTHONPATH": os.pathsep.join(folders)}


def command(data_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", "build-engine", *arguments, "--data-dir", str(data_dir), "--json"]


def build(data_dir: Path, *arguments: str) -> Mapping[str, Any]:
    """Run the command, and give what it prints."""
    done = subprocess.run(
        command(data_dir, *arguments), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=110
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def engines_in(data_dir: Path) -> Sequence[Path]:
    return sorted((data_dir / "engines").glob("*.engine"))


def asset(name: str) -> str:
    return str(ASSETS / "models" / f"{name}.onnx")


@needs_rtx
@needs_no_gpu
def test_an_engine_is_built_once_for_every_rtx_card_and_then_found(tmp_path: Path) -> None:
    built = build(tmp_path, DEMO)
    assert built["built"] is True
    identity = built["identity"]
    assert identity["gpu"] is None
    assert {"7.5", "8.6", "8.9", "12.0"} <= set(identity["compute_capability"].split("+"))
    assert (identity["min_batch"], identity["opt_batch"], identity["max_batch"]) == (1, 8, 16)
    assert "was not run for want of a GPU; its model agrees with model.onnx" in built["notes"][0]

    engine = read_engine_file(Path(built["path"]))
    assert engine.spec == resolve_model(DEMO, ROOT)
    assert len(load_plan(engine)) == built["bytes"] > 100_000

    before = engine.path.stat().st_mtime_ns
    again = build(tmp_path, DEMO)
    assert again == {**built, "built": False, "seconds": again["seconds"]}
    assert again["seconds"] < built["seconds"]
    assert engine.path.stat().st_mtime_ns == before


@needs_rtx
@needs_no_gpu
def test_what_is_damaged_or_built_for_something_else_is_built_anew(tmp_path: Path) -> None:
    out = tmp_path / "demo.engine"
    first = build(tmp_path, DEMO, "--out", str(out), "--compute-capability", "8.9")
    assert build(tmp_path, DEMO, "--out", str(out), "--compute-capability", "8.9")["built"] is False

    out.write_bytes(out.read_bytes()[:5000])
    assert build(tmp_path, DEMO, "--out", str(out), "--compute-capability", "8.9")["built"] is True
    description_path(out).unlink()
    assert build(tmp_path, DEMO, "--out", str(out), "--compute-capability", "8.9")["built"] is True

    other = build(tmp_path, DEMO, "--out", str(out), "--compute-capability", "8.9", "--max-batch", "4")
    assert other["built"] is True
    assert (first["identity"]["max_batch"], other["identity"]["max_batch"]) == (16, 4)
    assert read_engine_file(out).identity.max_batch == 4
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.name.startswith("demo")) == [".engine", ".json"]


@needs_rtx
@needs_no_gpu
def test_a_model_that_tensorrt_cannot_read_is_refused_by_its_node(tmp_path: Path) -> None:
    model = saved(bright_cells(quantised=True), tmp_path / "cells.onnx")
    done = subprocess.run(
        command(tmp_path, str(model)), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=110
    )
    # TensorRT does not quantise on the fly.
    assert done.returncode == 2
    assert "model cells cannot be built by TensorRT: node " in done.stderr
    assert "DynamicQuantizeLinear" in done.stderr
    assert engines_in(tmp_path) == []


@needs_rtx
@needs_no_gpu
def test_a_killed_build_leaves_no_engine_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """Killed where it has the plan and waits to publish it: inside the check, which runs just before."""
    code = (
        "import sys; from pathlib import Path; from app.backends.cuda.build import EngineRequest, find_or_build; "
        "from app.inference.model import resolve_model\n"
        "def check(candidate):\n"
        "    sys.stdout.write('built\\n'); sys.stdout.flush(); sys.stdin.read()\n"
        f"find_or_build(resolve_model({DEMO!r}, Path()), EngineRequest(runtime='tensorrt_rtx'), "
        f"folder=Path({str(tmp_path / 'engines')!r}), gpu=None, check=check)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment()
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"built\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
    assert engines_in(tmp_path) == []
    assert build(tmp_path, DEMO)["built"] is True
    assert len(engines_in(tmp_path)) == 1


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--max-batch", "17"), 2, "--max-batch must be 1 to 16, not 17"),
        (("--max-batch", "4", "--opt-batch", "8"), 2, "--opt-batch must be 1 to --max-batch, which is 4, not 8"),
        (("--workspace-mib", "0"), 2, "--workspace-mib must be 1 or more, not 0"),
        (("--calibrate", "."), 2, "--calibrate is for --precision int8, not fp16"),
        (("--precision", "int8"), 2, "model vidette-demo cannot be built as int8 without calibration images"),
        (("--out", "model.onnx"), 2, "--out must name a file that ends in .engine, not model.onnx"),
        (("--compute-capability", "9.0"), 1, "does not build for compute capability 9.0, only for 7.5"),
        (("--runtime", "tensorrt"), 1, "TensorRT is not installed; pip install 'vidette[cuda]'"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_sentence(
    arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path
) -> None:
    if "tensorrt" in arguments and find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    done = subprocess.run(
        command(tmp_path, DEMO, *arguments), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=110
    )
    assert done.returncode == code
    assert done.stderr.startswith("vidette: ")
    assert sentence in done.stderr
    assert engines_in(tmp_path) == []


def cases() -> Iterator[Any]:
    """Every model in FP16, and in FP32 those whose operators differ most."""
    for precision, names in (("fp16", SHARED), ("fp32", ("yolox_nano_416", "yolov10n_640_dyn"))):
        yield from (pytest.param(name, precision, marks=needs_assets) for name in names)
        yield DEMO, precision


@pytest.mark.parametrize(("name", "precision"), list(cases()))
@needs_rtx
@needs_no_gpu
def test_every_shared_model_becomes_an_engine_for_1_to_16_images(name: str, precision: str, tmp_path: Path) -> None:
    # TensorRT-RTX multiplies no FP32 matrices on Turing (7.5), and YOLOv10's attention does.
    targets = ("--compute-capability", "8.6,8.9,12.0") if precision == "fp32" else ()
    built = build(tmp_path, name if name == DEMO else asset(name), "--precision", precision, *targets)
    assert built["identity"]["precision"] == precision
    assert built["identity"]["max_batch"] == 16
    assert "its model agrees with" in built["notes"][-1]
    engine = read_engine_file(Path(built["path"]))
    assert engine.nbytes > 100_000


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_assets) for name in (*REFERENCE_AP, "nanodet_m_320")])
@needs_rtx
@needs_no_gpu
@needs_quantiser
def test_models_become_int8_engines(name: str, tmp_path: Path) -> None:
    photos = str(ASSETS / "images" / "coco_by27")
    built = build(tmp_path, asset(name), "--precision", "int8", "--calibrate", photos, "--compute-capability", "8.9")
    assert built["notes"][0] == "INT8 scales come from 27 images"
    assert "its model agrees with" in built["notes"][-1]
    assert built["identity"]["calibration"]
    # Without the images the service takes what is there.
    again = build(tmp_path, asset(name), "--precision", "int8", "--compute-capability", "8.9")
    assert (again["built"], again["sha256"]) == (False, built["sha256"])


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_assets) for name in REFERENCE_AP])
def test_fp16_keeps_the_average_precision(name: str, tmp_path: Path) -> None:
    model = to_fp16(make_batchable(load_onnx(Path(asset(name)))).model)
    onnx.save(model, str(tmp_path / f"{name}.onnx"))
    assert average_precision(tmp_path / f"{name}.onnx") == pytest.approx(REFERENCE_AP[name], abs=0.012)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param("yolox_nano_416", 0.315, marks=needs_assets),
        pytest.param("yolov8n_640_dyn", 0.44, marks=needs_assets),
    ],
)
@needs_quantiser
def test_int8_keeps_most_of_the_average_precision(name: str, least: float, tmp_path: Path) -> None:
    target = tmp_path / f"{name}.onnx"
    code = (
        "import onnx; from pathlib import Path; from app.backends.cuda.int8 import quantise\n"
        "from app.backends.int8.calibration import calibration_set\n"
        "from app.inference.model import read_onnx; from app.inference.onnx_file import load_onnx\n"
        "from app.inference.onnx_batch import make_batchable\n"
        f"spec = read_onnx(Path({asset(name)!r})); photos = Path({str(ASSETS / 'images' / 'coco_by27')!r})\n"
        "model = make_batchable(load_onnx(spec.path)).model\n"
        "quantised = quantise(spec, model, calibration_set(photos), on_progress=lambda sentence: None)\n"
        f"onnx.save(quantised, {str(target)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment(), timeout=110)
    assert average_precision(target) >= least


def average_precision(model: Path) -> float:
    detector = open_cpu_detector(str(model), model.parent, iou=0.65, precision="fp32", tune=False)
    _, images, result = asyncio.run(evaluate(detector, ASSETS / "images" / "coco_by27", 4))
    assert images == 27
    return result.ap
