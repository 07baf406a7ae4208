"""The CUDA backend's detector on host memory: everything but the device, TensorRT and NVDEC is the real thing."""

from __future__ import annotations

from pathlib import Path

from app.backends.cuda.contexts import LoadedModel, batch_sizes
from app.backends.cuda.detector import CudaDetector, EngineOrigin, Plan, open_cuda_detector
from app.backends.cuda.surface import CudaSurface
from app.inference.model import ModelSpec, read_onnx
from app.types import BgrImage
from tests.support.device_surfaces import upload_bgr
from tests.support.host_driver import HostDriver
from tests.support.host_engine import HostEngine
from tests.support.host_kernels import host_module

ORIGIN = EngineOrigin(backend="tensorrt", precision="fp32", notes=("OpenVINO in TensorRT's place",))


class HostCuda:
    """A model loaded on a `HostDriver`, and the detectors that are made of it."""

    def __init__(
        self, model: Path | ModelSpec, *, driver: HostDriver | None = None, max_batch: int = 16, iou: float = 0.45
    ) -> None:
        spec = read_onnx(model) if isinstance(model, Path) else model
        self.driver = driver or HostDriver()
        with self.driver.bound():
            self.engine = HostEngine(spec, self.driver, max_batch=max_batch)
            self.model = LoadedModel(
                spec=spec,
                driver=self.driver,
                engine=self.engine,
                module=host_module().bound_to(self.driver),
                iou=iou,
                sizes=batch_sizes(self.engine.max_batch),
            )
        self._pictures: list[CudaSurface] = []

    def upload(self, image: BgrImage) -> CudaSurface:
        """A picture in the driver's memory; `free_pictures` frees it when nobody else did."""
        self._pictures.append(upload_bgr(image, self.driver))
        return self._pictures[-1]

    def free_pictures(self) -> None:
        while self._pictures:
            self._pictures.pop().release()

    def open(self, plan: Plan | None = None, *, max_batch: int = 16) -> CudaDetector:
        """Open a detector, not measured unless `plan` says so. Blocking. It closes the engine when it closes."""
        with self.driver.bound():
            return open_cuda_detector(
                self.model,
                ORIGIN,
                plan=plan or Plan(contexts=2, tune=False),
                max_batch=max_batch,
                on_closed=self.engine.close,
            )
