"""Dockerfile and compose file: that they are valid, that they fit each other, and our rules for them."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from app.simulator.scenes import DEMO_SCENES
from deploy.compose import first_start
from deploy.container import requirements

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

from tests.support.compose import read_compose, read_env, started, variables
from tests.support.dockerfile import Dockerfile, parse_dockerfile

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
TARGETS = ("cpu", "cuda")
LOOPBACK = "127.0.0.1"
LONG_LIVED = ("vidette", "vidette-gpu", "cameras", "mediamtx", "prometheus", "grafana")


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return parse_dockerfile((ROOT / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose(COMPOSE)


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps this file or folder out of the build; the last pattern that matches decides."""
    parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 2)]
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        anywhere = pattern.startswith("**/")
        places = [each.rpartition("/")[2] for each in parents] if anywhere else parents
        matches = [each for each in places if _matches(each, pattern.removeprefix("**/"))]
        if pattern and not line.startswith("#") and matches:
            out = not line.startswith("!")
    return out


def _matches(place: str, pattern: str) -> bool:
    """As Docker does, `*` ends at a slash."""
    return place.count("/") == pattern.count("/") and fnmatch.fnmatchcase(place, pattern)


# ---- Dockerfile


def test_both_targets_parse_and_cpu_is_what_a_plain_build_makes(dockerfile: Dockerfile) -> None:
    assert set(TARGETS) <= set(dockerfile.stages)
    assert list(dockerfile.stages)[-1] == "cpu"


def test_every_stage_is_built_on_a_known_one_or_on_an_argument(dockerfile: Dockerfile) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages.values():
        argument = re.fullmatch(r"\$\{(\w+)\}", stage.base)
        assert stage.base in seen or (argument and argument[1] in dockerfile.arguments), stage.base
        for each in stage.named("COPY"):
            assert each.flags().get("from", "builder") in seen, f"line {each.line}"
        seen.add(stage.name)
    for target in TARGETS:
        assert dockerfile.lineage(target)[0].base == "${BASE}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("FROM a AS b\nRUM x\n", "line 2: there is no instruction 'RUM'"),
        ("FROM a AS b\nRUN x \\\n", "line 2: the last instruction is not ended"),
        ("RUN x\n", "line 1: RUN stands before the first FROM"),
        ("FROM a AS b\nFROM c AS b\n", "line 2: a FROM must give its stage a name of its own"),
    ],
)
def test_what_a_builder_would_refuse_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_dockerfile(text)


