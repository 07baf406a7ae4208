"""`vidette doctor`: what it prints, what it never prints, and its exit codes."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.backends.cuda.probe import examine, probe_parts
from app.cameras.doctor import Diagnosis, StepResult
from app.commands.checks import CUDA_MODULES, cuda_checks
from app.commands.doctor import as_text, read_secret
from app.commands.hints import HINTS
from app.commands.imports import import_problem
from app.errors import ConfigError, SourceErrorCode
from tests.support.clips import write_test_clip
from tests.support.command import run_command
from tests.support.cuda_host import FakeLibcuda, make_host

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-hunter2"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections: it is bound, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the shipped model and nothing else."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_code_has_a_hint() -> None:
    assert set(HINTS) == set(SourceErrorCode)
    assert all(hint.endswith((".", ":")) for hint in HINTS.values())


def test_doctor_says_what_this_machine_can_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command("doctor")

    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert code == 0
    assert " ok " in lines["backend cpu"]
    assert "backend cuda" in lines
    assert "openvino" in lines["packages"]
    assert "vidette-demo" in lines["model"]
    assert {"machine", "python", "settings", "data_dir", "port", "open files"} <= set(lines)


CUDA_PARTS = [
    "cuda driver",
    "cuda NVDEC",
    "cuda TensorRT",
    "cuda TensorRT-RTX",
    "cuda pycuda",
    "cuda PyNvVideoCodec",
    "cuda cuda-bindings",
    "cuda nvidia-ml-py",
    "cuda kernels",
]


def test_doctor_lists_each_part_of_the_cuda_backend_with_its_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = [part.reason for part in probe_parts()]
    run_command("doctor")
    shown = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line.startswith("cuda ")]
    assert [f"{first} {second}" for first, second, _ in shown] == CUDA_PARTS
    assert all(rest.startswith(("ok ", "note ")) for _, _, rest in shown)
    assert all(reason in rest for reason, (_, _, rest) in zip(reasons, shown, strict=True))

    run_command("doctor", "--json")
    checks = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["name"].startswith("cuda ")]
    assert [check["name"] for check in checks] == CUDA_PARTS
    assert all(reason in check["message"] for reason, check in zip(reasons, checks, strict=True))


def test_what_is_installed_is_imported_where_there_is_a_driver(tmp_path: Path) -> None:
    imported: list[str] = []

    def problem(module: str) -> str | None:
        imported.append(module)
        return "importing pycuda.driver failed: ImportError: libcurand.so.10" if module == "pycuda.driver" else None

    report = examine(make_host(tmp_path / "none", libcuda=FakeLibcuda()))
    checks = {check.name: check for check in cuda_checks(report, problem=problem)}
    assert imported == [CUDA_MODULES[name] for name in CUDA_MODULES if name != "tensorrt_rtx"]
    assert (checks["cuda TensorRT"].state, checks["cuda TensorRT"].message) == ("ok", "10.16.1.11")
    assert (checks["cuda pycuda"].state, checks["cuda pycuda"].message) == (
        "note",
        "2026.1 is installed, but importing pycuda.driver failed: ImportError: libcurand.so.10",
    )
    assert checks["cuda kernels"].state == "note"


def test_nothing_is_imported_where_there_is_no_driver(tmp_path: Path) -> None:
    def problem(module: str) -> str | None:
        raise AssertionError(module)

    checks = list(cuda_checks(examine(make_host(tmp_path / "none")), problem=problem))
    assert [check.name for check in checks] == CUDA_PARTS
    assert checks[0].state == "note"


def test_an_import_is_tried_where_it_can_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vidette_crash.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "vidette_hang.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_problem("json") is None
    missing = import_problem("vidette_missing")
    assert missing == "importing vidette_missing failed: ModuleNotFoundError: No module named 'vidette_missing'"
    assert import_problem("vidette_crash") == "importing vidette_crash ended the process with signal 9"
    assert import_problem("vidette_hang", timeout_s=0.5) == "importing vidette_hang took more than 0.5 s"


def test_doctor_gives_the_same_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command("doctor", "--json")

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["ok"] is True
    assert report["machine"]["cores"] >= 1
    assert {check["state"] for check in report["checks"]} <= {"ok", "note"}


def test_doctor_fails_where_the_service_could_not_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "models")
    monkeypatch.setenv("VIDETTE_DATA_DIR", str(folder / "file" / "data"))
    (folder / "file").write_text("")

    code = run_command("doctor", "--json")

    failed = {check["name"] for check in json.loads(capsys.readouterr().out)["checks"] if check["state"] == "failed"}
    assert code == 1
    assert failed == {"model", "data_dir"}


def test_doctor_tells_of_bad_settings_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "vidette.yml").write_text("modell: x\n")

    code = run_command("doctor")

    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert code == 1
    assert "failed" in lines["settings"]
    assert "modell: unknown key" in lines["settings"]
    assert " ok " in lines["backend cpu"]


def test_doctor_takes_an_occupied_port_for_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        monkeypatch.setenv("VIDETTE_SERVER__PORT", str(occupied.getsockname()[1]))
        code = run_command("doctor")

    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert code == 0
    assert " note " in lines["port"]


def test_doctor_of_a_camera_that_refuses_says_where_and_what_to_do(
    closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command("doctor", f"rtsp://127.0.0.1:{closed_port}/stream")

    shown = capsys.readouterr().out
    assert code == 1
    steps = [line.split()[:2] for line in shown.splitlines()[1:4]]
    assert steps == [["dns", "ok"], ["tcp", "failed"], ["rtsp", "skipped"]]
    assert "(connection_refused)" in shown
    assert HINTS[SourceErrorCode.CONNECTION_REFUSED] in shown


def test_doctor_never_prints_a_password(closed_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(f"{SECRET}-file\n")
    in_url = f"rtsp://admin:{SECRET}@127.0.0.1:{closed_port}/stream"
    for arguments in (
        [in_url],
        [in_url, "--json"],
        [f"rtsp://127.0.0.1:{closed_port}/x", "--username", "admin", "--password-file", str(file), "--json"],
        [f"http://admin:{SECRET}@127.0.0.1/"],
    ):
        run_command("doctor", *arguments)
        shown = capsys.readouterr()
        assert SECRET not in shown.out + shown.err


def test_doctor_of_a_file_that_plays_is_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_test_clip(tmp_path / "clip.mp4")

    code = run_command("doctor", "file:clip.mp4", "--media-dir", str(tmp_path), "--json")

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["ok"] is True
    assert report["code"] is report["hint"] is None
    assert {step["step"]: step["state"] for step in report["steps"]}["first_decoded_frame"] == "ok"


def test_diagnosis_of_a_camera_that_works_needs_no_hint() -> None:
    steps = (StepResult(step="dns", state="ok", ms=1.25),)
    shown = as_text(Diagnosis(steps=steps, code=None, message="camera:554 works: h264, 1280x720"))
    assert shown.splitlines()[-1] == "camera:554 works: h264, 1280x720"
    assert "dns   ok" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["http://127.0.0.1/"], "url: scheme must be rtsp or rtsps, not http"),
        (["file:clip.mp4"], "url: "),
        (["rtsp://127.0.0.1/", "--timeout", "0"], "--timeout must be more than 0 seconds, not 0"),
        (["rtsp://127.0.0.1/", "--timeout", "nan"], "--timeout must be more than 0 seconds, not nan"),
        (["rtsp://127.0.0.1/", "--password", "hunter2"], "--password-file: there is no file of this name; it takes"),
    ],
)
def test_doctor_refuses_what_it_cannot_use(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("doctor", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"vidette: {sentence}")


def test_password_is_the_first_line_of_its_file_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(" with spaces \nnot this\n")
    assert read_secret(file, "--password-file") == " with spaces "


@pytest.mark.parametrize("content", [b"", b"\nsecond", b"\xff\xfe\x00"])
def test_password_file_without_a_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="--password-file: "):
        read_secret(file, "--password-file")
