"""Every call that the CUDA backend makes on NVIDIA's packages, held against the real packages' own signatures.

mypy does it, with stubs that are written from the wheels of `make cuda-wheels`: see tests/support/stub_writer.py.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from app.backends.cuda import builder, nvdec
from tests.support.conformance import Finding, Findings, check
from tests.support.real_wheels import NVML, NVTX, ROOT, SETS, RealModule, environment, wheels, write_stubs

CUDA = ROOT / "app" / "backends" / "cuda"
# All files that touch one of the packages: a test below holds this list complete.
CALLERS = tuple(
    CUDA / f"{name}.py"
    for name in ("build", "builder", "graphs", "nvdec", "nvml", "pycuda_driver", "tensorrt_engine", "tensorrt_log")
)
# Read by its own test: its calls go to objects that the package does not name.
NVTX_CALLER = ROOT / "app" / "nvtx.py"
OWN_IMPORTER = ROOT / "scripts" / "gate" / "steps.py"  # imports the gate's own steps, by name
PACKAGES = ("tensorrt", "tensorrt_rtx", "pycuda", "PyNvVideoCodec", "cuda", "pynvml", "nvtx", "nvidia_modules")

EIGHT, TEN, ELEVEN, RTX_ = "TensorRT 8.6", "TensorRT 10.16", "TensorRT 11", "TensorRT-RTX"
# What the code uses only where it is there, and where it is not. A row too many fails as well as one too few.
ABSENT: Mapping[str, set[str]] = {
    "BuilderFlag.FP16": {ELEVEN, RTX_},
    "BuilderFlag.INT8": {ELEVEN, RTX_},
    "IBuilderConfig.num_compute_capabilities": {EIGHT, TEN, ELEVEN},
    "IBuilderConfig.progress_monitor": {EIGHT},
    "IBuilderConfig.set_compute_capability": {EIGHT, TEN, ELEVEN},
    "ICudaEngine.create_execution_context_without_device_memory": {ELEVEN, RTX_},
    "ICudaEngine.create_runtime_config": {EIGHT},
    "ICudaEngine.device_memory_size": {ELEVEN, RTX_},
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": {TEN, ELEVEN},
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": {ELEVEN, RTX_},
    "PreviewFeature.PROFILE_SHARING_0806": {ELEVEN, RTX_},
    "TensorRt.ComputeCapability": {EIGHT, TEN, ELEVEN},
}
# Calls that a version refuses and is never asked for: file, mypy's words, versions.
REFUSED = {
    ("tensorrt_engine.py", 'Too many arguments for "create_execution_context" of "ICudaEngine"  [call-arg]'): {EIGHT}
}
# Names that are looked for at run time, and base classes, which mypy does not follow. Where they are.
LOOKED_FOR: Mapping[str, set[str]] = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION": {RTX_},
    "DynamicShapesKernelSpecializationStrategy.EAGER": {RTX_},
    "ExecutionContextAllocationStrategy.USER_MANAGED": {TEN, ELEVEN, RTX_},
    "ICudaEngine.device_memory_size_v2": {TEN, ELEVEN, RTX_},
    "IExecutionContext.set_device_memory": {TEN, ELEVEN, RTX_},
    "ILogger.log": {EIGHT, TEN, ELEVEN, RTX_},
    "IProgressMonitor.phase_finish": {TEN, ELEVEN, RTX_},
    "IProgressMonitor.phase_start": {TEN, ELEVEN, RTX_},
    "IProgressMonitor.step_complete": {TEN, ELEVEN, RTX_},
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": {TEN, ELEVEN, RTX_},
    "TacticSource.CUBLAS": {EIGHT, TEN},
    "TacticSource.CUBLAS_LT": {EIGHT, TEN},
    "TacticSource.CUDNN": {EIGHT, TEN},
}
OWN_NAMES = {"errors"}  # of ours, not of a package
# Expressions that mypy knows nothing of because they are of onnx, or of a class that is made at run time.
FOREIGN = {"error", "job.model", "messages", "model", "monitor", "node"}

IMPORTS = """\
import tensorrt
import pycuda.driver as cuda
from nvidia_modules import CudaBindings, Nvml, NvVideoCodec, TensorRt
"""
PARAMETERS = (
    "trt: TensorRt, engine: tensorrt.ICudaEngine, log: tensorrt.ILogger, "
    "codec: NvVideoCodec, graphs: CudaBindings, nvml: Nvml"
)
WRONG = {
    "trt.Builder(log).create_network(flagz=1)": "Unexpected keyword argument",
    "trt.Builder(log).create_netwerk(1)": "Builder.create_netwerk",
    "engine.create_execution_context().execute_async_v3('stream')": "incompatible type",
    "trt.OnnxParser(log, log)": "incompatible type",
    "trt.Runtime(log).deserialise_cuda_engine(b'')": "Runtime.deserialise_cuda_engine",
    "codec.CreateDecoder(gpuid=0, usedevicemem=True)": "No overload variant",
    "codec.PacketData().bsl_size = 1": "PacketData.bsl_size",
    "cuda.Event(0).record(strem=None)": "Unexpected keyword argument",
    "cuda.memcpy_dtoh_async(1)": "Missing positional argument",
    "cuda.Memcpy2D().set_src_dev(1)": "Memcpy2D.set_src_dev",
    "graphs.cuGraphInstantiate(1, 0, 3)": "Too many arguments",
    "a, b = graphs.cuGraphGetNodes(1)": "Too many values to unpack",
    "nvml.nvmlDeviceGetNane(1)": "Nvml.nvmlDeviceGetNane",
}
RIGHT = (
    "trt.Builder(log).create_network(flags=1)",
    "engine.create_execution_context().execute_async_v3(stream_handle=5)",
    "codec.CreateDecoder(gpuid=0, usedevicememory=True)",
    "cuda.Event(0).record(stream=None)",
    "a, b, c = graphs.cuGraphGetNodes(1)",
    "nvml.nvmlDeviceGetName(1)",
)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real-wheels")


@cache
def stubs(versions: str, scratch: Path) -> Path:
    folder = scratch / versions
    write_stubs(SETS[versions], folder, scratch)
    return folder


@cache
def findings(versions: str, scratch: Path) -> Findings:
    return check(CALLERS, stubs=stubs(versions, scratch), scratch=scratch)


@pytest.mark.parametrize("versions", SETS)
def test_every_call_fits_the_real_signatures(versions: str, scratch: Path) -> None:
    wrong = [each for each in findings(versions, scratch).wrong if versions not in REFUSED.get(_key(each), set())]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("versions", SETS)
def test_a_name_is_missing_only_where_the_code_knows_it(versions: str, scratch: Path) -> None:
    absent = findings(versions, scratch).absent
    known = {name for name, where in ABSENT.items() if versions in where}
    assert {each.text for each in absent} == known, "\n".join(str(each) for each in absent if each.text not in known)


def test_no_call_escapes_the_check(scratch: Path) -> None:
    unseen = [{(each.path, each.place): each for each in findings(versions, scratch).unseen} for versions in SETS]
    everywhere = [each for key, each in unseen[0].items() if all(key in found for found in unseen)]
    escaped = [str(each) for each in everywhere if each.text not in FOREIGN]
    assert not escaped, "mypy knows no type of:\n" + "\n".join(escaped)


def test_no_other_file_touches_the_packages() -> None:
    touching = {path for path in ROOT.joinpath("app").rglob("*.py") if _touches(path)}
    scripts = {path for path in ROOT.joinpath("scripts").rglob("*.py") if _touches(path)}
    assert (touching | scripts) - {OWN_IMPORTER} == {*CALLERS, NVTX_CALLER}


@pytest.mark.parametrize("versions", [EIGHT, ELEVEN])
def test_the_check_sees_every_wrong_call_and_no_right_one(versions: str, scratch: Path) -> None:
    path = scratch / "called.py"
    bodies = [f"def called_{number}({PARAMETERS}) -> None: {call}\n" for number, call in enumerate((*WRONG, *RIGHT))]
    path.write_text(IMPORTS + "".join(bodies))
    found = check([path], stubs=stubs(versions, scratch), scratch=scratch)
    told = {each.place[0] - IMPORTS.count("\n") - 1: each.text for each in (*found.absent, *found.wrong)}
    assert {call: told.get(number) for number, call in enumerate(RIGHT, len(WRONG))} == dict.fromkeys(RIGHT)
    for number, (call, complaint) in enumerate(WRONG.items()):
        assert complaint in told.get(number, ""), f"{call}: {told.get(number)}"


@pytest.mark.parametrize("versions", SETS)
def test_names_that_are_looked_for_exist_where_they_are_used(versions: str, scratch: Path) -> None:
    names = _names(SETS[versions][0], LOOKED_FOR, scratch)
    assert {name for name, there in names.items() if there} == {
        name for name, where in LOOKED_FOR.items() if versions in where
    }


def test_every_name_that_is_looked_for_is_in_a_table() -> None:
    looked_for = {name for path in CALLERS for name in _looked_for(path)}
    tabled = {part for name in (*LOOKED_FOR, *ABSENT) for part in name.split(".")}
    assert looked_for - OWN_NAMES <= tabled
    assert {f"TacticSource.{name}" for name in builder._TACTIC_LIBRARIES} <= set(LOOKED_FOR)


@pytest.mark.parametrize("versions", [EIGHT, ELEVEN])
def test_the_video_codec_has_the_names_that_nvdec_looks_for(versions: str, scratch: Path) -> None:
    names = {
        *(f"cudaVideoCodec.{name}" for name in nvdec.CODECS.values()),
        *(f"cudaVideoChromaFormat.{name}" for name in nvdec._CHROMAS.values()),
        *(f"Pixel_Format.{name}" for name in nvdec._PIXELS),
    }
    module = next(each for each in SETS[versions] if each.name == "PyNvVideoCodec")
    assert all((found := _names(module, names, scratch)).values()), found


def test_nvml_readings_have_the_fields_that_are_read(scratch: Path) -> None:
    names = ("c_nvmlUtilization_t.gpu", "c_nvmlMemory_t.used", "c_nvmlMemory_t.total")
    assert all(_names(NVML, names, scratch).values())


def test_nvtx_domains_take_what_we_give_them(scratch: Path) -> None:
    wheels(NVTX.folder)
    program = (
        "import inspect, nvtx; from nvtx._lib.lib import Domain;"
        "bound = lambda f, *a, **k: inspect.signature(f).bind(*a, **k);"
        "bound(nvtx.get_domain, 'vidette'); bound(Domain.get_event_attributes, None, message='infer');"
        "bound(Domain.push_range, None, 1); bound(Domain.pop_range, None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(NVTX, scratch), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _key(finding: Finding) -> tuple[str, str]:
    return finding.path.name, finding.text


def _touches(path: Path) -> bool:
    """Whether the file imports one of the packages, by a statement or by name, or uses TensorRT as it was handed in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.level == 0 else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(each.value) for each in node.args if isinstance(each, ast.Constant)] or list(PACKAGES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "trt":
            names = ["tensorrt"]  # handed in: the module that another file imported
        else:
            continue
        if any(name.partition(".")[0] in PACKAGES for name in names):
            return True
    return False


def _looked_for(path: Path) -> Iterator[str]:
    """The names that the file gives to `hasattr` and `getattr`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def _names(module: RealModule, names: Collection[str], scratch: Path) -> dict[str, bool]:
    """Whether the real module has each of these dotted names."""
    program = (
        "import functools, importlib, json, os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n"
        f"module = importlib.import_module({module.source!r})\n"
        "def has(name):\n"
        "    try: functools.reduce(getattr, name.split('.'), module)\n"
        "    except AttributeError: return False\n"
        "    return True\n"
        f"print(json.dumps({{name: has(name) for name in {sorted(names)!r}}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(module, scratch), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found
