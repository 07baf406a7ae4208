"""Which backend runs, and why."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from app.backends import select
from app.backends.cuda.probe import examine
from app.backends.select import choose, probe_all, probe_cpu, probe_cuda
from app.errors import BackendUnavailable
from app.settings import BackendSettings
from app.types import Availability
from tests.support.app import make_settings

CUDA, NVDEC = probe_cuda(), examine().nvdec


def with_probes(monkeypatch: pytest.MonkeyPatch, **answers: bool) -> None:
    said = [Availability(name=name, available=yes, reason=f"{name} says so") for name, yes in answers.items()]
    probes = tuple((lambda _, answer=answer: answer) for answer in said)
    monkeypatch.setattr(select, "PROBES", probes)


def test_every_backend_answers_with_a_reason() -> None:
    answers = {answer.name: answer for answer in probe_all()}
    assert list(answers) == ["cuda", "cpu", "synthetic"]
    assert all(answer.reason for answer in answers.values())


def test_the_synthetic_backend_runs_only_when_it_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_probes(monkeypatch, cuda=False, cpu=False, synthetic=True)
    choice = choose(make_settings(data_dir))
    assert (choice.backend.name, choice.reason) == ("synthetic", "backend.device is synthetic")
    assert choice.backend.probe().available
    with pytest.raises(BackendUnavailable, match="backend auto is not available: cuda: cuda says so; cpu: cpu says so"):
        choose(make_settings(data_dir, backend={"device": "auto"}))


@pytest.mark.skipif(not probe_cpu().available, reason="the CPU backend's packages are not installed")
def test_auto_takes_the_best_available_and_says_what_it_passed_over(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_probes(monkeypatch, cuda=False, cpu=True, synthetic=True)
    choice = choose(make_settings(data_dir, backend={"device": "auto"}))
    assert (choice.backend.name, choice.reason) == ("cpu", "the best available (cuda: cuda says so)")


def test_a_named_backend_is_never_replaced_by_another_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_probes(monkeypatch, cuda=False, cpu=True, synthetic=True)
    with pytest.raises(BackendUnavailable, match="backend cuda is not available: cuda says so"):
        choose(make_settings(data_dir, backend={"device": "cuda"}))


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ({"engine": "openvino"}, "backend.engine is openvino, which the cuda backend does not have"),
        ({"precision": "bf16"}, "backend.precision is bf16, which the cuda backend does not have"),
    ],
)
def test_the_cuda_backend_has_its_own_engines_and_precisions(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, backend: dict[str, str], sentence: str
) -> None:
    with_probes(monkeypatch, cuda=True, cpu=True, synthetic=True)
    with pytest.raises(BackendUnavailable, match=f"^backend cuda is not available: {sentence}$"):
        choose(make_settings(data_dir, backend={"device": "cuda", **backend}))


@pytest.mark.skipif(NVDEC.available, reason="this machine has NVDEC")
def test_nvdec_that_was_asked_for_is_not_replaced_by_software(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_probes(monkeypatch, cuda=True, cpu=True, synthetic=True)
    with pytest.raises(BackendUnavailable, match=r"backend\.decoder is nvdec, and that cannot decode here: "):
        choose(make_settings(data_dir, backend={"device": "cuda", "decoder": "nvdec"}))


@pytest.mark.skipif(CUDA.available, reason="this machine has a GPU")
def test_the_cuda_probe_says_what_this_machine_lacks() -> None:
    assert CUDA.name == "cuda"
    assert not CUDA.available
    assert probe_cuda(BackendSettings(engine="tensorrt_rtx")).name == "cuda"


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ({"device": "cpu", "engine": "tensorrt"}, "backend.engine is tensorrt, which the cpu backend does not have"),
        ({"device": "cpu", "decoder": "nvdec"}, "backend.decoder is nvdec, which the cpu backend does not have"),
        ({"device": "cpu", "precision": "fp16"}, "backend.precision is fp16, which the cpu backend does not have"),
        ({"device": "synthetic", "engine": "openvino"}, "backend.engine is openvino, which the synthetic backend"),
        ({"device": "synthetic", "precision": "fp32"}, "backend.precision is fp32, which the synthetic backend"),
        (
            {"device": "auto", "engine": "tensorrt_rtx"},
            "backend.engine is tensorrt_rtx, which the cpu backend does not have; cuda: cuda says so",
        ),
    ],
)
def test_a_setting_of_another_backend_is_an_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, backend: dict[str, str], sentence: str
) -> None:
    with_probes(monkeypatch, cuda=False, cpu=True, synthetic=True)
    with pytest.raises(BackendUnavailable, match=sentence):
        choose(make_settings(data_dir, backend=backend))


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(select, "find_spec", lambda name: None if name in ("openvino", "cv2") else found(name))
    answer = probe_cpu()
    assert not answer.available
    assert answer.reason == "opencv-python-headless, openvino is not installed; pip install 'vidette[cpu]'"
