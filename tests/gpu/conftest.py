"""A real GPU for the tests in this folder; without one they skip and say what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.backends.base import Backend
from app.backends.cuda.driver import Driver
from app.backends.cuda.probe import Report, cuda_availability, examine
from app.cameras.source import FrameSource, SourceRequest
from app.commands.clips import render_clip
from app.inference.detector import Detector
from app.settings import Settings, load_settings
from app.types import Detections, Frame, SourceFrame

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def report() -> Report:
    return examine()


@pytest.fixture(scope="session")
def gpu(report: Report) -> Report:
    """A machine where the whole backend can run."""
    answer = cuda_availability(report)
    if not answer.available:
        pytest.skip(answer.reason)
    return report


@pytest.fixture
def driver(report: Report) -> Iterator[Driver]:
    """The device itself; TensorRT need not be there."""
    for name in ("driver", "pycuda", "kernels"):
        if not report.part(name).available:
            pytest.skip(f"{name}: {report.part(name).reason}")
    from app.backends.cuda.pycuda_driver import PycudaDriver

    opened = PycudaDriver()
    try:
        with opened.bound():
            yield opened
    finally:
        opened.close()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn street scene that the shipped model knows, H.264."""
    return render_clip(tmp_path_factory.mktemp("clips") / "plaza.mp4", "plaza", seconds=6.0)


@pytest.fixture(scope="session")
def data_dir_of_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines are built once for all tests."""
    return tmp_path_factory.mktemp("engines")


def cuda_settings(data_dir: Path, **backend: Any) -> Settings:
    overrides = {
        "data_dir": data_dir,
        "models_dir": ROOT / "models",
        "model": "vidette-demo",
        "media_dir": "/",
        "backend": {"device": "cuda", **backend},
    }
    return load_settings(overrides=overrides, environ={})


@dataclass(frozen=True)
class Opened:
    """A backend with its detector."""

    backend: Backend[Any]
    detector: Detector[Any]

    async def over_clip(self, clip: Path, *, every: int, min_score: float = 0.05) -> dict[float, Detections]:
        """What is found in every n-th picture of a clip, by the picture's time. Pictures are taken one by one."""
        loop = asyncio.get_running_loop()

        def detect(source: FrameSource[Any]) -> dict[float, Detections]:
            found: dict[float, Detections] = {}
            for number, picture in enumerate(pictures(source)):
                try:
                    if number % every == 0 and picture.pts_s is not None:
                        work = self.detector.detect([numbered(picture, number)], min_scores=[min_score])
                        (result,) = asyncio.run_coroutine_threadsafe(work, loop).result()
                        found[round(picture.pts_s, 3)] = result
                finally:
                    picture.surface.release()
            return found

        return await asyncio.to_thread(detect, self.backend.open_source(file_camera(clip)))


def file_camera(clip: Path, camera_id: str = "gate-1") -> SourceRequest:
    return SourceRequest(camera_id=camera_id, url=f"file:{str(clip).lstrip('/')}", media_dir=Path("/"))


def pictures(source: FrameSource[Any]) -> Iterator[SourceFrame[Any]]:
    """All of a file's pictures; closes the source."""
    from app.errors import SourceError, SourceErrorCode

    try:
        yield from source.frames()
    except SourceError as exc:
        if exc.code is not SourceErrorCode.END_OF_STREAM:
            raise
    finally:
        source.close()


def numbered(picture: SourceFrame[Any], number: int) -> Frame[Any]:
    return Frame(camera_id="gate-1", seq=number + 1, pts_s=picture.pts_s, times=picture.times, surface=picture.surface)


@pytest.fixture
async def on_cpu(tmp_path: Path) -> AsyncIterator[Opened]:
    from app.backends.cpu.backend import CpuBackend

    settings = await asyncio.to_thread(cuda_settings, tmp_path / "cpu")  # reads files
    backend = CpuBackend(settings.model_copy(update={"backend": Settings.model_fields["backend"].default}))
    detector = await asyncio.to_thread(backend.open_detector)
    yield Opened(backend, detector)
    await detector.aclose()


@pytest.fixture
async def on_gpu(gpu: Report, data_dir_of_engines: Path, request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    """The CUDA backend with the settings that a test's `cuda` marker-like parameter names."""
    from app.backends.cuda.backend import CudaBackend

    settings = await asyncio.to_thread(cuda_settings, data_dir_of_engines, **getattr(request, "param", {}))
    backend = CudaBackend(settings)
    detector = await asyncio.to_thread(backend.open_detector)
    yield Opened(backend, detector)
    await detector.aclose()
