"""The machine's fingerprint."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.measure.machine import CUDA_PACKAGES, PACKAGES, commit, cpu_name, package_versions, this_machine


def test_machine_knows_its_cores_and_packages() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert machine.cpu
    assert machine.versions["numpy"] is not None


def test_cuda_packages_are_listed_only_where_they_are_installed() -> None:
    assert set(package_versions({"av": "17.0"}.get)) == set(PACKAGES)
    assert package_versions({"pycuda": "2026.1"}.get)["pycuda"] == "2026.1"
    assert set(package_versions(lambda name: "1")) == {*PACKAGES, *CUDA_PACKAGES}


def test_cpu_name_is_the_kernels(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor : 0\nmodel name\t: Some CPU @ 3 GHz\n\nprocessor : 1\nmodel name\t: Some CPU @ 3 GHz\n"
    )
    assert cpu_name(cpuinfo) == "Some CPU @ 3 GHz"


def test_cpu_name_falls_back_to_the_architecture(tmp_path: Path) -> None:
    assert cpu_name(tmp_path / "missing")


def test_commit_is_unknown_outside_a_checkout(tmp_path: Path) -> None:
    assert commit(tmp_path) is None


def test_commit_is_marked_when_files_were_changed_since(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.test")
        # Inside a git hook, GIT_DIR would make this the checkout's own repository.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, env=environ, check=True, capture_output=True)

    try:
        git("init", "-q")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = commit(tmp_path)
    (tmp_path / "file").write_text("two")
    assert clean is not None
    assert len(clean) == 12
    assert commit(tmp_path) == f"{clean}+"


def test_commit_of_a_repository_without_one_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert commit(tmp_path) is None
