"""All settings: their names, units, defaults and bounds, and where they are read from.

Precedence: command line, environment (`VIDETTE_`, nested by `__`), secrets directory, YAML file, defaults.
Nothing else in Vidette reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.cameras.entries import CameraEntry, read_entries
from app.cameras.hosts import HostList, HostPolicy
from app.errors import ConfigError
from app.sentences import sentences

ENV_PREFIX = "VIDETTE_"
SECRETS_DIR = Path("/run/secrets")
# Variables that start with our prefix and are not settings: the configuration file, and what the tests find.
NOT_SETTINGS = frozenset({"VIDETTE_CONFIG", "VIDETTE_ASSETS", "VIDETTE_CUDA_WHEELS"})
# Lists of values of their own, which fit neither into an option nor into a variable.
FILE_ONLY = frozenset({"cameras.declared"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _listed(value: object) -> object:
    """A list; as text, as a variable or an option gives it, its members are separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@*,]+", text.lower()):
        raise ValueError("must be an origin such as https://wall.example, without a path")
    return text.lower()


def _host(text: str) -> str:
    if not re.fullmatch(r"[^\s/?#@*,\[\]]+", text) or (":" in text and text.count(":") < 2):
        raise ValueError("must be a name or an address, without a port")
    return text.lower()


_Names: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_listed)]
_Origins: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_listed)]


class ServerSettings(_Section):
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port of REST, WebSocket, console and /metrics; 0 picks one")
    tls_cert_file: Path | None = Field(None, description="certificate chain in PEM; with it the port speaks TLS only")
    tls_key_file: Path | None = Field(None, description="the certificate's private key in PEM, without a passphrase")
    cors_origins: _Origins = Field((), description="other sites whose pages may use the API, as https://wall.example")
    allowed_hosts: _Names = Field(
        (), description="names that requests may call the service by, besides localhost; see docs/access.md"
    )
    max_connections: int = Field(
        4096, ge=1, le=100_000, description="most connections at once; at most half of what `ulimit -n` says"
    )
    max_connections_per_client: int = Field(
        2048, ge=1, le=100_000, description="most of them from one address, such as that of a reverse proxy"
    )
    stall_exit_s: float = Field(
        60,
        ge=0,
        le=3600,
        description="seconds that the event loop or a batch may hang before the process ends itself; 0: for ever",
    )

    @model_validator(mode="after")
    def _has_both_files_or_none(self) -> ServerSettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            missing = "tls_cert_file" if self.tls_cert_file is None else "tls_key_file"
            raise ValueError(f"{missing} must be given too: TLS takes a certificate and its key")
        return self


def _checked_hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    HostList.parse(entries)
    return entries


Hosts: TypeAlias = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_checked_hosts), Field(max_length=1000)
]


class CamerasSettings(_Section):
    stall_timeout_s: float = Field(10, ge=1, le=300, description="seconds without a frame before a camera restarts")
    backoff_max_s: float = Field(60, ge=1, le=3600, description="longest wait between two attempts, in seconds")
    allow_hosts: Hosts = Field(
        (), description="where cameras may be: names (*.lan), addresses, networks; a list or a,b; empty: everywhere"
    )
    deny_hosts: Hosts = Field(
        (), description="where no camera may be, besides link-local and clouds' metadata addresses"
    )
    declared: tuple[CameraEntry, ...] = Field(
        (), description="cameras that this file makes, changes and removes at each start, as docs/operations.md shows"
    )

    @property
    def hosts(self) -> HostPolicy:
        return HostPolicy(allow=HostList.parse(self.allow_hosts), deny=HostList.parse(self.deny_hosts))


class BackendSettings(_Section):
    device: Literal["auto", "cpu", "cuda", "synthetic"] = Field("auto", description="what decodes and infers")
    engine: Literal["auto", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"] = Field(
        "auto", description="inference engine; auto on a CPU: the faster one, as measured"
    )
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = Field(
        "auto", description="numbers that the engine computes in; auto: fp16 on CUDA, measured on a CPU"
    )
    contexts: Literal["auto"] | Annotated[int, Field(ge=1, le=16)] = Field(
        "auto", description="batches in flight at once; auto measures"
    )
    decoder: Literal["auto", "nvdec", "software"] = Field("auto", description="video decoder")
    gpu: int = Field(0, ge=0, le=63, description="the GPU that works, counted as CUDA counts them")
    cuda_graphs: bool = Field(True, description="launch a batch on CUDA as one graph; false launches step by step")
    memory_budget_mib: Literal["auto"] | Annotated[int, Field(ge=64, le=1_048_576)] = Field(
        "auto", description="GPU memory for decoded frames, in MiB; auto: a share of what is free"
    )


class BatchingSettings(_Section):
    max_size: int = Field(16, ge=1, le=16, description="most frames in a batch; unset: measured at start")
    max_delay_ms: float = Field(0, ge=0, le=1000, description="longest wait for a fuller batch, in milliseconds")
    max_age_ms: float = Field(500, ge=10, le=60000, description="an older frame is dropped, not inferred; milliseconds")

    @model_validator(mode="after")
    def _leaves_time_to_infer(self) -> BatchingSettings:
        if self.max_delay_ms >= self.max_age_ms:
            raise ValueError("max_delay_ms must be less than max_age_ms, or every frame that waits it out is too old")
        return self


class OverloadSettings(_Section):
    ladder: Literal["auto", "off"] = Field(
        "auto",
        description="auto: under overload thin out and decode with less work, low priorities first; off: neither",
    )
    least_fps: float = Field(
        1.0, gt=0, le=240, description="a camera is refused when it would leave less than this to each, inferred"
    )


