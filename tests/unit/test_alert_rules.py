"""Prometheus' configuration and rules: valid, tested, and explained in the runbook."""

from __future__ import annotations

import re

import pytest
import yaml

from app.errors import SourceErrorCode
from app.settings import ENV_PREFIX, leaves
from tests.support.dashboards import names_in
from tests.support.prometheus import ROOT, RULE_FILES, SHIPPED, load_rules, needs_prometheus, promtool
from tests.unit.test_dashboards import METRICS, RECORDED

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
ALERTS = load_rules("alerts.yml")
NAMES = sorted({rule["alert"] for rule in ALERTS})
UNIT_TESTS = SHIPPED / "tests" / "alerts.yml"


@needs_prometheus
def test_promtool_finds_the_configuration_valid() -> None:
    # Not the token's file, which is there where Prometheus runs.
    promtool("check", "config", "--syntax-only", str(SHIPPED / "prometheus.yml"))


@needs_prometheus
def test_promtool_finds_the_rules_valid() -> None:
    promtool("check", "rules", *map(str, RULE_FILES))


@needs_prometheus
def test_the_rules_do_what_their_unit_tests_say() -> None:
    promtool("test", "rules", str(UNIT_TESTS))


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_s_unit_test_sees_it_fire(name: str) -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text(encoding="utf-8"))["tests"]
    labels = [
        sample["labels"]
        for test in tests
        for case in test["promql_expr_test"]
        for sample in case["exp_samples"]
        if 'alertstate="firing"' in sample["labels"]
    ]
    assert any(f'alertname="{name}"' in each for each in labels)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["description"].endswith(".")
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{str(rule['alert']).lower()}"


def test_the_runbook_has_one_section_for_each_alert() -> None:
    assert sorted(re.findall(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_section_of_the_runbook_says_what_it_means_and_what_to_do(name: str) -> None:
    section = RUNBOOK.split(f"\n## {name}\n")[1].split("\n## ")[0]
    for part in ("**Means:**", "**Look:**", "**Do:**"):
        assert part in section


def test_the_runbook_knows_every_reason_why_a_camera_is_down() -> None:
    section = RUNBOOK.split("\n## CameraDown\n")[1].split("\n## ")[0]
    listed = {word for line in section.splitlines() if line.startswith("| `") for word in re.findall(r"`(\w+)`", line)}
    assert {code.value for code in SourceErrorCode} <= listed


@pytest.mark.parametrize(
    "rule", [*ALERTS, *load_rules("recording.yml")], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_a_rule_reads_metrics_that_exist(rule: dict[str, str]) -> None:
    assert names_in(rule["expr"]) - METRICS - RECORDED == set()


def test_prometheus_and_the_service_read_the_same_token_file() -> None:
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = [each for each in config["scrape_configs"] if each["job_name"] == "vidette"]
    names = {f"{ENV_PREFIX}{key.replace('.', '__')}".lower() for key, _ in leaves()}
    path = job["authorization"]["credentials_file"]
    assert path.startswith("/run/secrets/")
    assert path.removeprefix("/run/secrets/") in names
