"""Settings: where they come from, which one wins, and one sentence for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import ConfigError
from app.settings import Settings, leaves, load_settings, read_yaml


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no vidette.yml of the machine that runs the tests."""
    for name in os.environ:
        if name.startswith("VIDETTE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(**options: Any) -> Settings:
    return load_settings(**{"secrets_dir": Path("no-secrets"), **options})


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load()
    tree = {key: _get(settings, key) for key, _ in leaves()}
    assert tree == {
        "server.host": "127.0.0.1",
        "server.port": 8080,
        "server.tls_cert_file": None,
        "server.tls_key_file": None,
        "server.cors_origins": (),
        "server.allowed_hosts": (),
        "server.stall_exit_s": 60,
        "server.max_connections": 4096,
        "server.max_connections_per_client": 2048,
        "data_dir": Path("data"),
        "models_dir": Path("models"),
        "media_dir": None,
        "model": "vidette-demo",
        "min_score": 0.25,
        "iou": 0.45,
        "cameras.stall_timeout_s": 10,
        "cameras.backoff_max_s": 60,
        "cameras.allow_hosts": (),
        "cameras.deny_hosts": (),
        "cameras.declared": (),
        "backend.device": "auto",
        "backend.engine": "auto",
        "backend.precision": "auto",
        "backend.contexts": "auto",
        "backend.decoder": "auto",
        "backend.gpu": 0,
        "backend.cuda_graphs": True,
        "backend.memory_budget_mib": "auto",
        "batching.max_size": 16,
        "batching.max_delay_ms": 0,
        "batching.max_age_ms": 500,
        "overload.ladder": "auto",
        "overload.least_fps": 1.0,
        "history.size": 256,
        "auth.mode": "none",
        "auth.admin_token_file": None,
        "secrets.key_file": None,
        "metrics.token": None,
        "log.level": "info",
        "log.format": "text",
    }


def _get(settings: Settings, key: str) -> object:
    value: object = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_the_command_line_beats_the_environment_beats_secrets_beat_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.yml", "batching: {max_size: 2, max_age_ms: 100}\nmin_score: 0.1\niou: 0.2\n")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    write(secrets / "vidette_batching__max_size", "3")
    write(secrets / "vidette_min_score", "0.3")
    monkeypatch.setenv("VIDETTE_BATCHING__MAX_SIZE", "4")
    settings = load(config=file, secrets_dir=secrets, overrides={"batching": {"max_delay_ms": "5"}})
    assert (settings.batching.max_size, settings.batching.max_age_ms, settings.batching.max_delay_ms) == (4, 100, 5)
    assert (settings.min_score, settings.iou) == (0.3, 0.2)
    assert load(config=file, secrets_dir=secrets, overrides={"batching": {"max_size": 6}}).batching.max_size == 6
    monkeypatch.delenv("VIDETTE_BATCHING__MAX_SIZE")
    assert load(config=file, secrets_dir=secrets).batching.max_size == 3
    assert load(config=file).batching.max_size == 2


def test_a_file_beside_the_start_is_read_unless_another_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "vidette.yml", "iou: 0.1")
    other = write(tmp_path / "other.yml", "iou: 0.2")
    third = write(tmp_path / "third.yml", "iou: 0.3")
    assert load().iou == 0.1
    monkeypatch.setenv("VIDETTE_CONFIG", str(other))
    assert load().iou == 0.2
    assert load(config=third).iou == 0.3
    monkeypatch.delenv("VIDETTE_CONFIG")
    assert load(config=third).iou == 0.3
    assert load().iou == 0.1  # one load leaves nothing to the next


def test_secrets_of_other_programs_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "postgres_password", "x")
    write(tmp_path / "vidette_metrics__token", "hunter2\n")
    settings = load(secrets_dir=tmp_path)
    assert settings.metrics.token is not None
    assert settings.metrics.token.get_secret_value() == "hunter2"


@pytest.mark.parametrize("text", ["", "# nothing\n", "batching:\n  # max_size: 4\nlog:\n", "media_dir: null\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load(config=write(tmp_path / "a.yml", text)) == load()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("batchin: {max_size: 4}", "batchin: unknown key"),
        ("batching: {max_sice: 4}", "batching.max_sice: unknown key"),
        ("batching: {max_size: 99}", "batching.max_size: input should be less than or equal to 16, not '99'"),
        ("batching: {max_size: many}", "batching.max_size: input should be a valid integer"),
        ("server: 8080", "server: must be a mapping of names to values"),
        ("server: {port: 70000}", "server.port: "),
        ("min_score: 1.5", "min_score: "),
        ("min_score: .nan", "min_score: "),
        ("batching: {max_age_ms: .inf}", "batching.max_age_ms: "),
        ("model: ''", "model: "),
        ("log: {level: loud}", "log.level: input should be 'debug', 'info', 'warning' or 'error', not 'loud'"),
        ("backend: {device: tpu}", "backend.device: "),
        ("backend: {contexts: 0}", "backend.contexts: "),
        ("backend: {precision: fp64}", "backend.precision: input should be 'auto', 'fp32', 'fp16', 'bf16' or 'int8'"),
        ("backend: {gpu: -1}", "backend.gpu: input should be greater than or equal to 0, not '-1'"),
        ("backend: {cuda_graphs: perhaps}", "backend.cuda_graphs: input should be a valid boolean"),
        ("backend: {memory_budget_mib: 8}", "backend.memory_budget_mib: "),
        ("backend: {memory_budget_mib: all}", "backend.memory_budget_mib: "),
        ("auth: {mode: password}", "auth.mode: input should be 'none' or 'token', not 'password'"),
        (
            "server: {tls_cert_file: a.pem}",
            "server: tls_key_file must be given too: TLS takes a certificate and its key",
        ),
        (
            "server: {tls_key_file: a.pem}",
            "server: tls_cert_file must be given too: TLS takes a certificate and its key",
        ),
        ("server: {cors_origins: ['*']}", "server.cors_origins.0: must be an origin such as https://wall.example"),
        ("server: {cors_origins: https://a.test/}", "server.cors_origins.0: must be an origin"),
        ("server: {cors_origins: 7}", "server.cors_origins: must be a list"),
        (
            "server: {allowed_hosts: ['a.test:80']}",
            "server.allowed_hosts.0: must be a name or an address, without a port",
        ),
        ("batching: {max_delay_ms: 500, max_age_ms: 500}", "batching: max_delay_ms must be less than max_age_ms"),
        ("cameras: {stall_timeout_s: 0}", "cameras.stall_timeout_s: "),
        ("1: x", "1: unknown key"),
        ("on: true", "True: unknown key"),
        ("batching: {1: x}", "batching.1: "),
    ],
)
def test_a_bad_key_is_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    message = refusal(config=write(tmp_path / "a.yml", text))
    assert message.startswith(sentence)
    assert "constrained" not in message


