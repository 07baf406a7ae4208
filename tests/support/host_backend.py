"""The whole CUDA backend on host memory: its kernels compiled for the host, OpenVINO for TensorRT, FFmpeg for NVDEC."""

from __future__ import annotations

from app.backends.base import OnProgress
from app.backends.cuda.backend import CudaBackend, Libraries
from app.backends.cuda.driver import Driver
from app.backends.cuda.engine_file import EngineFile, Identity
from app.backends.cuda.nvml import GpuSampler
from app.inference.model import resolve_model
from app.settings import Settings
from tests.support.fake_nvdec import FakeNvdec
from tests.support.host_driver import HostDriver
from tests.support.host_engine import HostEngine


def host_backend(settings: Settings, driver: HostDriver) -> CudaBackend:
    """A backend for the model of the settings, on this driver."""
    return CudaBackend(settings, host_libraries(driver))


def host_libraries(driver: HostDriver) -> Libraries:
    """What stands in for the device's libraries."""

    def find_engine(settings: Settings, driver: Driver, on_progress: OnProgress) -> EngineFile:
        spec = resolve_model(settings.model, settings.models_dir)
        identity = Identity(
            model_sha256=spec.sha256,
            runtime="tensorrt",
            runtime_version="0.0.0",
            gpu=driver.name,
            compute_capability="9.0",
            precision="fp32",
            min_batch=1,
            opt_batch=8,
            max_batch=16,
            input_width=spec.input_width,
            input_height=spec.input_height,
        )
        return EngineFile(path=spec.path, identity=identity, spec=spec, sha256="0" * 64, nbytes=1)

    return Libraries(
        open_driver=lambda _index: driver,
        find_engine=find_engine,
        load_engine=lambda file, _driver: HostEngine(file.spec, driver, max_batch=4),
        load_nvdec=lambda _driver: FakeNvdec(driver),
        open_nvml=lambda _gpu: GpuSampler(()),
    )
