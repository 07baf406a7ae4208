"""The command line: help, exit codes, and one sentence for what a user can mend."""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import __version__
from app.backends.select import probe_cpu
from app.cli import build_parser, main
from app.cli.options import settings_from
from app.errors import AppError, BackendUnavailable, ConfigError, DeviceLost, ModelError
from app.server import listen
from app.settings import AuthSettings, ServerSettings
from tests.support.app import make_settings

COMMANDS = [["serve"], ["demo"], ["doctor"], ["model"], ["model", "add"], ["model", "list"], ["bench"]]
COMMANDS += [["compare"], ["export"], ["import"], ["backup"], ["restore"], ["rekey"], ["profile"], ["build"]]
COMMANDS += [["build-engine"], ["token"], ["token", "create"], ["token", "list"], ["token", "revoke"]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_logging: None) -> None:
    for name in os.environ:
        if name.startswith("VIDETTE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert f"example: vidette {command[0]}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"vidette {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["rtsp://admin:hunter2@cam/1"],
        ["serve", "rtsp://admin:hun ter2@cam/1"],
        ["serve", "--camera", "rtsp://cam/1?password=hunter2"],
        ["doctor", "rtsp://cam/1", "--pass", "x", "--user-pass", "hunter2"],
        ["doctor", "rtsp://cam/1", "--timeout", "rtsp://admin:hunter2@cam/1"],
        ["token", "revoke", "1a2b", f"vdt_1a2b_{'hunter2' * 5}"],
    ],
)
def test_bad_usage_repeats_no_password(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = usage_error(capsys, *argv)
    assert "error: " in told
    assert "ter2" not in told


@pytest.mark.parametrize("argv", [[], ["bogus"], ["serve", "--speed", "9"], ["model"], ["bench", "--cameras", "many"]])
def test_bad_usage_ends_with_2_and_says_how(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error(capsys, *argv).startswith("usage: vidette")


def test_every_setting_is_an_option_and_the_common_ones_have_short_names() -> None:
    parser = build_parser()
    argv = [
        "serve",
        "--port",
        "0",
        "--host",
        "::1",
        "--batching.max_size",
        "3",
        "--metrics.token",
        "x",
        "--data-dir",
        "d",
    ]
    settings = settings_from(parser.parse_args(argv))
    assert (settings.server.port, settings.server.host, settings.batching.max_size) == (0, "::1", 3)
    assert settings.data_dir == Path("d")
    assert settings.metrics.token is not None


def test_help_says_which_values_a_setting_may_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "who has a token (none | token; default: none)" in text
    assert "(0 to 65535; default: 8080)" in text
    assert "https://wall.example (default: none)" in text


def test_the_folder_is_named_alike_in_every_command() -> None:
    for option in ("--data-dir", "--data_dir"):
        for command in (["serve"], ["token", "list"], ["rekey"]):
            settings = settings_from(build_parser().parse_args([*command, option, "d"]))
            assert settings.data_dir == Path("d")


def test_a_command_s_own_defaults_give_way_to_the_command_line() -> None:
    parser = build_parser()
    defaults = {"set:iou": 0.1, "set:min_score": 0.2}
    settings = settings_from(parser.parse_args(["serve", "--iou", "0.3"]), **defaults)
    assert (settings.iou, settings.min_score) == (0.3, 0.2)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigError("iou: too big"), 2, "vidette: iou: too big\n"),
        (ModelError("model.onnx: is a text file"), 2, "vidette: model.onnx: is a text file\n"),
        (BackendUnavailable("cuda", "no driver"), 1, "vidette: backend cuda is not available: no driver\n"),
        (AppError("it did not work"), 1, "vidette: it did not work\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_are_sentences_and_exit_codes(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run)
    monkeypatch.setattr("app.cli.build_parser", lambda: parser)
    assert main([]) == code
    assert capsys.readouterr().err == sentence


def refused(capsys: pytest.CaptureFixture[str], data_dir: Path, *argv: str) -> str:
    """The one sentence that `serve` ends with."""
    options = {"--port": "0", "--data_dir": str(data_dir), "--backend.device": "synthetic", "--log.level": "error"}
    flat = [part for name, value in options.items() if name not in argv for part in (name, value)]
    assert main(["serve", *flat, *argv]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"vidette: [^\n]+\n", err), err
    return err.removeprefix("vidette: ").rstrip("\n")


def test_a_typo_in_the_file(capsys: pytest.CaptureFixture[str], data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("batching: {max_sise: 4}")
    assert refused(capsys, data_dir, "--config", str(file)) == "batching.max_sise: unknown key"
    assert not data_dir.exists()


def test_an_unknown_variable(
    capsys: pytest.CaptureFixture[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDETTE_SPEED", "9")
    assert refused(capsys, data_dir).startswith("VIDETTE_SPEED: no such setting")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_an_occupied_port(capsys: pytest.CaptureFixture[str], data_dir: Path, taken_port: int) -> None:
    sentence = refused(capsys, data_dir, "--port", str(taken_port))
    assert sentence == f"server.port: 127.0.0.1:{taken_port} cannot be used: Address already in use"
    assert not data_dir.exists()


def test_the_listening_socket_lets_asyncio_switch_off_nagles_delay() -> None:
    with listen(ServerSettings(port=0), AuthSettings()) as sock:
        assert sock.proto == socket.IPPROTO_TCP  # else every answer waits 40 ms for the client's acknowledgement
    with listen(ServerSettings(host="localhost", port=0), AuthSettings()) as sock:
        assert sock.getsockname()[1] > 0


def test_a_host_that_is_not_ours(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    assert refused(capsys, data_dir, "--host", "no host").startswith("server.host: 'no host' is not an address")


def test_a_backend_that_is_not_there(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    assert refused(capsys, data_dir, "--backend.device", "cuda").startswith("backend cuda is not available: ")


@pytest.mark.skipif(not probe_cpu().available, reason="the CPU backend's packages are not installed")
def test_a_model_that_is_missing(capsys: pytest.CaptureFixture[str], data_dir: Path, tmp_path: Path) -> None:
    sentence = refused(
        capsys, data_dir, "--backend.device", "cpu", "--models_dir", str(tmp_path), "--model", "no-such-model"
    )
    assert "no-such-model" in sentence


def test_a_read_only_data_folder(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    data_dir.mkdir(mode=0o555)
    try:
        assert refused(capsys, data_dir) == f"data_dir: {data_dir} is read-only; Vidette keeps its cameras there"
    finally:
        data_dir.chmod(0o755)


def test_a_data_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    data_dir.touch()
    assert refused(capsys, data_dir) == f"data_dir: {data_dir} cannot be made: File exists"


def test_a_corrupt_database_is_left_as_it_is(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    data_dir.mkdir()
    file = data_dir / "vidette.db"
    file.write_text("not a database " * 100)
    assert "the camera database is corrupt" in refused(capsys, data_dir)
    assert file.read_text() == "not a database " * 100


def test_a_device_that_is_lost_is_a_failure_and_no_bad_usage(data_dir: Path) -> None:
    from app.commands.serve import outcome
    from app.service import Service

    service = Service(make_settings(data_dir))
    assert outcome(service) == 0
    service.fatal = DeviceLost("the device is gone")
    assert outcome(service) == 1
    service.fatal = RuntimeError("nobody foresaw it")
    assert outcome(service) == 1
    service.fatal = ModelError("model.onnx: is a text file")
    with pytest.raises(ModelError):
        outcome(service)
    service.fatal = BackendUnavailable("cuda", "no driver")
    with pytest.raises(ConfigError, match="no driver"):
        outcome(service)
