"""The manifests of deploy/k8s: what the overlays render to, by schema and by rules of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from tests.support.kustomize import HASH, Manifest, render

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
OVERLAYS = ("cpu", "gpu")
# The oldest and a newer Kubernetes that the fields are known to; policies of eviction came with 1.27.
VERSIONS = ("1.27", "1.33")
NAME = {"app.kubernetes.io/name": "vidette"}
CPU = [
    ("ConfigMap", f"vidette-config-{HASH}"),
    ("Namespace", "vidette"),
    ("NetworkPolicy", "vidette"),
    ("NetworkPolicy", "vidette-metrics"),
    ("PodDisruptionBudget", "vidette"),
    ("Service", "vidette"),
    ("ServiceAccount", "vidette"),
    ("ServiceMonitor", "vidette"),
    ("StatefulSet", "vidette"),
]


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def one(overlay: str, kind: str, name: str = "vidette") -> Manifest:
    (found,) = [m for m in render(FOLDER / overlay) if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod(overlay: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(overlay, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> dict[str, Any]:
    (only,) = pod(overlay)["containers"]
    found: dict[str, Any] = only
    return found


def ordered(manifests: list[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda m: (m["kind"], m["metadata"]["name"]))


def test_an_overlay_is_complete_and_all_of_it_is_in_one_namespace(overlay: str) -> None:
    manifests = ordered(render(FOLDER / overlay))
    assert [(m["kind"], m["metadata"]["name"]) for m in manifests] == CPU
    assert {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"} == {"vidette"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_of_kubernetes(overlay: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for manifest in render(FOLDER / overlay):
        if manifest["kind"] != "ServiceMonitor":  # not Kubernetes' own; see below
            validate(manifest, version, strict=True)


def test_the_schema_refuses_what_is_misspelt() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    manifest = one("cpu", "StatefulSet")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest, VERSIONS[0], strict=True)


def test_our_rendering_is_that_of_kubectl(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER / overlay)], capture_output=True, text=True, timeout=60)
    if done.returncode and "unknown" in done.stderr:
        pytest.skip(f"this kubectl is too old: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    real = re.sub(r"(vidette-config)-[a-z0-9]{10}\b", rf"\1-{HASH}", done.stdout)
    assert ordered(list(yaml.safe_load_all(real))) == ordered(render(FOLDER / overlay))


def test_the_pod_may_do_nothing_that_it_need_not(overlay: str) -> None:
    spec, only = pod(overlay), container(overlay)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/data", "/tmp"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_kubernetes_does_not_put_variables_of_its_own_among_our_settings(overlay: str) -> None:
    # A service named vidette would otherwise give its pods VIDETTE_PORT, which is no setting and refused at the start.
    assert pod(overlay)["enableServiceLinks"] is False


def test_probes_ask_the_paths_that_there_are(overlay: str) -> None:
    only = container(overlay)
    paths = {name: only[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: asked["path"] for name, asked in paths.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert {asked["port"] for asked in paths.values()} == {"http"}
    assert [(port["name"], port["containerPort"]) for port in only["ports"]] == [("http", 8080)]


def test_a_stop_and_a_first_start_have_the_time_that_they_take(overlay: str) -> None:
    start = container(overlay)["startupProbe"]
    assert pod(overlay)["terminationGracePeriodSeconds"] > 10
    assert start["periodSeconds"] * start["failureThreshold"] >= {"cpu": 300, "gpu": 1200}[overlay]


def test_everything_that_selects_the_pod_selects_it(overlay: str) -> None:
    manifests = render(FOLDER / overlay)
    template = one(overlay, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert template == NAME
    selectors = {
        "Service": one(overlay, "Service")["spec"]["selector"],
        "StatefulSet": one(overlay, "StatefulSet")["spec"]["selector"]["matchLabels"],
        "PodDisruptionBudget": one(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        "ServiceMonitor": one(overlay, "ServiceMonitor")["spec"]["selector"]["matchLabels"],
        **{
            m["metadata"]["name"]: m["spec"]["podSelector"]["matchLabels"]
            for m in manifests
            if m["kind"] == "NetworkPolicy"
        },
    }
    assert all(selector == NAME for selector in selectors.values()), selectors


def test_the_service_monitor_asks_the_service_s_port_with_the_token_that_the_pod_is_given(overlay: str) -> None:
    monitor = one(overlay, "ServiceMonitor")
    assert (monitor["apiVersion"], set(monitor["spec"])) == ("monitoring.coreos.com/v1", {"selector", "endpoints"})
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout", "authorization"}
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in one(overlay, "Service")["spec"]["ports"]}
    assert one(overlay, "Service")["metadata"]["labels"] == NAME  # it is the service that a monitor selects
    secret = endpoint["authorization"]["credentials"]
    mounted = {v["secret"]["secretName"] for v in pod(overlay)["volumes"] if "secret" in v}
    assert secret["name"] in mounted
    assert secret["key"] == "vidette_metrics__token"


def test_the_cameras_are_reached_and_the_cloud_s_metadata_is_not(overlay: str) -> None:
    egress = one(overlay, "NetworkPolicy")["spec"]["egress"]
    blocks = [to["ipBlock"] for rule in egress for to in rule["to"] if "ipBlock" in to]
    assert all(block["except"] for block in blocks)
    assert {554, 8554, 322} <= {port["port"] for rule in egress for port in rule["ports"]}


def test_a_gpu_is_asked_for_only_where_it_is_used() -> None:
    cpu, gpu = container("cpu"), container("gpu")
    assert (cpu["image"], gpu["image"]) == ("vidette:cpu", "vidette:cuda")
    assert "nvidia.com/gpu" not in str(cpu)
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    environment = {each["name"]: each["value"] for each in gpu["env"]}
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility,video"
    settings = {name: value for name, value in environment.items() if name.startswith("VIDETTE_")}
    assert settings == {"VIDETTE_BACKEND__DEVICE": "cuda"}
    assert [each["key"] for each in pod("gpu")["tolerations"]] == ["nvidia.com/gpu"]


def test_the_configuration_in_the_pod_is_one_that_vidette_takes(overlay: str, tmp_path: Path) -> None:
    data = one(overlay, "ConfigMap", f"vidette-config-{HASH}")["data"]
    assert list(data) == ["vidette.yml"]
    file = tmp_path / "vidette.yml"
    file.write_text(data["vidette.yml"], encoding="utf-8")
    settings = load_settings(config=file, environ={}, secrets_dir=tmp_path / "none")
    assert settings.log.format == "json"
    config = [mount["mountPath"] for mount in container(overlay)["volumeMounts"] if mount["name"] == "config"]
    assert config == ["/etc/vidette"]


def test_the_example_camera_in_the_configuration_is_one_that_vidette_takes(tmp_path: Path) -> None:
    text = (FOLDER / "base" / "vidette.yml").read_text(encoding="utf-8")
    start = text.index("# cameras:")
    file = tmp_path / "vidette.yml"
    file.write_text(text[:start] + text[start:].replace("# ", "", 1).replace("\n# ", "\n"), encoding="utf-8")
    (camera,) = load_settings(config=file, environ={}, secrets_dir=tmp_path / "none").cameras.declared
    assert (camera.id, camera.password_file) == ("gate-1", Path("/run/secrets/gate-1"))


def test_a_mounted_secret_s_token_is_read_through_the_links_that_kubernetes_makes(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "vidette_metrics__token").write_text("hunter2")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "vidette_metrics__token").symlink_to("..data/vidette_metrics__token")
    token = load_settings(environ={}, secrets_dir=tmp_path).metrics.token
    assert token is not None
    assert token.get_secret_value() == "hunter2"
