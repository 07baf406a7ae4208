"""The tests that need a GPU, as a step of the gate."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

from scripts.gate.plan import GatePlan
from scripts.gate.steps import ROOT


def run_tests(plan: GatePlan) -> dict[str, Any]:
    """Run the tests marked `gpu`; a test that is skipped is told with its reason."""
    report = plan.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider"]  # leaves nothing in the checkout
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.is_file():
        return {"failed": f"pytest ended with {done.returncode}: {(done.stderr or done.stdout)[-400:]}"}
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = {
        str(case.get("name")): str(found.get("message"))
        for case in cases
        if (found := case.find("skipped")) is not None
    }
    result: dict[str, Any] = {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed_tests": failed,
        "skipped": skipped,
    }
    if failed:
        result["failed"] = f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed[:5])}"
    elif not result["passed"]:
        result["failed"] = f"no test ran: {' '.join((done.stderr or done.stdout).split())[-400:]}"
    return result
