"""What the CUDA backend's probes say of machines that lack one thing or another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.backends.cuda.probe import Engine, cuda_availability, examine, probe_parts, runtime_for
from tests.support.cuda_host import CUDA_EXTRA, FakeGpu, FakeLibcuda, make_host

H100 = FakeGpu("NVIDIA H100 PCIe", (9, 0), 80 * 2**30)
RTX_4090 = FakeGpu("NVIDIA GeForce RTX 4090", (8, 9), 24 * 2**30)
RTX_ONLY = {
    **{name: version for name, version in CUDA_EXTRA.items() if name != "tensorrt"},
    "tensorrt_rtx": "1.7.1.116",
}


@pytest.fixture
def fatbin(tmp_path: Path) -> Path:
    path = tmp_path / "vidette.fatbin"
    path.write_bytes(b"kernels")
    return path


def without(*names: str) -> Mapping[str, str]:
    return {name: version for name, version in CUDA_EXTRA.items() if name not in names}


def reason(fatbin: Path, part: str, **host: Any) -> str:
    found = examine(make_host(fatbin, **host)).part(part)
    assert not found.available
    return found.reason


def test_a_machine_with_everything_runs_the_backend(fatbin: Path) -> None:
    report = examine(make_host(fatbin, libcuda=FakeLibcuda()))
    assert [part.name for part in report.parts if not part.available] == ["tensorrt_rtx"]
    assert report.part("driver").reason == (
        "NVIDIA driver 580.65.06 for CUDA 13.0: NVIDIA L4 (compute capability 8.9, 23 GiB)"
    )
    assert report.driver.gpus[0].pci_bus_id == "0000:31:00.0"
    assert report.nvdec.available
    answer = cuda_availability(report)
    assert (answer.name, answer.available) == ("cuda", True)
    assert answer.reason == "NVIDIA L4 (compute capability 8.9, 23 GiB), TensorRT 10.16.1.11"


def test_the_parts_come_in_the_order_in_which_to_mend_them(fatbin: Path) -> None:
    assert [part.name for part in examine(make_host(fatbin)).parts] == [
        "driver",
        "nvdec",
        "tensorrt",
        "tensorrt_rtx",
        "pycuda",
        "PyNvVideoCodec",
        "cuda-bindings",
        "nvidia-ml-py",
        "kernels",
    ]


# The driver


def test_no_driver_is_a_sentence(fatbin: Path) -> None:
    assert reason(fatbin, "driver", kernel_module=None) == "no NVIDIA driver is installed: there is no libcuda.so.1"
    assert reason(fatbin, "nvdec", kernel_module=None, libraries=()) == (
        "libnvcuvid.so.1 and libnvidia-encode.so.1 are missing; they come with the NVIDIA driver"
    )


def test_a_container_without_the_driver_s_libraries_is_told_how_to_get_them(fatbin: Path) -> None:
    assert reason(fatbin, "driver") == (
        "the kernel has NVIDIA driver 580.65.06, but there is no libcuda.so.1: "
        "install the rest of the driver, or start the container with --gpus all"
    )


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "the NVIDIA driver finds no GPU (CUDA_ERROR_NO_DEVICE)"),
        (
            {"CUDA_VISIBLE_DEVICES": ""},
            (
                "the NVIDIA driver shows no GPU (CUDA_ERROR_NO_DEVICE): "
                "CUDA_VISIBLE_DEVICES is empty, which hides every GPU"
            ),
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "7"},
            "the NVIDIA driver shows no GPU (CUDA_ERROR_NO_DEVICE): CUDA_VISIBLE_DEVICES is 7, which no GPU answers to",
        ),
    ],
)
def test_a_driver_without_a_device_is_another_sentence(fatbin: Path, environ: dict[str, str], sentence: str) -> None:
    assert reason(fatbin, "driver", libcuda=FakeLibcuda(init_error=100), environ=environ) == sentence
    assert reason(fatbin, "driver", libcuda=FakeLibcuda(gpus=[]), environ=environ) == sentence


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (34, "the NVIDIA driver does not start: CUDA_ERROR_STUB_LIBRARY; that library is the CUDA toolkit's stub"),
        (999, "the NVIDIA driver does not start: CUDA_ERROR_UNKNOWN; /dev/nvidia-uvm may be missing"),
        (4321, "the NVIDIA driver does not start: error 4321"),
    ],
)
def test_a_driver_that_does_not_start_gives_its_error_and_what_to_do(fatbin: Path, code: int, sentence: str) -> None:
    assert reason(fatbin, "driver", libcuda=FakeLibcuda(init_error=code)).startswith(sentence)


def test_a_library_that_is_no_driver_is_a_sentence(fatbin: Path) -> None:
    assert reason(fatbin, "driver", libcuda=object()).startswith("libcuda.so.1 is no NVIDIA driver, or a broken one: ")


def test_a_driver_that_is_too_old_is_a_sentence(fatbin: Path) -> None:
    old = FakeLibcuda(cuda=11040)
    assert reason(fatbin, "driver", libcuda=old, kernel_module=None) == (
        "NVIDIA driver for CUDA 11.4 is too old; CUDA 12.0 or newer is needed"
    )


def test_a_gpu_that_is_too_old_is_a_sentence(fatbin: Path) -> None:
    v100 = FakeLibcuda(gpus=[FakeGpu("Tesla V100", (7, 0), 16 * 2**30)])
    assert reason(fatbin, "driver", libcuda=v100) == (
        "Tesla V100 (compute capability 7.0, 16 GiB) is too old; compute capability 7.5 or newer is needed"
    )


def test_the_gpu_that_the_settings_name_is_the_one_that_counts(fatbin: Path) -> None:
    host = make_host(fatbin, libcuda=FakeLibcuda(gpus=[RTX_4090, H100]))
    assert (
        examine(host, gpu=1)
        .part("driver")
        .reason.endswith("NVIDIA H100 PCIe (compute capability 9.0, 80 GiB), one of 2 GPUs")
    )
    assert cuda_availability(examine(host, gpu=1), gpu=1).available
    answer = cuda_availability(examine(host, gpu=2), gpu=2)
    assert answer.reason == (
        "backend.gpu is 2, but the driver shows 2 GPUs (0: NVIDIA GeForce RTX 4090, 1: NVIDIA H100 PCIe)"
    )


# What comes with the driver, and what comes with pip


def test_without_the_video_libraries_the_backend_runs_and_decodes_in_software(fatbin: Path) -> None:
    report = examine(make_host(fatbin, libcuda=FakeLibcuda(), libraries=("libnvcuvid.so.1",)))
    missing = "libnvidia-encode.so.1 is missing; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
    assert (report.nvdec.available, report.nvdec.reason) == (False, missing)
    answer = cuda_availability(report)
    assert answer.available
    assert answer.reason.endswith(f"; video is decoded in software: {missing}")


def test_without_pynvvideocodec_the_backend_runs_and_decodes_in_software(fatbin: Path) -> None:
    report = examine(make_host(fatbin, libcuda=FakeLibcuda(), packages=without("PyNvVideoCodec", "nvidia-ml-py")))
    assert cuda_availability(report).available
    assert report.nvdec.reason == "PyNvVideoCodec is not installed; pip install 'vidette[cuda]'"


@pytest.mark.parametrize("name", ["pycuda", "cuda-bindings"])
def test_a_package_that_is_missing_makes_the_backend_unavailable(fatbin: Path, name: str) -> None:
    answer = cuda_availability(examine(make_host(fatbin, libcuda=FakeLibcuda(), packages=without(name))))
    assert (answer.available, answer.reason) == (False, f"{name} is not installed; pip install 'vidette[cuda]'")


def test_all_that_is_missing_is_in_one_reason(fatbin: Path) -> None:
    answer = cuda_availability(examine(make_host(fatbin.with_name("none"), packages={}, kernel_module=None)))
    assert answer.reason == (
        "no NVIDIA driver is installed: there is no libcuda.so.1; "
        "TensorRT, pycuda, cuda-bindings are not installed; pip install 'vidette[cuda]'; "
        "none is not in this installation; python scripts/build_kernels.py makes it, with nvcc"
    )


def test_a_package_of_unknown_version_is_taken(fatbin: Path) -> None:
    host = make_host(fatbin, libcuda=FakeLibcuda(), packages={**CUDA_EXTRA, "tensorrt": "", "cuda-bindings": ""})
    assert examine(host).part("tensorrt").reason == "of an unknown version"
    assert cuda_availability(examine(host)).available


@pytest.mark.parametrize(
    ("version", "fits"), [("8.5.3", False), ("8.6.0", True), ("8.6.1.post1", True), ("11.4.0", True), ("12.0", False)]
)
def test_tensorrt_is_supported_from_8_6_to_11(fatbin: Path, version: str, fits: bool) -> None:
    host = make_host(fatbin, libcuda=FakeLibcuda(), packages={**CUDA_EXTRA, "tensorrt": version})
    assert examine(host).part("tensorrt").available == fits
    answer = cuda_availability(examine(host))
    assert answer.available == fits
    assert fits or answer.reason == f"TensorRT {version} is not supported; 8.6 to 11 are"


@pytest.mark.parametrize(
    ("packages", "sentence"),
    [
        (
            {"tensorrt-cu13-bindings": "11.4.0.106", "tensorrt": "11.4.0.106"},
            (
                "TensorRT 11.4.0.106 is for CUDA 13, but this is NVIDIA driver 580.65.06 for CUDA 12.4; "
                "pip install 'tensorrt-cu12'"
            ),
        ),
        (
            {"cuda-bindings": "13.5.0"},
            (
                "cuda-bindings 13.5.0 is for CUDA 13, but this is NVIDIA driver 580.65.06 for CUDA 12.4; "
                "pip install 'cuda-bindings<13'"
            ),
        ),
    ],
)
def test_a_package_for_a_newer_cuda_than_the_driver_s_is_refused(
    fatbin: Path, packages: dict[str, str], sentence: str
) -> None:
    packages = {**CUDA_EXTRA, **packages}
    answer = cuda_availability(examine(make_host(fatbin, libcuda=FakeLibcuda(cuda=12040), packages=packages)))
    assert (answer.available, answer.reason) == (False, sentence)
    assert cuda_availability(examine(make_host(fatbin, libcuda=FakeLibcuda(), packages=packages))).available


# TensorRT-RTX


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 5), True),
        ((8, 0), False),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), False),
        ((10, 0), False),
        ((12, 0), True),
    ],
)
def test_tensorrt_rtx_runs_on_geforce_and_rtx_gpus_alone(fatbin: Path, capability: tuple[int, int], runs: bool) -> None:
    libcuda = FakeLibcuda(gpus=[FakeGpu("GPU", capability)])
    answer = cuda_availability(examine(make_host(fatbin, libcuda=libcuda, packages=RTX_ONLY)))
    assert answer.available == runs
    assert ("TensorRT-RTX 1.7.1.116" if runs else "TensorRT-RTX does not run on GPU (compute cap") in answer.reason


@pytest.mark.parametrize(
    ("gpu", "engine", "name", "available"),
    [
        (RTX_4090, "auto", "tensorrt", True),
        (RTX_4090, "tensorrt_rtx", "tensorrt_rtx", True),
        (H100, "auto", "tensorrt", True),
        (H100, "tensorrt_rtx", "tensorrt_rtx", False),
    ],
)
def test_the_engine_that_the_settings_name_is_the_one_that_runs(
    fatbin: Path, gpu: FakeGpu, engine: Engine, name: str, available: bool
) -> None:
    report = examine(make_host(fatbin, libcuda=FakeLibcuda(gpus=[gpu]), packages={**CUDA_EXTRA, **RTX_ONLY}))
    runtime = runtime_for(report, engine=engine)
    assert (runtime.name, runtime.available) == (name, available)
    answer = cuda_availability(report, engine=engine)
    assert answer.available == available
    assert available or answer.reason == (
        "TensorRT-RTX does not run on NVIDIA H100 PCIe (compute capability 9.0, 80 GiB), only on GeForce and RTX GPUs "
        "(compute capability 7.5, 8.6, 8.9 or 12); "
        "there, use TensorRT (pip install 'vidette[cuda]', backend.engine auto or tensorrt)"
    )


@pytest.mark.parametrize(
    ("packages", "engine", "sentence"),
    [
        (RTX_ONLY, "tensorrt", "TensorRT is not installed; pip install 'vidette[cuda]'"),
        (CUDA_EXTRA, "tensorrt_rtx", "TensorRT-RTX is not installed; pip install 'vidette[rtx]'"),
        (without("tensorrt"), "tensorrt_rtx", "TensorRT-RTX is not installed; pip install 'vidette[rtx]'"),
        (without("tensorrt"), "auto", "TensorRT is not installed; pip install 'vidette[cuda]'"),
    ],
)
def test_an_engine_that_is_not_installed_is_named_with_how_to_get_it(
    fatbin: Path, packages: Mapping[str, str], engine: Engine, sentence: str
) -> None:
    report = examine(make_host(fatbin, libcuda=FakeLibcuda(gpus=[RTX_4090]), packages=packages))
    assert cuda_availability(report, engine=engine).reason == sentence


# This machine, whatever it is


def test_every_part_of_this_machine_answers_with_a_sentence() -> None:
    parts = probe_parts()
    assert len(parts) == 9
    assert all(part.reason for part in parts)


def test_the_probes_import_no_package_of_nvidia_s() -> None:
    code = (
        "import sys; from app.backends.cuda.probe import probe_parts; probe_parts(); "
        "print(sorted({'tensorrt', 'tensorrt_rtx', 'pycuda', 'PyNvVideoCodec', 'pynvml', 'cuda.bindings'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
