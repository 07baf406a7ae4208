"""Checks what is installed against the lock files, and asks for known vulnerabilities where there is a network.

python scripts/audit.py [--offline] [--json]      (make audit)

Offline: every line of the lock files pins one version by hashes and names no address; what is installed is what they
pin. Then, unless --offline, pip-audit runs in an environment of its own (.cache/audit); where it cannot be installed or
gets no answer, that is said and is no failure. 0: nothing was found, 1: something was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout, which need not be installed

from deploy.container.sbom import Pin, normal, read_lock  # noqa: E402

LOCKS = ("requirements.lock", "requirements-dev.lock")
# What makes environments, and ourselves.
UNLOCKED = frozenset({"pip", "setuptools", "wheel", "vidette"})
ENVIRONMENT = ROOT / ".cache" / "audit"
PATIENCE_S = 300


def lock_problems(name: str, text: str) -> list[str]:
    """What is wrong with a lock file."""
    try:
        pins = read_lock(text)
    except ValueError as exc:
        return [f"{name}: {exc}"]
    problems = [f"{name}: {pin.name} {pin.version} has no hash" for pin in pins if not pin.sha256]
    seen: dict[tuple[str, str], Pin] = {}
    again = [pin for pin in pins if seen.setdefault((normal(pin.name), pin.marker), pin) is not pin]
    problems += [f"{name}: {pin.name} is pinned twice" for pin in again]
    return problems if pins else [f"{name}: nothing is pinned"]


def differences(runtime: list[Pin], development: list[Pin]) -> list[str]:
    """Tests must run on what users get: every runtime pin is a development pin too."""
    known = {(normal(pin.name), pin.version, pin.sha256) for pin in development}
    return [
        f"requirements-dev.lock: {pin.name} {pin.version} is not pinned as in requirements.lock"
        for pin in runtime
        if (normal(pin.name), pin.version, pin.sha256) not in known
    ]


def installed_problems(installed: Iterable[tuple[str, str]], pins: list[Pin]) -> list[str]:
    """Installed packages (name, version) that no lock file pins in that version."""
    versions: dict[str, set[str]] = {}
    for pin in pins:
        versions.setdefault(normal(pin.name), set()).add(pin.version)
    problems = []
    for name, version in sorted(installed):
        wanted = versions.get(normal(name))
        if normal(name) in UNLOCKED:
            continue
        if wanted is None:
            problems.append(f"{name} {version} is installed, and in no lock file")
        elif version not in wanted:
            problems.append(f"{name} {version} is installed; the lock files pin {' and '.join(sorted(wanted))}")
    return problems


def known_vulnerabilities() -> tuple[list[str], str]:
    """What pip-audit found in requirements.lock, and a sentence on whether it could look."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not python.exists():
            venv.create(ENVIRONMENT, with_pip=True)
        _run(str(python), "-m", "pip", "install", "-q", "pip-audit")
        command = ("-m", "pip_audit", "-r", str(ROOT / LOCKS[0]), "--require-hashes", "--disable-pip", "-f", "json")
        done = _run(str(python), *command, check=False)
        document = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        return [], f"known vulnerabilities were not looked for: pip-audit got no answer ({type(exc).__name__})"
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {' or '.join(flaw['fix_versions']) or 'none'}"
        for package in document["dependencies"]
        for flaw in package.get("vulns", ())
    ]
    return found, f"pip-audit looked at {len(document['dependencies'])} packages"


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Check the locked and the installed packages.")
    parser.add_argument("--offline", action="store_true", help="do not ask for known vulnerabilities")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")
    arguments = parser.parse_args(argv)
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKS}
    problems = [problem for name, text in texts.items() for problem in lock_problems(name, text)]
    if not problems:
        runtime, development = (read_lock(text) for text in texts.values())
        problems += differences(runtime, development)
        problems += installed_problems(map(_named, distributions()), development)
    found, remark = (
        ([], "known vulnerabilities were not looked for (--offline)") if arguments.offline else _look(problems)
    )
    problems += found
    if arguments.json:
        print(json.dumps({"ok": not problems, "problems": problems, "remark": remark}, indent=2))
    else:
        print("\n".join([*problems, remark, "" if problems else "all that is installed is locked, by hash"]).strip())
    return 1 if problems else 0


def _look(problems: list[str]) -> tuple[list[str], str]:
    return ([], "known vulnerabilities: first mend the above") if problems else known_vulnerabilities()


def _named(distribution: Distribution) -> tuple[str, str]:
    return distribution.metadata["Name"], distribution.version


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
