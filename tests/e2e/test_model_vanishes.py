"""A model's files are removed or replaced: while it runs, while it warms up, and before the next start."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.backends.select import probe_cpu
from app.simulator.process import SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.serve_process import ROOT, SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = [pytest.mark.alone, pytest.mark.skipif(not probe_cpu().available, reason=probe_cpu().reason)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorProcess]:
    with SimulatorProcess([write_test_clip(tmp_path / "street.mp4", fps=15)], cameras=1) as simulator:
        yield simulator


def published(service: ServeProcess) -> int:
    return int(service.frames()["a"]["published"])


def test_a_running_model_needs_its_file_no_more(tmp_path: Path, models: Path, simulator: SimulatorProcess) -> None:
    data_dir, environ = tmp_path / "data", {**SETTLED, "VIDETTE_MODELS_DIR": str(models)}
    with ServeProcess(data_dir, environ=environ) as service:
        service.register(id="a", url=simulator.url("cam0"))
        service.wait_running("a")
        before = service.get("/api/v1/models")
        for spoil in (
            lambda: (models / "vidette-demo" / "model.onnx").write_bytes(b"no model"),
            lambda: shutil.rmtree(models),
        ):
            spoil()
            seen = published(service)
            wait_in_thread(lambda seen=seen: published(service) > seen + 10, 20)  # type: ignore[misc]
            assert service.get("/api/v1/models") == before
        assert service.terminate() == 0
    again = ServeProcess(data_dir, environ=environ)
    again.start()
    assert again.process.wait(60) == 2
    assert "vidette: model vidette-demo is neither a file nor one of the models" in again.log()
    assert "Traceback" not in again.log()


def test_a_model_that_vanishes_while_it_warms_up_ends_the_start_with_a_sentence_or_is_not_missed(
    tmp_path: Path, models: Path
) -> None:
    service = ServeProcess(tmp_path / "data", environ={"VIDETTE_MODELS_DIR": str(models)})
    try:
        service.start()
        wait_in_thread(lambda: "backend cpu:" in service.log(), 60)
        shutil.rmtree(models)
        wait_in_thread(lambda: service.process.poll() is not None or "vidette.service ready:" in service.log(), 60)
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(12) == 0
        else:
            assert service.process.returncode == 2
            assert "vidette: " in service.log()
        assert "Traceback" not in service.log()
    finally:
        service.__exit__(None, None, None)