def test_every_bad_key_is_named(tmp_path: Path) -> None:
    message = refusal(config=write(tmp_path / "a.yml", "iou: 7\nspeed: fast\nhistory: {size: 0}\n"))
    assert all(f"{name}: " in message for name in ("iou", "speed", "history.size"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"a: 1\n\tb: 2\n", ", line 2: not valid YAML"),
        (b"\xff\xfe\x00", "the configuration file is not text in UTF-8"),
        (b"- a\n- b\n", "the configuration must be a mapping of keys to values"),
        (b"just text", "the configuration must be a mapping of keys to values"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_name(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "a.yml"
    file.write_bytes(content)
    message = refusal(config=file)
    assert message.startswith(str(file))
    assert sentence in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(config=tmp_path / "no.yml") == f"{tmp_path / 'no.yml'}: there is no such configuration file"
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        read_yaml(tmp_path)


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDETTE_BATCHING__MAX_SICE", "4")
    monkeypatch.setenv("VIDETTE_PORT", "1")
    assert refusal() == "VIDETTE_BATCHING__MAX_SICE, VIDETTE_PORT: no such setting (see config.example.yml)"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("VIDETTE_BATCHING__MAX_SIZE", "many", "batching.max_size: "),
        ("VIDETTE_BATCHING", "{not json", "settings cannot be read: "),
        ("VIDETTE_SERVER__PORT", "-1", "server.port: "),
        ("VIDETTE_METRICS__TOKEN", "", "metrics.token: must not be empty"),
    ],
)
def test_a_bad_variable_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().startswith(sentence)


def test_a_variable_is_found_in_any_case_and_a_whole_section_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("vidette_iou", "0.7")
    monkeypatch.setenv("VIDETTE_BATCHING", '{"max_size": 2}')
    settings = load()
    assert (settings.iou, settings.batching.max_size, settings.batching.max_age_ms) == (0.7, 2, 500)


def test_a_secret_is_in_no_message_and_no_representation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDETTE_METRICS__TOKEN", "hunter2hunter2")
    settings = load()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    assert "hunter2" not in refusal(config=write(tmp_path / "a.yml", "metrics: {token: [hunter2]}\niou: 9"))


def test_settings_cannot_be_changed() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.iou = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.batching.max_size = 1  # type: ignore[misc]


@pytest.mark.parametrize("budget", ["auto", "2048", 2048])
def test_the_memory_budget_is_a_number_of_mib_or_auto(budget: str | int) -> None:
    settings = load(overrides={"backend": {"memory_budget_mib": budget}})
    assert settings.backend.memory_budget_mib == ("auto" if budget == "auto" else 2048)


def test_cuda_graphs_are_switched_off_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDETTE_BACKEND__CUDA_GRAPHS", "false")
    assert load().backend.cuda_graphs is False


@pytest.mark.parametrize("contexts", ["auto", "3", 3])
def test_contexts_are_a_number_or_auto(contexts: str | int) -> None:
    settings = load(overrides={"backend": {"contexts": contexts}})
    assert settings.backend.contexts == ("auto" if contexts == "auto" else 3)


def test_lists_are_lists_in_a_file_and_separated_by_commas_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "a.yml", "server: {cors_origins: ['https://A.test', 'http://b.test:81'], allowed_hosts: nvr}"
    )
    settings = load(config=file)
    assert settings.server.cors_origins == ("https://a.test", "http://b.test:81")
    assert settings.server.allowed_hosts == ("nvr",)
    monkeypatch.setenv("VIDETTE_SERVER__ALLOWED_HOSTS", "nvr.lan, 192.0.2.7,::1")
    assert load(config=file).server.allowed_hosts == ("nvr.lan", "192.0.2.7", "::1")
    assert load(overrides={"server": {"cors_origins": "https://c.test"}}).server.cors_origins == ("https://c.test",)


def test_the_mode_of_auth_is_explicit_wherever_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load().auth.explicit
    assert not load(config=write(tmp_path / "a.yml", "auth:\n  # mode: none\nlog: {level: info}\n")).auth.explicit
    assert load(config=write(tmp_path / "b.yml", "auth: {mode: none}")).auth.explicit
    assert load(overrides={"auth": {"mode": "none"}}).auth.explicit
    write(tmp_path / "vidette_auth__mode", "none")
    assert load(secrets_dir=tmp_path).auth.explicit
    monkeypatch.setenv("VIDETTE_AUTH__MODE", "token")
    assert load().auth.explicit