def test_what_is_copied_exists_and_reaches_the_build(dockerfile: Dockerfile) -> None:
    for stage in dockerfile.stages.values():
        for each in stage.named("COPY"):
            for source in each.sources() if "from" not in each.flags() else []:
                assert (ROOT / source).exists() and not ignored(source), f"line {each.line}: {source}"
    for kept in (
        "app/cli/__init__.py",
        "app/web/index.html",
        "models/vidette-demo/model.onnx",
        "app/backends/cuda/kernels",
    ):
        assert not ignored(kept), kept
    for left_out in (
        ".git",
        ".env",
        "data",
        ".venv",
        "tests",
        "models/mine",
        "docs",
        "app/x/__pycache__",
        "deploy/k8s",
    ):
        assert ignored(left_out), left_out


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_with_one_volume(dockerfile: Dockerfile, target: str) -> None:
    instructions = dockerfile.instructions(target)
    last = {each.name: each for each in instructions}
    # A number, since Kubernetes cannot tell whether a name is root.
    assert last["USER"].text == "10001:10001"
    assert [json.loads(each.text) for each in instructions if each.name == "VOLUME"] == [["/data"]]
    assert last["STOPSIGNAL"].text == "SIGTERM"
    # Without a shell in between, so that the signal reaches the service.
    assert last["ENTRYPOINT"].exec_form() == ["vidette"]
    assert last["CMD"].exec_form() == ["serve"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_no_compiler_and_installs_nothing_itself(dockerfile: Dockerfile, target: str) -> None:
    for each in dockerfile.instructions(target):
        assert not (each.name == "RUN" and re.search(r"\b(apt-get|pip|g\+\+|gcc|curl|wget)\b", each.text)), each.line


def test_health_is_what_readyz_says(dockerfile: Dockerfile) -> None:
    health = next(each for each in dockerfile.instructions("cpu") if each.name == "HEALTHCHECK")
    command = health.exec_form() or []
    copied = {
        each.text.split()[-1]: each.sources()[0] for each in dockerfile.instructions("cpu") if each.name == "COPY"
    }
    script = ROOT / copied[command[-1]]
    assert '"/readyz"' in script.read_text()
    assert int(re.sub(r"\D", "", health.flags()["start-period"])) >= 600  # an engine is built on a GPU's first start


def test_gpu_image_asks_for_the_driver_parts_that_decoding_needs(dockerfile: Dockerfile) -> None:
    environment = {
        name: value
        for each in dockerfile.instructions("cuda")
        if each.name == "ENV"
        for name, value in each.pairs().items()
    }
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility", "video"}
    assert "NVIDIA_DRIVER_CAPABILITIES" not in str(dockerfile.instructions("cpu"))


@pytest.mark.parametrize("target", TARGETS)
def test_settings_of_an_image_are_settings(dockerfile: Dockerfile, target: str, tmp_path: Path) -> None:
    environment = {
        name: value
        for each in dockerfile.instructions(target)
        if each.name == "ENV"
        for name, value in each.pairs().items()
    }
    ours = {name: value for name, value in environment.items() if name.startswith("VIDETTE_")}
    load_settings(environ=ours, secrets_dir=tmp_path)  # refuses a variable that is none of its
    assert ours == {
        "VIDETTE_SERVER__HOST": "0.0.0.0",
        "VIDETTE_AUTH__MODE": "token",
        "VIDETTE_DATA_DIR": "/data",
        "VIDETTE_MODELS_DIR": "/models",
    }


@pytest.mark.parametrize("extra", ["cuda", "rtx"])
def test_gpu_image_installs_what_the_project_names(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = requirements.requirements(project, extra)
    assert set(wanted) == {*project["dependencies"], *project["optional-dependencies"][extra]}
    other = requirements.requirements(project, extra, "tensorrt-cu12==10.16.1.11")
    assert [each for each in other if each not in wanted] == ["tensorrt-cu12==10.16.1.11"]
    assert len(other) == len(wanted)


def test_constraints_are_the_pins_of_the_lock_without_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pins = requirements.constraints(lock)
    assert len(pins) == lock.count("==") - sum(line.count("==") - 1 for line in pins)
    assert not [pin for pin in pins if "hash" in pin or "\\" in pin]
    assert [pin for pin in pins if pin.startswith("numpy==")]


def test_cpu_image_is_built_with_the_bill_of_its_lock() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "COPY requirements.lock deploy/container/sbom.py /src/" in text
    assert "sbom.py /src/requirements.lock > /opt/vidette/share/doc/vidette/sbom.cdx.json" in text
    assert not ignored("deploy/container/sbom.py")


# ---- docker-compose.yml


def test_compose_file_is_valid_by_the_official_schema(compose: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((ROOT / "tests" / "support" / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []
    broken = {**compose, "services": {"vidette": {"imag": "x"}}}
    assert list(validator.iter_errors(broken)), "the schema lets everything pass"


@pytest.mark.parametrize("name", [*LONG_LIVED, "setup"])
def test_service_is_confined(services: dict[str, dict[str, Any]], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "devices"} & set(service)
    assert service.get("network_mode") != "host"
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])


@pytest.mark.parametrize("name", LONG_LIVED)
def test_service_comes_back_and_is_not_root(services: dict[str, dict[str, Any]], name: str) -> None:
    assert services[name]["restart"] == "unless-stopped"
    ours = services[name]["image"].startswith("vidette:")  # its image says that it is not root
    assert ours or services[name]["user"].split(":")[0] not in ("0", "root")


def test_ports_are_on_loopback_unless_asked_otherwise(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port.split(":")[0] for port in ports} == {LOOPBACK}
    asked = read_compose(COMPOSE, {"VIDETTE_BIND": "0.0.0.0"})["services"]
    assert asked["vidette"]["ports"] == asked["vidette-gpu"]["ports"] == ["0.0.0.0:8080:8080"]
    assert asked["grafana"]["ports"][0].startswith(LOOPBACK)


def test_service_has_longer_to_stop_than_it_takes(services: dict[str, dict[str, Any]]) -> None:
    for name in ("vidette", "vidette-gpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > 10


def test_start_is_in_the_order_of_health(services: dict[str, dict[str, Any]]) -> None:
    conditions = {
        (name, other): how["condition"]
        for name, service in services.items()
        for other, how in service.get("depends_on", {}).items()
    }
    for name in ("vidette", "vidette-gpu", "prometheus", "grafana"):
        assert conditions[name, "setup"] == "service_completed_successfully"
    assert conditions["mediamtx", "cameras"] == conditions["vidette", "cameras"] == "service_healthy"
    assert conditions["grafana", "prometheus"] == "service_healthy"
    for _, other in [pair for pair, condition in conditions.items() if condition == "service_healthy"]:
        assert services[other]["healthcheck"]["test"][0] == "CMD", other
    # What another profile leaves out must not keep the rest from starting.
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            left_out = set(services[other].get("profiles", [])) != set(service.get("profiles", []))
            assert not services[other].get("profiles") or not left_out or how.get("required") is False, (name, other)


def test_profiles_choose_one_vidette_and_the_demo(compose: dict[str, Any]) -> None:
    default = read_env(ROOT / ".env")["COMPOSE_PROFILES"].split(",")
    always = {"setup", "prometheus", "grafana"}
    assert started(compose, default) == always | {"vidette", "cameras", "mediamtx"}
    assert started(compose, ["cpu"]) == always | {"vidette"}
    assert started(compose, ["gpu"]) == always | {"vidette-gpu"}
    gpu = compose["services"]["vidette-gpu"]
    assert gpu["build"]["target"] == "cuda"
    assert gpu["networks"] == {"default": {"aliases": ["vidette"]}}
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}]


def test_env_example_lists_every_variable_with_its_default() -> None:
    taken = variables(COMPOSE.read_text())
    example = read_env(ROOT / ".env.example")
    assert {name: {value} for name, value in example.items() if name != "COMPOSE_PROFILES"} == taken
    assert example["COMPOSE_PROFILES"] == read_env(ROOT / ".env")["COMPOSE_PROFILES"]


def test_compose_and_dockerfile_agree_on_what_they_are_built_on(dockerfile: Dockerfile) -> None:
    example = read_env(ROOT / ".env.example")
    assert {name: example[f"VIDETTE_{name}"] for name in dockerfile.arguments} == dict(dockerfile.arguments)


def test_what_is_mounted_from_the_checkout_is_there(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert volume.endswith(":ro"), f"{name}: {target} is writable"


def test_secrets_reach_those_that_read_them_and_nobody_else(services: dict[str, dict[str, Any]]) -> None:
    mounts = {
        (name, volume.split(":")[0])
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if volume.startswith("secret-")
    }
    readers = {
        "secret-api": {"vidette", "vidette-gpu", "cameras"},
        "secret-metrics": {"vidette", "vidette-gpu", "prometheus"},
        "secret-grafana": {"grafana"},
    }
    assert mounts == {(name, volume) for volume, names in readers.items() for name in (*names, "setup")}
    admin = services["vidette"]["environment"]["VIDETTE_AUTH__ADMIN_TOKEN_FILE"]
    assert f"--token-file={admin}" in services["cameras"]["command"]
    assert f"api/{Path(admin).name}" in {secret.path for secret in first_start.SECRETS}
    written = {Path(secret.path).name for secret in first_start.SECRETS}
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert Path(password).name in written
    scrape = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    assert re.search(r"credentials_file: /run/secrets/vidette_metrics__token", scrape)


def test_settings_file_of_the_stack_is_read_by_the_service(tmp_path: Path) -> None:
    load_settings(config=ROOT / "deploy" / "compose" / "vidette.yml", environ={}, secrets_dir=tmp_path)


def test_mediamtx_passes_on_the_cameras_of_the_demo() -> None:
    paths = yaml.safe_load((ROOT / "deploy" / "mediamtx" / "mediamtx.yml").read_text())["paths"]
    assert {name: path["source"] for name, path in paths.items()} == {
        name: f"rtsp://cameras:8554/{name}" for name in DEMO_SCENES
    }
