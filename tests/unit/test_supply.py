"""What is installed is locked by hash, and the bill of materials lists it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.container.sbom import Pin, bill, read_lock, version_in
from scripts import audit

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "0123456789abcdef" * 4
LOCKS = {name: (ROOT / name).read_text(encoding="utf-8") for name in audit.LOCKS}


def pin(name: str = "a", version: str = "1", *sha256: str, marker: str = "") -> Pin:
    return Pin(name=name, version=version, marker=marker, sha256=sha256 or (DIGEST,))


def test_everything_installed_is_locked_and_every_line_has_hashes_and_no_address(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit.main(["--offline", "--json"]) == 0, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["problems"] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a==1\n", "a 1 has no hash"),
        (f"a>=1 \\\n    --hash=sha256:{DIGEST}\n", "line 1 is neither a pinned package nor a hash of one"),
        (f"--index-url https://evil.example\na==1 \\\n    --hash=sha256:{DIGEST}\n", "line 1 is neither"),
        (f"a @ https://evil.example/a.whl \\\n    --hash=sha256:{DIGEST}\n", "line 1 is neither"),
        (f"a==1 \\\n    --hash=md5:{DIGEST}\n", "line 2 is neither"),
        (f"a==1 \\\n    --hash=sha256:{DIGEST}\nA==2 \\\n    --hash=sha256:{DIGEST}\n", "A is pinned twice"),
        ("", "nothing is pinned"),
    ],
)
def test_a_lock_that_does_not_hold_is_told(text: str, problem: str) -> None:
    (found,) = audit.lock_problems("x.lock", text)
    assert found.startswith(f"x.lock: {problem}")


def test_what_is_installed_besides_the_lock_is_told() -> None:
    pins = [pin("a_b", "1", marker="x"), pin("a-b", "2", marker="y"), pin("c", "1")]
    installed = [("A.b", "2"), ("c", "3"), ("pip", "1"), ("stranger", "1"), ("vidette", "0")]
    assert audit.installed_problems(installed, pins) == [
        "c 3 is installed; the lock files pin 1",
        "stranger 1 is installed, and in no lock file",
    ]


def test_tests_run_on_what_users_get() -> None:
    assert audit.differences([pin("a", "1")], [pin("a", "1"), pin("b", "2")]) == []
    assert audit.differences([pin("a", "1")], [pin("a", "2")]) == [
        "requirements-dev.lock: a 1 is not pinned as in requirements.lock"
    ]


def test_without_a_network_the_audit_says_that_it_did_not_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(audit, "ENVIRONMENT", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/false")
    found, remark = audit.known_vulnerabilities()
    assert found == []
    assert remark.startswith("known vulnerabilities were not looked for: pip-audit got no answer")


def test_what_pip_audit_finds_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flaw = {"id": "CVE-1", "fix_versions": ["2"]}
    answer = {"dependencies": [{"name": "a", "version": "1", "vulns": [flaw]}, {"name": "b", "version": "1"}]}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\nexit 0\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(audit, "ENVIRONMENT", tmp_path)
    assert audit.known_vulnerabilities() == (["a 1: CVE-1, mended in 2"], "pip-audit looked at 2 packages")


# The bill of materials


def test_the_bill_has_what_cyclonedx_requires() -> None:
    document = bill(read_lock(LOCKS["requirements.lock"]), version="1.2.3")
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"])
    assert document["metadata"]["component"]["version"] == "1.2.3"
    components = document["components"]
    for component in components:
        assert {"type", "name", "version", "purl", "bom-ref", "hashes"} <= set(component)
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@\S+", component["purl"])
        assert all(re.fullmatch("[0-9a-f]{64}", each["content"]) for each in component["hashes"])
    references = [component["bom-ref"] for component in components]
    assert len(set(references)) == len(references)
    assert document["dependencies"][0]["dependsOn"] == references
    assert {"cryptography", "fastapi", "av", "openvino"} <= {component["name"] for component in components}


def test_the_same_lock_gives_the_same_bill_and_another_one_another() -> None:
    assert bill([pin("a"), pin("b")]) == bill([pin("b"), pin("a")])
    assert bill([pin("a")])["serialNumber"] != bill([pin("a", "2")])["serialNumber"]


def test_the_image_and_make_write_it_with_nothing_but_python() -> None:
    command = [sys.executable, "-I", "deploy/container/sbom.py", "requirements.lock", "app/__init__.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    version = version_in((ROOT / "app" / "__init__.py").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == bill(read_lock(LOCKS["requirements.lock"]), version=version)