class HistorySettings(_Section):
    size: int = Field(256, ge=1, le=100_000, description="results kept in memory for each camera")


class AuthSettings(_Section):
    mode: Literal["none", "token"] = Field("none", description="who may use the API: everybody, or who has a token")
    admin_token_file: Path | None = Field(
        None, description="file with a token of the scope admin, for the time before `vidette token create`"
    )

    @property
    def explicit(self) -> bool:
        """Whether somebody chose the mode, by whatever source."""
        return "mode" in self.model_fields_set


class SecretsSettings(_Section):
    key_file: Path | None = Field(
        None, description="file with the key of stored camera passwords; null: secret.key in data_dir, made at first"
    )


class MetricsSettings(_Section):
    token: SecretStr | None = Field(
        None, min_length=1, description="bearer token that /metrics asks for; null asks for none"
    )


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe message shown")
    format: Literal["text", "json"] = Field("text", description="one line of text, or one JSON object, a message")


class Settings(BaseSettings):
    """The whole tree, frozen. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        protected_namespaces=(),
    )

    server: ServerSettings = ServerSettings()
    data_dir: Path = Field(Path("data"), description="where the camera database lives; the only place written to")
    models_dir: Path = Field(Path("models"), description="where models live, one folder each")
    media_dir: Path | None = Field(None, description="cameras may read files below it; null forbids file URLs")
    model: str = Field(
        "vidette-demo", min_length=1, description="a folder below models_dir, or a path to an ONNX or engine file"
    )
    min_score: float = Field(0.25, ge=0, le=1, description="least score of a detection, unless a camera says otherwise")
    iou: float = Field(0.45, ge=0, le=1, description="boxes of a class that overlap more are one object")
    cameras: CamerasSettings = CamerasSettings()
    backend: BackendSettings = BackendSettings()
    batching: BatchingSettings = BatchingSettings()
    overload: OverloadSettings = OverloadSettings()
    history: HistorySettings = HistorySettings()
    auth: AuthSettings = AuthSettings()
    secrets: SecretsSettings = SecretsSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = NestedSecretsSettingsSource(
            file_secret_settings, secrets_prefix=ENV_PREFIX, secrets_nested_delimiter="__", secrets_dir_missing="ok"
        )
        return init_settings, env_settings, secrets, _FileSource(settings_cls)


class _FileSource(PydanticBaseSettingsSource):
    """The values of the YAML file that `load_settings` was given; read there, so that its errors are sentences."""

    values: Mapping[str, Any] = {}

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(type(self).values)


def load_settings(
    *,
    overrides: Mapping[str, Any] | None = None,
    config: Path | None = None,
    secrets_dir: Path = SECRETS_DIR,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check all settings. `overrides` is a nested mapping, as the command line gives it.

    Raises `ConfigError` with one sentence that names every unknown or bad key. Not thread-safe: call it at start.
    """
    environ = os.environ if environ is None else environ
    _refuse_unknown_variables(environ)
    config = config or (Path(environ["VIDETTE_CONFIG"]) if environ.get("VIDETTE_CONFIG") else _default_config())
    _FileSource.values = _with_short_forms(_without_empty_sections(read_yaml(config))) if config else {}
    try:
        settings = Settings(_secrets_dir=secrets_dir if secrets_dir.is_dir() else None, **dict(overrides or {}))
    except ValidationError as exc:
        raise ConfigError("; ".join(sentences(exc))) from None
    except ValueError as exc:  # pydantic-settings' SettingsError: a nested variable that is not JSON
        raise ConfigError(f"settings cannot be read: {exc}") from None
    finally:
        _FileSource.values = {}
    cameras = settings.cameras
    read_entries(cameras.declared, media_dir=settings.media_dir, hosts=cameras.hosts, with_files=False)
    return settings


def otel_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """OpenTelemetry's own variables, which are the same for every program and so are no settings of ours."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if name.startswith("OTEL_")}


def _default_config() -> Path | None:
    path = Path("vidette.yml")
    return path if path.is_file() else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or `ConfigError` with a sentence."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except OSError as exc:
        raise ConfigError(f"{path}: the configuration file cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the configuration file is not text in UTF-8") from None
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(
            f"{path}{line}: not valid YAML: {getattr(exc, 'problem', None) or 'it cannot be parsed'}"
        ) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the configuration must be a mapping of keys to values")
    return {str(key): value for key, value in data.items()}  # YAML reads `on:` and `1:` as other things than text


def _without_empty_sections(values: dict[str, Any]) -> dict[str, Any]:
    # A section whose every line is commented out reads as null, and means nothing.
    sections = {key.partition(".")[0] for key, _ in leaves() if "." in key}
    return {key: value for key, value in values.items() if value is not None or key not in sections}


def _with_short_forms(values: dict[str, Any]) -> dict[str, Any]:
    # `cameras: [...]` is short for `cameras: {declared: [...]}`; other sources must find a mapping to merge with.
    cameras = values.get("cameras")
    return {**values, "cameras": {"declared": cameras}} if isinstance(cameras, list) else values


def leaves(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, pydantic FieldInfo) of every setting, in the order of the tree."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {f"{ENV_PREFIX}{key.replace('.', '__')}".upper() for key, _ in leaves() if key not in FILE_ONLY}
    known |= {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | NOT_SETTINGS
    unknown = sorted(name for name in environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no such setting (see config.example.yml)")
